"""Parts of the fuzzers: random choices, trees of values, and a watch on side effects."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mulfree.errors import MAX_MESSAGE, MulfreeError

# As Python reports them.
_PROCESSES = ("os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "subprocess.Popen")


def chosen(rng: np.random.Generator, items: Any) -> Any:
    """One of `items`."""
    return items[int(rng.integers(len(items)))]


def containers(tree: Any) -> Iterator[Any]:
    """All tables and lists in `tree`, itself included."""
    if isinstance(tree, dict | list):
        yield tree
        for item in tree.values() if isinstance(tree, dict) else tree:
            yield from containers(item)


def copied(tree: Any) -> Any:
    """A copy of tables and lists that shares the values in them."""
    if isinstance(tree, dict):
        return type(tree)((key, copied(value)) for key, value in tree.items())
    if isinstance(tree, list):
        return [copied(value) for value in tree]
    return tree


def check_line(error: MulfreeError) -> None:
    """Assert that the message of an error is one printable line."""
    text = str(error)
    if not text.isprintable() or len(text) > MAX_MESSAGE:
        raise AssertionError(f"no line: {text!r}") from error


class Watch:
    """Notices processes that are started and files that are opened for writing outside a folder.

    A hook of Python's stays as long as the process; it looks only while this is entered.
    """

    def __init__(self, folder: Path) -> None:
        self._places = (str(folder), os.devnull)
        self._active = False
        self._seen: list[str] = []
        sys.addaudithook(self._notice)

    def _notice(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._active:
            return
        if event in _PROCESSES:
            self._seen.append(f"{event} {arguments}")
        elif event == "open" and isinstance(arguments[0], str | bytes):
            path, _, flags = arguments
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes and not os.fsdecode(path).startswith(self._places):
                self._seen.append(f"{event} {path!r}")

    def __enter__(self) -> None:
        self._active = True

    def __exit__(self, *error: object) -> None:
        self._active = False
        assert self._seen == [], self._seen
