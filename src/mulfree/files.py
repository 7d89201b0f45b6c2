"""Atomic writing, locking and safe reading of files."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from mulfree.errors import ConfigError, quoted

try:
    import fcntl
except ImportError:  # pragma: no cover
    # Windows has no locks of this kind.
    fcntl = None  # type: ignore[assignment]

_NEW_FILE = 0o666
_LOCK = ".lock"
# Errors of file systems without locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
# Descriptors of the locks of this process.
_held: set[int] = set()
_PERMISSIONS = 0o777
"""Mode bits kept on replacement: all but set-user-id, which new content must not inherit."""


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the file at `path` by one with `content`, in one step.

    A process killed at any moment leaves the old or the new file, never a part of one. With
    several writers the last content stays. Links are followed and permissions kept. Devices and
    pipes are written to, not replaced.

    Raises:
        OSError: The content cannot be written, for example because the disk is full; the old
            file is unchanged.
    """
    target = _target(path)
    try:
        state = _state(target)
        if state is not None and not stat.S_ISREG(state.st_mode):
            _write_through(target, content)
            return
        _replace(target, content, state)
    except OSError as error:
        if error.errno is None:
            raise
        # Errors of an open file lack its final name.
        raise OSError(error.errno, error.strerror, str(path)) from error


def check_writable(path: Path) -> None:
    """Check that `path` can be written, before a long computation.

    Raises:
        OSError: `write_atomically` cannot write to `path`.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    try:
        target = _target(path)
        state = _state(target)
        if state is None or stat.S_ISREG(state.st_mode):
            with tempfile.TemporaryFile(dir=target.parent):
                pass
        elif not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        error.filename = str(path)
        raise


def remove_parts(directory: Path) -> None:
    """Remove the temporary files that killed writers left in `directory`."""
    for part in directory.glob(".*.part"):
        with contextlib.suppress(OSError):
            part.unlink()


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Lock a directory for this process; the lock ends with the process, also if it is killed.

    No lock is taken on file systems without locks, such as some network ones, and on Windows.

    Raises:
        BlockingIOError: It is locked already, possibly by this process; names the process.
        OSError: There is no such directory, or the lock cannot be written in it.
    """
    path = directory / _LOCK
    descriptor = _lock(path)
    try:
        yield
    finally:
        if descriptor is not None and descriptor in _held:
            _held.remove(descriptor)
            # Removed while held: the next process creates a new one. The directory may have been
            # replaced by another run's.
            with contextlib.suppress(OSError):
                if os.path.samestat(os.fstat(descriptor), path.lstat()):
                    path.unlink()
            os.close(descriptor)


def check_regular(path: Path) -> None:
    """Refuse anything but a regular file: reading a pipe or a device may never end.

    Raises:
        OSError: It does not exist, or is neither a file nor a link to one.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "Not a regular file", str(path))


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; never blocks, as nothing else is opened.

    Raises:
        OSError: It does not exist, cannot be read, or is not a file.
    """
    check_regular(path)
    # Checked again without blocking: a pipe may have replaced the file in between.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Not a regular file", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: Path, limit: int | None = None) -> bytes:
    """Read a regular file of at most `limit` bytes.

    Raises:
        OSError: It does not exist, cannot be read, is not a file, or is too large.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        # Files of the kernel, as in /proc, have size 0.
        content = file.read() if limit is None else file.read(limit + 1)
    if limit is not None and max(size, len(content)) > limit:
        raise OSError(errno.EFBIG, f"Larger than {limit} bytes", str(path))
    return content


def _lock(path: Path) -> int | None:
    """Return a descriptor that holds the lock of a file; None without locks."""
    if fcntl is None:
        return None
    while True:
        descriptor = os.open(
            path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, _NEW_FILE
        )
        try:
            state = os.fstat(descriptor)
            if not stat.S_ISREG(state.st_mode) or state.st_nlink > 1:
                raise OSError(errno.EINVAL, "Not a lock", str(path))
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another process may have removed it in between.
            if os.path.samestat(state, path.lstat()):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, str(os.getpid()).encode(), 0)
                _held.add(descriptor)
                return descriptor
        except FileNotFoundError:
            pass
        except BlockingIOError as error:
            owner = os.pread(descriptor, 20, 0).decode("ascii", "replace") or "unknown"
            raise BlockingIOError(error.errno, f"process {owner}", str(path)) from None
        except OSError as error:
            if error.errno in _NO_LOCKS:
                path.unlink(missing_ok=True)
                return None
            raise
        finally:
            if descriptor not in _held:
                os.close(descriptor)


def _forget_locks() -> None:
    """Drop inherited locks in a forked process: they belong to the parent."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if fcntl is not None:
    os.register_at_fork(after_in_child=_forget_locks)


def expanded(path: str) -> str:
    """Return a path with `~` at its beginning replaced by the home directory.

    Raises:
        ValueError: It is empty, or no file can have such a name.
    """
    if not path.strip() or "\0" in path:
        raise ValueError(f"no file can be called {path!r}")
    os.fsencode(path)
    return os.path.expanduser(path)


def expand_paths(function: str, config: object, *names: str) -> None:
    """Expand `~` in the paths of a frozen configuration, from its `__post_init__`.

    Args:
        function: Name of the configuration in an error.
        config: A frozen dataclass.
        names: Fields that are paths; None is left alone.

    Raises:
        ConfigError: A path is empty or no valid file name.
    """
    for name in names:
        value = getattr(config, name)
        if value is None:
            continue
        try:
            object.__setattr__(config, name, expanded(value))
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"{function}: `{name}` must be a path, got {quoted(value)}"
            ) from error


def _target(path: Path) -> Path:
    """Return `path` with links followed."""
    # A link to itself is an error of the later system call.
    with contextlib.suppress(OSError, RuntimeError):
        return path.resolve()
    return path


def _state(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _write_through(path: Path, content: bytes) -> None:
    # Neither created nor truncated: a regular file that replaced it stays unchanged.
    descriptor = os.open(path, os.O_WRONLY)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def _keep_access(path: Path, old: os.stat_result) -> None:
    """Copy the owner, where permitted, and the permissions of another file."""
    new = path.stat()
    if hasattr(os, "chown") and (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        with contextlib.suppress(OSError):
            os.chown(path, old.st_uid, old.st_gid)
    path.chmod(old.st_mode & _PERMISSIONS)


def _replace(path: Path, content: bytes, old: os.stat_result | None) -> None:
    # A name of this call alone; O_EXCL does not follow a link planted there.
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    descriptor = os.open(part, flags, _NEW_FILE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            if old is not None:
                _keep_access(part, old)
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
