"""Promises of the package as a whole: what is public, what loads, and how the house grows."""

from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mulfree

ROOT = Path(__file__).parents[1]


def test_version_is_the_changelogs_newest() -> None:
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] in ("Unreleased", mulfree.__version__)


def test_public_surface() -> None:
    """Names that users rely on: taking one away is a decision, not an accident."""
    promised = {
        "functional": {"adder2d", "adder_linear"},
        "nn": {"Adder2d", "AdderLinear"},
        "models": {
            "convert",
            "create_model",
            "list_models",
            "load_model",
            "load_published",
            "save_weights",
        },
        "training": {"AdaptiveLocalLR", "TrainingMethod"},
        "cost": {"count"},
        "data": {"BatchLoader", "DataConfig", "load"},
        "quantization": {"quantize"},
        "export": {"save", "to_onnx"},
        "inspection": {"plot_features", "features", "fit", "inspect_weights", "plot_weights"},
        "runtime": {"Session", "load", "save"},
        "errors": {
            "ArtifactError",
            "BackendUnavailableError",
            "ConfigError",
            "DTypeError",
            "DataError",
            "MulfreeError",
            "ShapeError",
            "TrainingError",
        },
    }
    for submodule, names in promised.items():
        module = getattr(mulfree, submodule)
        assert names <= set(dir(module)), submodule
        assert submodule in dir(mulfree)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'mulfree' has no attribute 'trainning'"):
        mulfree.trainning  # noqa: B018


def _modules() -> list[str]:
    found = pkgutil.walk_packages(mulfree.__path__, "mulfree.")
    return sorted(m.name for m in found if not m.name.endswith((".__main__", "._core")))


def test_every_module_imports_without_a_warning() -> None:
    assert len(_modules()) > 40
    for name in _modules():
        importlib.import_module(name)


@pytest.mark.parametrize(
    "module", ["mulfree", "mulfree.errors", "mulfree._native", "mulfree.cli.main"]
)
def test_light_modules_load_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_readme_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {"__name__": "readme"})


def test_readme_has_exactly_two_set_up_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(re.findall(r"^python3 -m venv \.venv && ", text, re.MULTILINE)) == 2


@pytest.mark.processes
@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.stem)
def test_examples_run(example: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(example)], check=True, cwd=tmp_path, timeout=300)
