"""Replacement of the layers of a network by layers of an operator."""

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
    """Warning of a layer that a conversion leaves unchanged, strips, or makes constant."""


def convert(
    model: nn.Module,
    operator: str = "adder2d",
    keep: Sequence[str] = FIRST_AND_LAST,
    *,
    linear: bool = True,
    gradient: str | None = None,
    input_size: Sequence[int] | None = None,
) -> nn.Module:
    """Replace the layers inside any model by layers of an operator, in place.

    Every `torch.nn.Conv2d` and `torch.nn.Linear` (or layer of another mulfree operator) that is not
    kept is replaced by a layer of `operator` with the same geometry, device, dtype and mode and
    random initialisation. Layers of `operator` keep their parameters. Subclasses are left
    unchanged, because their forward may differ; so are transposed, 1-D and 3-D convolutions. An
    adder layer requires batch norm after it, which is not added.

    With `input_size` the model is run on zeros before and after, in evaluation mode and without
    gradients. This finds layers whose forward is bypassed. Parameters, buffers, random states and
    attributes are restored, but not objects of the user's own.

    Create optimisers and distributed wrappers after the conversion.

    Args:
        model: Any torch model, also inside `torch.compile`, `DataParallel` and `AveragedModel`.
        operator: One of `mulfree.operators.OPERATORS`.
        keep: Layers to leave unchanged: "first" and "last" are the first and the last convolution
            or linear layer in order of registration; anything else is the name, or a glob pattern
            of names, of layers or of modules that contain layers.
        linear: Whether to replace linear layers too.
        gradient: Gradient rule of the new layers, for operators that have rules.
        input_size: Shape of one input without the batch, such as `(3, 32, 32)`, for a trial run.

    Returns:
        The model; a new layer if the model itself is the layer to replace.

    Raises:
        ConfigError: Unknown operator or gradient rule, a name in `keep` that matches nothing, a
            model without layers, or a layer whose replacement would break something else: it has
            parametrizations or hooks, its parameters are tied or used by another module, or it is
            referenced outside of its registration. The model is then unchanged.
        ShapeError: `input_size` is not a shape, or the model fails on such an input.

    Warns:
        ConversionWarning: Attributes, buffers, children or hooks of layers are dropped; subclasses
            of layers and other convolutions are left unchanged; or an activation follows an adder
            layer without batch norm between, which makes the network constant.

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


def placed(
    network: nn.Module, operator: str, placement: Placement, multiplying: Sequence[str] = ()
) -> nn.Module:
    """Replace the layers inside a network that was just built, in place.

    As `convert`, without its search for other references to the layers: there are none yet. The
    layers named `multiplying` are left unchanged, too.

    Raises:
        ConfigError: Unknown operator or gradient rule, or a name in `keep` that matches nothing.
    """
    target = operators.get_operator(operator)
    options = _rule(target, placement.gradient)
    selection = Selection.of(network, target, placement.keep, linear=True)
    replaced = [layer for layer in selection.replaced if layer.name not in multiplying]
    _swap(network, _replacements(replaced, target, options))
    for layer in selection.same:
        vars(layer.module).update(options)
    return network


def was_replaced(parameter: Tensor) -> bool:
    """Return whether `parameter` belonged to a layer that `convert` replaced by another."""
    return bool(getattr(parameter, _REPLACED, False))


def _swap(
    model: nn.Module, new: Mapping[nn.Module, nn.Module]
) -> list[tuple[nn.Module, str, nn.Module]]:
    """Replace modules; returns parent, name and old module of each."""
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
    """One line for every kind of loss, with its layers."""
    names: dict[str, list[str]] = {}
    for layer in layers:
        lost = ", ".join(losses(layer.module))
        if lost:
            names.setdefault(lost, []).append(layer.name)
    return [f"convert: drops of {listed(where)}: {lost}" for lost, where in names.items()]


def _left_alone(layers: Sequence[ReplaceableLayer]) -> list[str]:
    """Line for multiplying layers that are left unchanged."""
    if not layers:
        return []
    names = [f"{layer.name} ({type(layer.module).__name__})" for layer in layers]
    return [
        f"convert: leaves {listed(names)} as they are, because their classes are not supported; "
        "name them in `keep` if this is intended"
    ]


def _constant(names: Sequence[str]) -> list[str]:
    """Line for adder layers without batch norm."""
    if not names:
        return []
    return [
        "convert: outputs of adder layers are never positive, so an activation without batch norm "
        f"before it is constant; add batch norm after {listed(names)}"
    ]


def _rule(target: Operator, gradient: str | None) -> dict[str, str]:
    """Gradient rule as an argument of the new layers; empty for None."""
    if gradient is None:
        return {}
    if "gradient" not in inspect.signature(target.linear).parameters:
        raise ConfigError(
            f"convert: `gradient` must be None for operator {target.name!r}, "
            f"which has no gradient rules, got {quoted(gradient)}"
        )
    with torch.device("meta"):  # Draws no random numbers.
        target.linear(1, 1, gradient=gradient)  # Refuses an unknown rule before any replacement.
    return {"gradient": gradient}


def _replacements(
    layers: Iterable[ReplaceableLayer], target: Operator, options: dict[str, str]
) -> dict[nn.Module, nn.Module]:
    """New layer of `target` for each old one."""
    new: dict[nn.Module, nn.Module] = {}
    for old in (layer.module for layer in layers):
        weight = old.weight
        assert isinstance(weight, Tensor)
        with torch.device(weight.device):
            made = made_like(old, target.linear if is_linear(old) else target.conv, options)
        new[old] = made.to(weight.dtype).train(old.training)
    return new
