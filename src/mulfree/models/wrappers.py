"""The network inside the wrappers that torch puts around one."""

from __future__ import annotations

import sys

from torch import nn

# Module, class and attribute of each wrapper. A model can only be of a class whose module is
# imported already, so that none is imported here: compiler and distributed package are slow to.
_WRAPPERS = (
    ("torch._dynamo.eval_frame", "OptimizedModule", "_orig_mod"),
    ("torch.nn.parallel.data_parallel", "DataParallel", "module"),
    ("torch.nn.parallel.distributed", "DistributedDataParallel", "module"),
    ("torch.optim.swa_utils", "AveragedModel", "module"),
    ("torch.distributed.fsdp", "FullyShardedDataParallel", "_fsdp_wrapped_module"),
)


# These hold on to the parameters that they were given, to average or gather them.
_DISTRIBUTED = ("DistributedDataParallel", "FullyShardedDataParallel")


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside `torch.compile`, parallel and averaging wrappers, however nested.

    Args:
        model: Any module; one that is no wrapper is returned as it is.
    """
    while (wrapper := _wrapper(model)) is not None:
        model = getattr(model, wrapper[1])
    return model


def is_distributed(model: nn.Module) -> bool:
    """Return whether `model` is the wrapper of a network that several processes train."""
    wrapper = _wrapper(model)
    return wrapper is not None and wrapper[0] in _DISTRIBUTED


def _wrapper(model: nn.Module) -> tuple[str, str] | None:
    """The class of a wrapper and its attribute with the network; None of any other module."""
    for module, name, attribute in _WRAPPERS:
        wrapper = getattr(sys.modules.get(module), name, None)
        if wrapper is not None and isinstance(model, wrapper):
            return name, attribute
    return None
