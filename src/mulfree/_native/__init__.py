"""The compiled kernels on arrays, independent of torch."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

from mulfree.errors import BackendUnavailableError

MAX_THREADS = 1024
"""Threads that one call of a kernel may use."""


@functools.cache
def core() -> ModuleType:
    """Import the extension module with all native kernels.

    Raises:
        BackendUnavailableError: It was not built for this Python or machine.
    """
    try:
        return importlib.import_module("mulfree._native._core")
    except ImportError as error:
        raise BackendUnavailableError(
            "mulfree: `_native` must be built for this Python (pip install mulfree), "
            f"got {str(error)!r}"
        ) from error
