"""The compiled kernels: arrays in, arrays out. Nothing here loads torch."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

from mulfree.errors import BackendUnavailableError


@functools.cache
def core() -> ModuleType:
    """The extension module with the native kernels of all operators.

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
