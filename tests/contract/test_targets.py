from __future__ import annotations

from pathlib import Path

import pytest
from tests.runtime.graphs import tiny

from mulfree import export, models, runtime
from mulfree.cli.main import main
from mulfree.errors import ConfigError

NAMES = (*export.TARGETS, "listing")


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder and a line: the toy target `listing`."""
    folder = str(Path(__file__).parent / "targets")
    monkeypatch.setattr(export, "__path__", [*export.__path__, folder])
    monkeypatch.setattr(export, "TARGETS", NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_quantised_network_in_a_file(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="needs mulfree[onnx]")
    target = export.get_target(name)
    path = tmp_path / f"network{target.SUFFIX}"
    assert export.target_of(path) is target
    ends = target.write(tiny(), path)
    assert ends
    assert "\n" not in ends
    assert path.stat().st_size > 0
    with pytest.raises(OSError, match="No such file or directory"):
        target.write(tiny(), tmp_path / "missing" / path.name)


def test_the_command_writes_a_new_target(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runtime.save(tiny(), tmp_path / "tiny.mulfree")
    for name, options in (("net.txt", []), ("net", ["--to", "listing"])):
        path = tmp_path / name
        assert main(["export", str(tmp_path / "tiny.mulfree"), "-o", str(path), *options]) == 0
        assert path.read_text() == "adder adder2d\nmean mean\nfc linear\n"
        assert capsys.readouterr().out == f"{path}: 3 nodes, 0.00 MB\n"
    models.save_weights(models.create_model("lenet5_bn"), tmp_path / "net.safetensors")
    words = ["export", str(tmp_path / "net.safetensors"), "-o", str(tmp_path / "x.txt")]
    assert main(words) == 2
    assert "listing: `model` must be quantised, got LeNet5" in capsys.readouterr().err


def test_an_unknown_target_lists_the_targets(tmp_path: Path) -> None:
    names = ", ".join(sorted(export.TARGETS))
    with pytest.raises(ConfigError, match=f"^export: `--to` must be one of {names}, got 'c'"):
        export.get_target("c")
    names = ", ".join(export.TARGETS)
    line = f"^export: `--to` must be one of {names}, or `--output` must end in .*.onnx .*.txt, got"
    with pytest.raises(ConfigError, match=line):
        export.target_of(tmp_path / "x.c")
