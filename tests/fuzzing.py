"""The common part of the fuzzers: mutations of bytes, a watch over the process, a command line."""

from __future__ import annotations

import argparse
import faulthandler
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mulfree.errors import MAX_MESSAGE, MulfreeError

Random = np.random.Generator

_HANG_SECONDS = 60
# Audit events.
_REFUSED = (
    *("os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "pty.spawn"),
    *("socket.connect", "subprocess.Popen"),
)
_CHANGES = ("os.chmod", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink")


def chosen(rng: Random, items: Any) -> Any:
    """One of `items`."""
    return items[int(rng.integers(len(items)))]


def truncated(rng: Random, content: bytes) -> bytes:
    return content[: int(rng.integers(len(content)))]


def extended(rng: Random, content: bytes) -> bytes:
    return content + rng.bytes(int(rng.integers(1, 64)))


def flipped(rng: Random, content: bytes) -> bytes:
    """1 to 8 bits anywhere."""
    data = bytearray(content)
    for position in rng.integers(8 * len(data), size=int(rng.integers(1, 9))):
        data[position // 8] ^= 1 << (position % 8)
    return bytes(data)


def overwritten(rng: Random, content: bytes) -> bytes:
    """A stretch of other bytes: noise, all 0, all 255, or one from elsewhere in the file."""
    data = bytearray(content)
    size = int(rng.integers(1, 65))
    start, other = rng.integers(len(data), size=2)
    moved = bytes(data[other : other + size])
    data[start : start + size] = chosen(rng, [rng.bytes(size), bytes(size), b"\xff" * size, moved])
    return bytes(data)


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


def disturbed(
    rng: Random, tree: dict[str, Any], other: Callable[[Any], Any], names: Sequence[Any]
) -> dict[str, Any]:
    """A copy with 1 to 3 other values, names or places.

    Args:
        rng: Decides them.
        tree: Tables and lists.
        other: Gives a value in place of another one.
        names: Names that are added.
    """
    tree = copied(tree)
    for _ in range(int(rng.integers(1, 4))):
        place = chosen(rng, list(containers(tree)))
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            continue
        key, second = chosen(rng, keys), chosen(rng, keys)
        match int(rng.integers(6)):
            case 0 | 1:
                place[key] = other(place[key])
            case 2:
                del place[key]
            case 3:
                place[key], place[second] = place[second], place[key]
            case 4 if isinstance(place, dict):
                place[chosen(rng, [*names, f"{key}x", 7, "", None])] = other(None)
            case _:
                source = chosen(rng, list(containers(tree)))
                found = list(source.values()) if isinstance(source, dict) else source
                place[key] = copied(chosen(rng, [source, *found]))
    return tree


def check_line(error: MulfreeError) -> None:
    """Assert that the message of an error is one printable line."""
    text = str(error)
    if not text.isprintable() or not 20 < len(text) <= MAX_MESSAGE:
        raise AssertionError(f"no line: {text!r}") from error


def rounds(number: int, every: int = 1) -> Iterator[int]:
    """Numbers of mutations; `every` so many of them have a minute, or the process ends."""
    for index in range(number):
        if index % every == 0:
            faulthandler.dump_traceback_later(_HANG_SECONDS, exit=True)
        yield index
    faulthandler.cancel_dump_traceback_later()


class Watch:
    """Context that asserts: no process, no connection, no change outside a folder.

    The audit hook stays as long as the process; it looks only while the context is entered.
    """

    def __init__(self, folder: Path) -> None:
        self._places = (str(folder), os.devnull)
        self._active = False
        self._seen: list[str] = []
        sys.addaudithook(self._notice)

    def _notice(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._active:
            return
        if event in _REFUSED:
            self._seen.append(f"{event} {arguments}")
        elif event in ("open", *_CHANGES) and isinstance(arguments[0], str | bytes):
            path = os.fsdecode(arguments[0])
            if event == "open":
                changes = arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            else:
                # Relative names are below an open folder, as `shutil.rmtree` removes them.
                changes = os.path.isabs(path)
            if changes and not os.path.abspath(path).startswith(self._places):
                self._seen.append(f"{event} {path!r}")

    def __enter__(self) -> None:
        self._active = True

    def __exit__(self, *error: object) -> None:
        self._active = False
        seen, self._seen = self._seen, []
        assert seen == [], seen


def main(
    fuzz: Callable[..., Counter[str]], subject: str, mutations: int = 20_000, **options: Any
) -> None:
    """Run a fuzzer from the command line; `options` are its own ones with their defaults."""
    parser = argparse.ArgumentParser(description=f"Damage {subject} at random.")
    for name, default in {"mutations": mutations, "seed": 0, **options}.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        outcomes = fuzz(folder=Path(folder), **vars(parser.parse_args()))
    print(dict(sorted(outcomes.items())), f"{time.perf_counter() - begin:.0f} s")
