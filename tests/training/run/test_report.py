from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from mulfree.tasks import get_task
from mulfree.training.run import report
from mulfree.training.run.report import write_csv, write_curves, write_json


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
        write_curves(tmp_path / name, history, "test", get_task())
    one, two = ((tmp_path / name).read_bytes() for name in ("one.png", "two.png"))
    assert one == two
    assert one.startswith(b"\x89PNG")
    write_curves(tmp_path / "two.png", history[:1], "test", get_task())
    assert (tmp_path / "two.png").read_bytes() != one


def test_the_curves_of_a_teacher_are_in_the_same_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(report, "save", lambda figure, path: drawn.append(figure))
    names = ("accuracy", "teacher_accuracy", "agreement", "loss")
    history = [
        {"epoch": e}
        | {
            f"{part}_{name}": e / 10 + i
            for part in ("train", "test")
            for i, name in enumerate(names)
        }
        for e in (1, 2, 3)
    ]
    write_curves(Path(), history, "test", get_task())
    accuracy, agreement, loss = drawn[0].axes
    lines = {line.get_label(): line for line in accuracy.get_lines()}
    assert list(lines) == ["train", "test", "teacher train", "teacher test"]
    assert [line.get_linestyle() for line in lines.values()] == ["-", "--", "-", "--"]
    colours = [line.get_color() for line in lines.values()]
    assert colours[0] == colours[1] != colours[2] == colours[3]
    assert np.array(lines["teacher test"].get_ydata()) == pytest.approx([1.1, 1.2, 1.3])
    assert (agreement.get_ylabel(), loss.get_ylabel()) == ("agreement", "loss")
    assert [len(axes.get_lines()) for axes in (agreement, loss)] == [2, 2]
