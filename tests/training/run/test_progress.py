from __future__ import annotations

import pytest

from mulfree.training.run.progress import Display, decoding


def shown(show: bool) -> None:
    display = Display(show)
    display.start(40, 10)
    display.step(11, 2, 0.5)
    display.epoch("epoch 2/4 [done]")
    display.stop()
    display.stop()


def test_a_bar_shows_steps_and_prints_epochs_above(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    shown(True)
    out = capsys.readouterr().out
    assert "epoch 2  loss 0.5000" in out
    assert "11/40" in out
    assert "epoch 2/4 [done]\n" in out
    Display(True).stop()


@pytest.mark.parametrize(("show", "out"), [(True, "epoch 2/4 [done]\n"), (False, "")])
def test_elsewhere_a_line_per_epoch_or_nothing(
    show: bool, out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shown(show)
    assert capsys.readouterr().out == out


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
