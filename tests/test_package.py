"""Promises of the package as a whole: what is public, what loads, and how the house grows."""

from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mulfree
from mulfree import cost, models, operators

ROOT = Path(__file__).parents[1]

TOY_OPERATOR = """
from functools import partial
import torch
from torch import nn
from mulfree.opcounts import OpCounts
from mulfree.operators.operator import Operator, taps

class Toy2d(nn.Module):
    def __init__(self, i, o, kernel_size, stride=1, padding=0, dilation=1, groups=1, bias=True):
        super().__init__()
        conv = nn.Conv2d(i, o, kernel_size, stride, padding, dilation, groups, bias)
        self.weight, self.bias = conv.weight, conv.bias
        self.run = partial(
            torch.nn.functional.conv2d,
            stride=stride, padding=padding, dilation=dilation, groups=groups,
        )

    def forward(self, x):
        return self.run(x, self.weight, self.bias)

class ToyLinear(nn.Module):
    pass

OPERATOR = Operator(
    name="toy", function=torch.nn.functional.conv2d, reference=torch.nn.functional.conv2d,
    conv=Toy2d, linear=ToyLinear, count=lambda layer, i, o: OpCounts(xnor=taps(layer, o)),
)
"""


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
        "training": {"AdaptiveLocalLR", "TrainingTask"},
        "cost": {"count"},
        "data": {"BatchLoader", "DataConfig", "load"},
        "quantization": {"quantize"},
        "export": {"save", "to_onnx"},
        "inspection": {"feature_picture", "features", "fit", "inspect_weights", "weight_picture"},
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


def test_operator_is_a_folder_and_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "__init__.py").write_text(TOY_OPERATOR)
    monkeypatch.setattr(operators, "__path__", [*operators.__path__, str(tmp_path)])
    monkeypatch.setattr(operators, "OPERATORS", (*operators.OPERATORS, "toy"))
    network = models.create_model("resnet20", operator="toy", num_classes=4)
    assert network(torch.randn(2, 3, 16, 16)).shape == (2, 4)
    total = cost.count(network, (3, 32, 32)).total
    # All but the first and the last layer: 40.81 M - 0.443 M pairs of input and weight.
    assert round(total.cost.xnor / 1e6, 2) == 40.37


def test_readme_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {"__name__": "readme"})


def test_readme_has_exactly_two_set_up_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(re.findall(r"^python3 -m venv \.venv && ", text, re.MULTILINE)) == 2


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.stem)
def test_examples_run(example: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(example)], check=True, cwd=tmp_path, timeout=300)
