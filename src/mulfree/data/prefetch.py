"""Works out the items of an iterator ahead of their use, in a thread of its own."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class _Raised:
    """What the iterator raised in place of an item; StopIteration at its end."""

    error: BaseException


_Ready = SimpleQueue[T | _Raised]


class Prefetcher(Iterator[T]):
    """The items of an iterator in its order, up to `depth` of them made before they are asked for.

    What the iterator raises is raised where the item would have been handed out. The thread ends
    with the iterator, on `close`, when this object is no longer referred to, and before the
    interpreter exits; each of them waits for the item in the making.

    Args:
        items: Used by the thread alone from now on.
        depth: Items made and not yet asked for, the one in the making included; at least 1.
    """

    def __init__(self, items: Iterator[T], depth: int) -> None:
        self._ready: _Ready[T] = SimpleQueue()
        self._free = threading.Semaphore(depth)
        stopped = threading.Event()
        # The thread must not know this object, or nobody could drop it.
        thread = threading.Thread(
            target=_fill,
            args=(items, self._ready, self._free, stopped),
            name="mulfree-prefetch",
            daemon=True,
        )
        # Unlike `__del__`, also runs at exit, before a daemon thread is frozen wherever it is.
        self._finish = weakref.finalize(self, _stop, thread, self._free, stopped)
        thread.start()

    def __next__(self) -> T:
        if not self._finish.alive:
            raise StopIteration
        item = self._ready.get()
        if isinstance(item, _Raised):
            self.close()
            try:
                raise item.error
            finally:
                del item  # the error's traceback refers to this frame
        self._free.release()
        return item

    def close(self) -> None:
        """End the thread; no item follows. Closing again does nothing."""
        self._finish()


def _fill(
    items: Iterator[T], ready: _Ready[T], free: threading.Semaphore, stopped: threading.Event
) -> None:
    try:
        # A place is waited for before the item is made: no more than `depth` take up memory.
        while free.acquire() and not stopped.is_set():
            ready.put(next(items))
    except BaseException as error:
        ready.put(_Raised(error))


def _stop(thread: threading.Thread, free: threading.Semaphore, stopped: threading.Event) -> None:
    stopped.set()
    free.release()
    # The collector may drop a Prefetcher while it runs in the Prefetcher's own thread.
    if thread is not threading.current_thread():
        thread.join()
