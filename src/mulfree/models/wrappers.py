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


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside `torch.compile`, parallel and averaging wrappers, however nested.

    Args:
        model: Any module; one that is no wrapper is returned as it is.
    """
    while (attribute := _attribute(model)) is not None:
        model = getattr(model, attribute)
    return model


def _attribute(model: nn.Module) -> str | None:
    """The attribute that holds what `model` wraps; None if it is no wrapper."""
    for module, name, attribute in _WRAPPERS:
        wrapper = getattr(sys.modules.get(module), name, None)
        if wrapper is not None and isinstance(model, wrapper):
            return attribute
    return None
