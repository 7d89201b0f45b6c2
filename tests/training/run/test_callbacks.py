from __future__ import annotations

import signal
import threading

import pytest

from mulfree.training.run.callbacks import StopOnSignal


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_interrupts(number: signal.Signals) -> None:
    asked: list[bool] = []
    before = signal.getsignal(number)
    with StopOnSignal(lambda: asked.append(True)):
        signal.raise_signal(number)
        assert asked == [True]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert asked == [True]
    assert signal.getsignal(number) is before


def test_in_a_thread_the_handlers_stay() -> None:
    before = signal.getsignal(signal.SIGINT)
    inside = []

    def work() -> None:
        with StopOnSignal(lambda: None):
            inside.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [before]
