"""Vision networks without multiplications: train, distil, scale, quantise and deploy them.

Importing this package loads no torch; its submodules are loaded when first used.
"""

from __future__ import annotations

import importlib
from types import ModuleType

__version__ = "0.1.0"

_SUBMODULES = (
    "cost",
    "data",
    "errors",
    "export",
    "functional",
    "inspection",
    "models",
    "nn",
    "operators",
    "quantization",
    "runtime",
    "training",
)

__all__ = ["__version__", *_SUBMODULES]


def __getattr__(name: str) -> ModuleType:
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_SUBMODULES})
