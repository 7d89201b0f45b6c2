from __future__ import annotations

from pathlib import Path

from mulfree.training.report import write_csv, write_curves, write_json


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    write_csv(path, [{"epoch": 1, "loss": 0.1}, {"epoch": 2, "loss": 1e-7}])
    assert path.read_text() == "epoch,loss\n1,0.1\n2,1e-07\n"
    write_csv(path, [])
    assert path.read_text() == ""


def test_json(tmp_path: Path) -> None:
    write_json(tmp_path / "metrics.json", {"a": None, "b": 0.5})
    assert (tmp_path / "metrics.json").read_text() == '{\n  "a": null,\n  "b": 0.5\n}\n'


def test_curves_are_the_same_for_the_same_history(tmp_path: Path) -> None:
    history = [
        {"epoch": e, "train_loss": 1 / e, "test_loss": 2 / e, "train_accuracy": 0.5}
        for e in (1, 2, 3)
    ]
    for name in ("one.png", "two.png"):
        write_curves(tmp_path / name, history, "test")
    one, two = ((tmp_path / name).read_bytes() for name in ("one.png", "two.png"))
    assert one == two
    assert one.startswith(b"\x89PNG")
    write_curves(tmp_path / "two.png", history[:1], "test")
    assert (tmp_path / "two.png").read_bytes() != one
