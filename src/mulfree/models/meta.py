"""Networks on the meta device, which have shapes and no values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

# In-place functions of random values, of tensors and of `torch.nn.init`.
_RANDOM = frozenset({"kaiming_uniform_", "normal_", "trunc_normal_", "uniform_"})


class _SkippedInitialisation(TorchFunctionMode):
    """Leave the tensors of the meta device alone that are to be filled with random values."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in _RANDOM:
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor
        return func(*args, **kwargs)


@contextmanager
def skipped_initialisation() -> Iterator[None]:
    """Leave out random initialisation if the default device is the meta device.

    It draws nothing there, and torch computes its shapes in Python: two thirds of the time in which
    a network is built.
    """
    if torch.get_default_device().type != "meta":
        yield
        return
    with _SkippedInitialisation():
        yield
