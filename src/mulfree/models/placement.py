"""Which layers of a network multiply, and the change of all others to another operator."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mulfree import operators
from mulfree.errors import MAX_MESSAGE, ConfigError, printable, quoted
from mulfree.models.replaceable import (
    ReplaceableLayer,
    check_replaceable,
    is_linear,
    listed,
    losses,
    made_like,
    zeroed_in_sequence,
)
from mulfree.models.selection import BASELINE, FIRST_AND_LAST, Selection
from mulfree.models.trial import Trial
from mulfree.models.wrappers import unwrapped
from mulfree.operators import Operator

_REPLACED = "mulfree_replaced"


class ConversionWarning(UserWarning):
    """Warning of a layer that a conversion leaves as it was, strips, or makes constant."""


def convert(
    model: nn.Module,
    operator: str = "adder2d",
    keep: Sequence[str] = FIRST_AND_LAST,
    *,
    linear: bool = True,
    gradient: str | None = None,
    input_size: Sequence[int] | None = None,
) -> nn.Module:
    """Change the operator of the layers inside any model, in place.

    Every `torch.nn.Conv2d` and `torch.nn.Linear` (or layer of another mulfree operator) that is not
    kept becomes a layer of `operator` with the same geometry, device, dtype and mode and freshly
    initialised parameters. Layers that are of `operator` already keep theirs. Subclasses are left
    as they are, because their forward may be another one; so are transposed convolutions and those
    of other dimensions. Outputs of an adder layer need a normalisation after them, which is not
    added here.

    With `input_size` the model is run on zeros before and after, in evaluation mode and without
    gradients. That finds layers that it does not call as modules, and leaves parameters, buffers,
    random states and attributes as they were, but not objects of the user's own.

    An optimiser must be made after the conversion, and so must distributed wrappers.

    Args:
        model: Any torch model; inside of `torch.compile`, `DataParallel` and `AveragedModel` the
            network is changed.
        operator: One of `mulfree.operators.OPERATORS`.
        keep: The layers to leave alone: "first" and "last" are the first and the last convolution
            or linear layer in the order in which the model registers them; anything else is the
            name, or a glob pattern of names, of layers or of modules that contain layers.
        linear: Whether linear layers are changed too.
        gradient: Gradient rule of the new layers, for operators that have rules.
        input_size: Shape of one input without the batch, for example `(3, 32, 32)`, to run the
            model with.

    Returns:
        The model; a new layer if the model itself is the layer to change.

    Raises:
        ConfigError: Unknown operator or gradient rule, a name in `keep` that matches nothing, a
            model without layers, or a layer that cannot be changed without breaking something else:
            parametrizations or hooks on it, parameters that are tied or that another module
            computes with, references to it beside the registered ones. The model is then as it was.
        ShapeError: `input_size` is not a shape, or the model fails on such an input.

    Warns:
        ConversionWarning: Attributes, buffers, children or hooks of layers are dropped; subclasses
            of layers and other convolutions stay as they are; or an activation follows an adder
            layer without a normalisation between, so that the network is constant.

    References:
        arXiv 1912.13200; which layers multiply: resnet20.py of github.com/huawei-noah/AdderNet.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(f"convert: `model` must be a torch.nn.Module, got {type(model).__name__}")
    target = operators.get_operator(operator)
    options = _rule(target, gradient)
    network = unwrapped(model)
    selection = Selection.of(network, target, keep, linear)
    check_replaceable(model, selection.replaced)
    before = None if input_size is None else Trial.of(network, selection.replaced, input_size)
    remarks = _losses(selection.replaced) + _left_alone(selection.others)
    new = _replacements(selection.replaced, target, options)
    names = {new.get(layer.module, layer.module): layer.name for layer in selection.all}
    adders = names if target.name != BASELINE else {}
    swapped = _swap(model, new)
    try:
        converted = new.get(network, network)
        zeroed = set(zeroed_in_sequence(converted, adders))
        if before is not None:
            zeroed |= before.again(converted, new, adders)
        remarks += _constant([name for layer, name in adders.items() if layer in zeroed])
        for remark in remarks:
            warnings.warn(printable(remark, MAX_MESSAGE), ConversionWarning, stacklevel=2)
    except BaseException:
        for parent, name, child in swapped:
            parent._modules[name] = child
        raise
    for layer in selection.same:
        vars(layer.module).update(options)
    for module in new:
        for parameter in module.parameters(recurse=False):
            setattr(parameter, _REPLACED, True)
    return new.get(model, model)


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Options of `create_model` for the layers of an operator.

    Attributes:
        gradient: Gradient rule of these layers; None for the operator's default.
        keep: Layers that multiply instead, see `convert`.
    """

    gradient: str | None = None
    keep: Sequence[str] = FIRST_AND_LAST


def placed(network: nn.Module, operator: str, placement: Placement) -> nn.Module:
    """Change the operator of the layers inside a network that was just built, in place.

    As `convert`, but nothing else can hold the layers yet, so that it is not searched for.

    Raises:
        ConfigError: Unknown operator or gradient rule, or a name in `keep` that matches nothing.
    """
    target = operators.get_operator(operator)
    options = _rule(target, placement.gradient)
    selection = Selection.of(network, target, placement.keep, linear=True)
    _swap(network, _replacements(selection.replaced, target, options))
    for layer in selection.same:
        vars(layer.module).update(options)
    return network


def was_replaced(parameter: Tensor) -> bool:
    """Return whether `parameter` belonged to a layer that `convert` replaced by another."""
    return bool(getattr(parameter, _REPLACED, False))


def _swap(
    model: nn.Module, new: Mapping[nn.Module, nn.Module]
) -> list[tuple[nn.Module, str, nn.Module]]:
    """Put new modules in the place of old ones; the old ones, and where they were."""
    swapped = [
        (parent, name, child)
        for parent in list(model.modules())
        for name, child in parent._modules.items()
        if child is not None and child in new
    ]
    for parent, name, child in swapped:
        parent._modules[name] = new[child]
    return swapped


def _losses(layers: Iterable[ReplaceableLayer]) -> list[str]:
    """One line for every kind of loss, with the layers that it happens to."""
    names: dict[str, list[str]] = {}
    for layer in layers:
        lost = ", ".join(losses(layer.module))
        if lost:
            names.setdefault(lost, []).append(layer.name)
    return [f"convert: drops of {listed(where)}: {lost}" for lost, where in names.items()]


def _left_alone(layers: Sequence[ReplaceableLayer]) -> list[str]:
    """The line about layers that multiply and are not changed."""
    if not layers:
        return []
    names = [f"{layer.name} ({type(layer.module).__name__})" for layer in layers]
    return [
        f"convert: leaves {listed(names)} as they are, whose class is another than the layers' "
        "to change; name them in `keep` if this is meant"
    ]


def _constant(names: Sequence[str]) -> list[str]:
    """The line about layers without a normalisation behind them."""
    if not names:
        return []
    return [
        "convert: outputs of adder layers are never positive, and an activation without a "
        f"normalisation before it makes a constant of them; normalise those of {listed(names)}"
    ]


def _rule(target: Operator, gradient: str | None) -> dict[str, str]:
    """The gradient rule as an argument of the new layers; none where none is asked for."""
    if gradient is None:
        return {}
    if "gradient" not in inspect.signature(target.linear).parameters:
        raise ConfigError(
            f"convert: `gradient` must be None for operator {target.name!r}, "
            f"which has no gradient rules, got {quoted(gradient)}"
        )
    with torch.device("meta"):  # Where no random numbers are drawn.
        target.linear(1, 1, gradient=gradient)  # Refuses an unknown rule before any change.
    return {"gradient": gradient}


def _replacements(
    layers: Iterable[ReplaceableLayer], target: Operator, options: dict[str, str]
) -> dict[nn.Module, nn.Module]:
    """The new layer of each old one."""
    return {layer.module: _replacement(layer.module, target, options) for layer in layers}


def _replacement(old: nn.Module, target: Operator, options: dict[str, str]) -> nn.Module:
    """A layer of `target` in the place of `old`."""
    weight = old.weight
    assert isinstance(weight, Tensor)
    cls = target.linear if is_linear(old) else target.conv
    with torch.device(weight.device):
        new = made_like(old, cls, options)
    return new.to(weight.dtype).train(old.training)
