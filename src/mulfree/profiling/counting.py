"""Count the operations, parameters, bytes and energy of any torch model."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mulfree.errors import BackendUnavailableError, ConfigError, ShapeError, choices_message
from mulfree.operators import Cost, Operator, operator_of
from mulfree.profiling.energy import energy, number_format
from mulfree.profiling.profile import LayerProfile, Profile, Totals

CONVENTIONS = ("exact", "paper")

# The operator that multiplies, which the others are compared with.
BASELINE = "conv2d"

# Torch's own list, closed: these scale and shift what they are given and have no operator.
_NORMALISATION = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
)


def count(
    model: nn.Module,
    input_size: Sequence[int],
    *,
    dtype: str = "fp32",
    convention: str = "exact",
    normalisation: bool = False,
    name: str | None = None,
) -> Profile:
    """Count what one forward pass of `model` on one input costs, layer by layer.

    Every operator declares its own cost: a convolution one multiplication and one addition for
    each pair of input and weight, an adder layer two additions. Biases are left out. A layer that
    is called several times counts each time. Operations outside of layers (pooling, activations,
    sums of branches, functions called in `forward`) are not counted, nor are layers of a kind
    that no operator knows; those that have parameters are listed in `Profile.uncounted`.

    The model is run once, in evaluation mode, without data where it allows that; its parameters,
    statistics and training flags stay as they are.

    Args:
        model: Any module that maps a float tensor `[N, *input_size]` to anything.
        input_size: Shape of one input without the batch, for example `(3, 32, 32)`.
        dtype: Number format for bytes and energy: a key of `ENERGY_45NM`.
        convention: "exact" counts every layer as what it is. "paper" counts the convolutions that
            a network of another operator keeps (its first and last layer) as that operator too,
            which is how the tables of 1912.13200 come to no multiplication at all.
        normalisation: Include one multiplication and one addition for every output of a
            normalisation layer (its inference form); the papers ignore them.
        name: What to call the model; its class by default.

    Returns:
        The profile, with one entry for every call of a layer that has an operator or parameters.

    Raises:
        ConfigError: `model` is not a module or not initialised, or an option is unknown.
        ShapeError: `input_size` is not a shape, or the model fails on such an input.

    References:
        AdderNet: Do We Really Need Multiplications in Deep Learning? arXiv 1912.13200, Tables 2, 3.
    """
    itemsize = number_format(dtype).itemsize
    if convention not in CONVENTIONS:
        raise ConfigError(choices_message("profiling.count", "convention", convention, CONVENTIONS))
    size = _checked_size(input_size)
    calls = _trace(_checked_model(model), size)
    stand_in = _other_operator(calls) if convention == "paper" else None

    layers = []
    seen: set[int] = set()
    repeats: Counter[int] = Counter()
    for call in calls:
        cost = call.cost(stand_in, normalisation)
        params = 0
        for parameter in call.layer.parameters(recurse=call.operator is not None):
            params += parameter.numel() if id(parameter) not in seen else 0
            seen.add(id(parameter))
        layers.append(
            LayerProfile(
                name=call.name,
                kind=type(call.layer).__name__,
                operator=call.operator.name if call.operator else None,
                call=repeats[id(call.layer)],
                input_shape=call.input_shape,
                output_shape=call.output_shape,
                cost=cost,
                params=params,
                weight_bytes=params * itemsize,
                activation_bytes=math.prod(call.output_shape) * itemsize,
                energy=energy(cost, dtype),
                counted=call.operator is not None or call.normalises,
            )
        )
        repeats[id(call.layer)] += 1

    total = sum((layer.cost for layer in layers), Cost())
    params = sum(parameter.numel() for parameter in model.parameters())
    return Profile(
        model=name or type(model).__name__,
        input_size=size,
        dtype=dtype,
        convention=convention,
        normalisation=normalisation,
        layers=tuple(layers),
        total=Totals(
            mul=total.mul,
            add=total.add,
            xnor=total.xnor,
            params=params,
            weight_bytes=params * itemsize,
            activation_bytes=sum(layer.activation_bytes for layer in layers),
            energy=energy(total, dtype),
        ),
    )


@dataclass(frozen=True, kw_only=True)
class _Call:
    """One call of a layer, as the hooks saw it."""

    name: str
    layer: nn.Module
    operator: Operator | None
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]

    @property
    def normalises(self) -> bool:
        return isinstance(self.layer, _NORMALISATION)

    def cost(self, stand_in: Operator | None, normalisation: bool) -> Cost:
        """Operations of the call; those of a convolution as if `stand_in` did them, if given."""
        if self.operator is not None:
            operator = self.operator
            if stand_in is not None and operator.name == BASELINE:
                operator = stand_in
            return operator.count(self.layer, self.input_shape, self.output_shape)
        if self.normalises and normalisation:
            outputs = math.prod(self.output_shape)
            return Cost(mul=outputs, add=outputs)
        return Cost()


def _checked_size(input_size: Sequence[int]) -> tuple[int, ...]:
    try:
        size = tuple(input_size)
    except TypeError:
        size = ()
    if not size or any(not isinstance(side, int) or side < 1 for side in size):
        raise ShapeError(
            "profiling.count: `input_size` must be the positive sizes of one input without the "
            f"batch, such as (3, 32, 32), got {input_size!r}"
        )
    return size


def _checked_model(model: nn.Module) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"profiling.count: `model` must be a torch.nn.Module, got {type(model).__name__}"
        )
    for name, parameter in model.named_parameters():
        if nn.parameter.is_lazy(parameter):
            raise ConfigError(
                "profiling.count: `model` must be initialised, got a lazy parameter "
                f"{name}; call it once first"
            )
    return model


def _other_operator(calls: Sequence[_Call]) -> Operator | None:
    """The operator other than the baseline that is called most; None if there is none."""
    others = [call.operator for call in calls if call.operator and call.operator.name != BASELINE]
    return Counter(others).most_common(1)[0][0] if others else None


def _trace(model: nn.Module, size: tuple[int, ...]) -> list[_Call]:
    """Run `model` once and note every call of a layer that has an operator or parameters."""
    # What a user's forward can raise has no common type.
    with contextlib.suppress(Exception), _recorded(model) as calls:
        _run_on_meta(model, size)
        return calls
    try:
        with _recorded(model) as calls:
            _run(model, size)
    except BackendUnavailableError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ShapeError(
            f"profiling.count: `input_size` must fit {type(model).__name__}, got {size}: {reason}"
        ) from error
    return calls


@contextlib.contextmanager
def _recorded(model: nn.Module) -> Iterator[list[_Call]]:
    """Evaluation mode without gradients, with hooks that append to the yielded list."""
    calls: list[_Call] = []
    # A layer may be built of others (a parametrised weight is one): only the outermost counts.
    inside = 0
    handles = []

    def enter(layer: nn.Module, args: tuple[object, ...]) -> None:
        nonlocal inside
        inside += 1

    def leave(name: str, operator: Operator | None) -> Callable[..., None]:
        def hook(
            layer: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], output: object
        ) -> None:
            nonlocal inside
            inside -= operator is not None
            if not inside:
                calls.append(
                    _Call(
                        name=name,
                        layer=layer,
                        operator=operator,
                        input_shape=_first_shape((args, kwargs)) or (),
                        output_shape=_first_shape(output) or (),
                    )
                )

        return hook

    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        for name, module in model.named_modules():
            operator = operator_of(module)
            if operator is not None:
                handles.append(module.register_forward_pre_hook(enter))
            elif next(module.parameters(recurse=False), None) is None and not isinstance(
                module, _NORMALISATION
            ):
                continue
            handles.append(module.register_forward_hook(leave(name, operator), with_kwargs=True))
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            yield calls
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training


def _run_on_meta(model: nn.Module, size: tuple[int, ...]) -> None:
    """Run shapes only; fails where `forward` looks at values or makes tensors elsewhere."""
    tensors = {name: tensor.to("meta") for name, tensor in _tensors(model).items()}
    image = torch.empty((1, *size), dtype=_dtype(model), device="meta")
    torch.func.functional_call(model, tensors, (image,))


def _run(model: nn.Module, size: tuple[int, ...]) -> None:
    """Run on a zero image, with copies of the buffers in case `forward` writes to them."""
    parameter = next(model.parameters(), None)
    device = parameter.device if parameter is not None else torch.device("cpu")
    buffers = {name: tensor.clone() for name, tensor in model.named_buffers()}
    image = torch.zeros((1, *size), dtype=_dtype(model), device=device)
    torch.func.functional_call(model, buffers, (image,))


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _dtype(model: nn.Module) -> torch.dtype:
    floating = (p.dtype for p in model.parameters() if p.dtype.is_floating_point)
    return next(floating, torch.get_default_dtype())


def _first_shape(value: object) -> tuple[int, ...] | None:
    """Shape of the first tensor in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, (tuple, list)):
        shapes = (_first_shape(item) for item in value)
        return next((shape for shape in shapes if shape is not None), None)
    return None
