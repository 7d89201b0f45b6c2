"""Networks inside the wrappers of torch."""

from __future__ import annotations

import sys

from torch import nn

# Module, class and attribute of each wrapper. The module of a model's class is imported already,
# so none is imported here: compiler and distributed package are slow to import.
_WRAPPERS = (
    ("torch._dynamo.eval_frame", "OptimizedModule", "_orig_mod"),
    ("torch.nn.parallel.data_parallel", "DataParallel", "module"),
    ("torch.nn.parallel.distributed", "DistributedDataParallel", "module"),
    ("torch.optim.swa_utils", "AveragedModel", "module"),
    ("torch.distributed.fsdp", "FullyShardedDataParallel", "_fsdp_wrapped_module"),
)


# Wrappers that keep references to the parameters, to average or gather them.
_DISTRIBUTED = ("DistributedDataParallel", "FullyShardedDataParallel")


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network inside nested `torch.compile`, parallel and averaging wrappers.

    Args:
        model: Any module; one without wrapper is returned unchanged.
    """
    while (wrapper := _wrapper(model)) is not None:
        model = getattr(model, wrapper[1])
    return model


def is_distributed(model: nn.Module) -> bool:
    """Return whether `model` is a wrapper of distributed training."""
    wrapper = _wrapper(model)
    return wrapper is not None and wrapper[0] in _DISTRIBUTED


def _wrapper(model: nn.Module) -> tuple[str, str] | None:
    """Class name of a wrapper and its attribute with the network; None for other modules."""
    for module, name, attribute in _WRAPPERS:
        wrapper = getattr(sys.modules.get(module), name, None)
        if wrapper is not None and isinstance(model, wrapper):
            return name, attribute
    return None
