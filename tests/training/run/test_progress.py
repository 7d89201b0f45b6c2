from __future__ import annotations

import io

import pytest
from rich.console import Console

from mulfree.training.run.progress import Bar, Display, Lines, decoding, display


def test_a_bar_shows_steps_and_prints_epochs_above() -> None:
    text = io.StringIO()
    bar = Bar(Console(file=text, force_terminal=True, width=100, color_system=None))
    bar.start(40, 10)
    bar.step(11, 2, 0.5)
    bar.epoch("epoch 2/4 [done]")
    bar.stop()
    shown = text.getvalue()
    assert "epoch 2  loss 0.5000" in shown
    assert "11/40" in shown
    assert "epoch 2/4 [done]\n" in shown


def test_a_bar_that_never_started_can_be_stopped() -> None:
    bar = Bar(Console(file=io.StringIO(), force_terminal=True))
    bar.stop()
    bar.stop()


def test_elsewhere_a_line_per_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    lines = display("auto")
    assert isinstance(lines, Lines)
    lines.start(4, 0)
    lines.step(1, 1, 0.5)
    lines.epoch("epoch 1/1")
    lines.stop()
    assert capsys.readouterr().out == "epoch 1/1\n"


def test_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    silent = display("none")
    assert type(silent) is Display
    silent.start(4, 0)
    silent.step(1, 1, 0.5)
    silent.epoch("epoch 1/1")
    silent.stop()
    assert capsys.readouterr().out == ""


def test_decoding_is_shown_on_a_terminal_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def shown(show: bool) -> str:
        with decoding(show) as report:
            report(0.25)
            report(1.0)
        return capsys.readouterr().err

    assert shown(True) == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "decoding images" in shown(True)
    assert shown(False) == ""


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert isinstance(display("auto"), Bar)
