from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from mulfree.data import prefetch
from mulfree.data.prefetch import Prefetcher

SECONDS = 60  # for what must happen; never waited for where it does


def own_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "mulfree-prefetch"]


@pytest.mark.parametrize("depth", [1, 2, 7])
@pytest.mark.parametrize("length", [0, 1, 5])
def test_hands_out_all_items_in_order_and_ends(depth: int, length: int) -> None:
    items = Prefetcher(iter(range(length)), depth)
    assert list(items) == list(range(length))
    assert list(items) == []
    assert own_threads() == []


def test_works_in_a_thread_ahead_but_no_further_than_asked() -> None:
    made: list[int] = []
    makers: set[threading.Thread] = set()
    three_made = threading.Event()

    def numbers() -> Iterator[int]:
        for number in count():
            made.append(number)
            makers.add(threading.current_thread())
            if len(made) == 3:
                three_made.set()
            yield number

    items = Prefetcher(numbers(), depth=3)
    assert three_made.wait(SECONDS)  # without being asked
    for taken in range(1, 50):
        next(items)
        assert len(made) <= taken + 3
    assert makers == set(own_threads())
    items.close()
    assert len(made) <= 49 + 3


class _OddError(Exception):
    pass


def test_an_error_comes_where_the_item_would_have_come() -> None:
    def numbers() -> Iterator[int]:
        yield from (0, 1)
        raise _OddError("at 2")

    items = Prefetcher(numbers(), depth=5)
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(_OddError, match="at 2"):
        next(items)
    assert list(items) == []
    assert own_threads() == []


def test_no_thread_outlives_its_prefetcher() -> None:
    closed = Prefetcher(count(), depth=2)
    next(closed)
    assert len(own_threads()) == 1
    closed.close()
    closed.close()
    assert own_threads() == []
    assert list(closed) == []

    dropped = Prefetcher(count(), depth=2)
    assert len(own_threads()) == 1
    del dropped
    assert own_threads() == []


def test_may_be_dropped_by_its_own_thread() -> None:
    holder: list[Prefetcher[int]] = []
    held = threading.Event()

    def numbers() -> Iterator[int]:
        assert held.wait(SECONDS)
        holder.clear()
        yield 0

    holder.append(Prefetcher(numbers(), depth=1))
    (thread,) = own_threads()
    held.set()
    thread.join(SECONDS)
    assert not thread.is_alive()


def test_lets_the_interpreter_exit() -> None:
    code = (
        "import itertools, runpy, sys\n"
        "items = runpy.run_path(sys.argv[1])['Prefetcher'](itertools.count(), 2)\n"
        "print(next(items), flush=True)\n"
    )
    file = Path(prefetch.__file__)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(file)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")
