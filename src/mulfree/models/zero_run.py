"""Observed forward pass on zeros that restores the network."""

from __future__ import annotations

import contextlib
import functools
import random
import re
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from mulfree.errors import BackendUnavailableError, ConfigError, ShapeError, quoted

ARITHMETIC = re.compile(
    r"convolution|adder2d|_cdist_forward|_euclidean_dist|trilinear|dot_product|attention"
    r"|transformer|(^|_)(addmm|addbmm|baddbmm|bmm|mm|addmv|mv|addr|dot|vdot|linear|matmul|fft)(_|$)"
)
"""Operations of torch's dispatcher that multiply or compare tensors, under all their names."""

_CONTAINERS = (dict, OrderedDict, list, set)


class Observer:
    """Observer of the calls in a forward pass; subclasses override its methods.

    Attributes:
        stack: Modules whose forward is running, the innermost last.
        function: Name of the outermost running torch function; None between functions.
        number: Number of torch functions called so far.
    """

    def __init__(self) -> None:
        self.stack: list[nn.Module] = []
        self.function: str | None = None
        self.number = 0

    def leave(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        """Called after the forward of `module`; `stack` holds its parents."""

    def operation(self, name: str, args: tuple[Any, ...], output: Any) -> None:
        """Called after an operation of the dispatcher, such as `convolution` or `mm`."""


_Observer = TypeVar("_Observer", bound=Observer)


def zero_run(
    caller: str, model: nn.Module, input_size: Sequence[int], observer: Callable[[], _Observer]
) -> _Observer:
    """Run `model` once on zeros, in evaluation mode and without gradients.

    Only shapes are computed if the network allows it. Parameters, buffers, training flags, random
    states and the attributes of all modules, including lists and dictionaries, are restored;
    objects of the user's own that `forward` changes are not.

    Args:
        caller: Name of the function in errors.
        model: Any module with a float input `[1, *input_size]`.
        input_size: Shape of one input without the batch.
        observer: Creates the observer; called again if the run on shapes fails.

    Returns:
        The observer of the run.

    Raises:
        ConfigError: The model is not initialised.
        ShapeError: `input_size` is not a shape, or the model fails on such an input.
    """
    size = _checked_size(caller, input_size)
    for name, parameter in model.named_parameters():
        if nn.parameter.is_lazy(parameter):
            raise ConfigError(
                f"{caller}: `model` must be initialised, got a lazy parameter "
                f"{name}; call it once first"
            )
    # A user's forward may raise anything.
    with contextlib.suppress(Exception):
        return _observed(_run_on_meta, model, size, observer())
    try:
        return _observed(_run, model, size, observer())
    except BackendUnavailableError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ShapeError(
            f"{caller}: `input_size` must fit {type(model).__name__}, got {size}: {reason}"
        ) from error


def tensors_in(value: object) -> Iterator[Tensor]:
    """Tensors in nested tuples, lists and dicts, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        yield from tensors_in(tuple(value.values()))


def _checked_size(caller: str, input_size: Sequence[int]) -> tuple[int, ...]:
    try:
        size = tuple(input_size)
    except TypeError:
        size = ()
    if not size or any(not isinstance(side, int) or side < 1 for side in size):
        raise ShapeError(
            f"{caller}: `input_size` must be the positive sizes of one input without the "
            f"batch, such as (3, 32, 32), got {quoted(input_size)}"
        )
    return size


def _observed(
    run: Callable[[nn.Module, tuple[int, ...]], None],
    model: nn.Module,
    size: tuple[int, ...],
    observer: _Observer,
) -> _Observer:
    with _restored(model):
        model.eval()
        for module in model.modules():
            vars(module)["forward"] = _reporting(module, observer)
        with torch.no_grad(), _Functions(observer), _Operations(observer):
            run(model, size)
    return observer


def _run_on_meta(model: nn.Module, size: tuple[int, ...]) -> None:
    """Run on the meta device; fails if `forward` reads values or creates tensors elsewhere."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    image = torch.empty((1, *size), dtype=_dtype(model), device="meta")
    on_meta = {name: tensor.to("meta") for name, tensor in tensors.items()}
    torch.func.functional_call(model, on_meta, (image,))


def _run(model: nn.Module, size: tuple[int, ...]) -> None:
    """Run on a zero image, with copies of the buffers, which `forward` may modify."""
    parameter = next(model.parameters(), None)
    device = parameter.device if parameter is not None else torch.device("cpu")
    buffers = {name: tensor.clone() for name, tensor in model.named_buffers()}
    image = torch.zeros((1, *size), dtype=_dtype(model), device=device)
    torch.func.functional_call(model, buffers, (image,))


def _dtype(model: nn.Module) -> torch.dtype:
    floating = (p.dtype for p in model.parameters() if p.dtype.is_floating_point)
    return next(floating, torch.get_default_dtype())


@contextlib.contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Restore attributes, training flags and random states on exit; disables compilation."""
    modules = list(model.modules())
    modes = [module.training for module in modules]
    attributes = [(vars(module), dict(vars(module))) for module in modules]
    contents = [
        (value, value.copy())
        for _, saved in attributes
        for value in saved.values()
        if type(value) in _CONTAINERS
    ]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 (global state)
    # Compiled parts exist only if the compiler was imported.
    compiler = "torch._dynamo" in sys.modules
    eager = torch.compiler.set_stance("force_eager") if compiler else contextlib.nullcontext()
    try:
        with torch.random.fork_rng(devices=sorted(d.index for d in devices)), eager:
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        for current, saved in attributes:
            current.clear()
            current.update(saved)
        for container, content in contents:
            container.clear()
            if isinstance(container, list):
                container.extend(content)
            else:
                container.update(content)
        for module, training in zip(modules, modes, strict=True):
            module.training = training


def _reporting(module: nn.Module, observer: Observer) -> Callable[..., Any]:
    """Wrap the forward of `module` to report to `observer`, also for direct calls."""
    forward = module.forward

    @functools.wraps(forward)
    def reporting(*args: Any, **kwargs: Any) -> Any:
        observer.stack.append(module)
        try:
            output = forward(*args, **kwargs)
        finally:
            observer.stack.pop()
        observer.leave(module, args, kwargs, output)
        return output

    return reporting


class _Functions(TorchFunctionMode):
    """Mode that records the name of the running torch function."""

    def __init__(self, observer: Observer) -> None:
        super().__init__()
        self.observer = observer

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        before = self.observer.function
        # `a @ b` is `Tensor.__matmul__`.
        self.observer.function = before or getattr(func, "__name__", str(func)).strip("_")
        self.observer.number += before is None
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.observer.function = before


class _Operations(TorchDispatchMode):
    """Mode that reports every operation of the dispatcher."""

    def __init__(self, observer: Observer) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.observer = observer

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        output = _batch_norm(func, args) or func(*args, **kwargs)
        if self.observer.stack:
            name = getattr(getattr(func, "overloadpacket", func), "__name__", str(func))
            self.observer.operation(name, (*args, *kwargs.values()), output)
        return output


def _batch_norm(func: Any, args: tuple[Any, ...]) -> tuple[Tensor, Tensor, Tensor] | None:
    """Outputs of a batch norm in evaluation on the meta device; None for all other calls.

    Torch computes their shapes in Python: most of the time of a run without values.
    """
    if func is not torch.ops.aten.native_batch_norm.default or not args[0].is_meta or args[5]:
        return None
    return torch.empty_like(args[0]), args[0].new_empty(0), args[0].new_empty(0)
