"""Prefetching of the items of an iterator, in a thread."""

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
    """Exception of the iterator in place of an item; StopIteration at its end."""

    error: BaseException


_Ready = SimpleQueue[T | _Raised]


class Prefetcher(Iterator[T]):
    """Items of an iterator in order, up to `depth` of them computed in advance.

    An exception of the iterator is raised in place of its item. The thread ends with the iterator,
    on `close`, on garbage collection of this object, and before the interpreter exits; each waits
    for the item in progress.

    Args:
        items: From now on used by the thread alone.
        depth: Prefetched items, including the one in progress; at least 1.
    """

    def __init__(self, items: Iterator[T], depth: int) -> None:
        self._ready: _Ready[T] = SimpleQueue()
        self._free = threading.Semaphore(depth)
        stopped = threading.Event()
        # A reference from the thread would keep this object alive.
        thread = threading.Thread(
            target=_fill,
            args=(items, self._ready, self._free, stopped),
            name="mulfree-prefetch",
            daemon=True,
        )
        # Unlike `__del__`, also runs at exit, before daemon threads are frozen.
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
        """End the thread and the iteration. Idempotent."""
        self._finish()


def _fill(
    items: Iterator[T], ready: _Ready[T], free: threading.Semaphore, stopped: threading.Event
) -> None:
    try:
        # The slot is acquired before the item is computed: at most `depth` items use memory.
        while free.acquire() and not stopped.is_set():
            ready.put(next(items))
    except BaseException as error:
        ready.put(_Raised(error))


def _stop(thread: threading.Thread, free: threading.Semaphore, stopped: threading.Event) -> None:
    stopped.set()
    free.release()
    # Garbage collection may run in the prefetch thread itself.
    if thread is not threading.current_thread():
        thread.join()
