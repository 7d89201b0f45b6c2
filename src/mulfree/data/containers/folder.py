"""Files below a folder, except hidden files and files of systems and editors."""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path

_SYSTEM_NAMES = frozenset(
    (
        *("__macosx", "icon\r", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini"),
        *("$recycle.bin", "system volume information", "lost+found", "@eadir"),
        *("#recycle", "@recycle", "#snapshot", "network trash folder", "temporary items"),
    )
)
"""Files and folders created by macOS, Windows, Linux and network disks, in lower case."""

_EDITOR_FILE = re.compile(r"~\$.*|.*~|#.*#", re.DOTALL)
"""Names of lock files, backups and autosaves."""

_HIDDEN = re.compile(r"\.(?!\.?(\\|$))")
"""Start of a hidden file's name; "..", also before a backslash, is not hidden."""


def is_hidden(part: str) -> bool:
    """Return whether a file or folder is hidden or created by an operating system."""
    return _HIDDEN.match(part) is not None or part.lower() in _SYSTEM_NAMES


def is_editor_file(name: str) -> bool:
    """Return whether a file is a lock file, backup or autosave of an editor."""
    return _EDITOR_FILE.fullmatch(name) is not None


def folder_files(path: Path) -> list[tuple[str, os.stat_result]]:
    """Paths below a folder with their states, sorted.

    Hidden files, files of systems and editors, and dangling links are skipped. Links are followed,
    as a user's own folder is trusted that far; each folder is visited once, so cycles end.

    Raises:
        OSError: A folder cannot be read.
    """
    found: list[tuple[str, os.stat_result]] = []
    seen: set[tuple[int, int]] = set()
    pending = [("", os.stat(path))]
    while pending:
        prefix, state = pending.pop()
        if (state.st_dev, state.st_ino) in seen:
            continue
        seen.add((state.st_dev, state.st_ino))
        for name in sorted(os.listdir(path / prefix)):
            inner = _state(path / prefix / name) if not is_hidden(name) else None
            if inner is not None:
                if stat.S_ISDIR(inner.st_mode):
                    pending.append((f"{prefix}{name}/", inner))
                elif not is_editor_file(name):
                    found.append((f"{prefix}{name}", inner))
    return sorted(found, key=lambda entry: entry[0])


def _state(path: Path) -> os.stat_result | None:
    """State of a file or folder, None for a dangling link."""
    try:
        return path.stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise
