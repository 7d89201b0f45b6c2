"""Networks with weights published elsewhere."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mulfree import operators
from mulfree.errors import ConfigError, choices_message, quoted
from mulfree.models.claims import blueprint, check_tensors, claimed, restored
from mulfree.models.mobile.network import MobileNetwork
from mulfree.models.published.imagenet import CLASSES, image_spec
from mulfree.models.published.layout import Layout
from mulfree.models.published.layouts import LAYOUTS
from mulfree.models.published.state_dict import WHAT, StateDict
from mulfree.models.registry import (
    ModelConfig,
    image_size,
    list_models,
    model_options,
    set_images,
    variants,
)

# Relative difference of equal widths: inferred ones are of rounded channels.
_TOLERANCE = 0.01


def load_published(
    path_or_state_dict: str | os.PathLike[str] | Mapping[str, Any],
    name: str,
    *,
    operator: str | None = None,
) -> nn.Module:
    """Load a network with weights published elsewhere, in evaluation mode.

    Supported are state dicts of

    - torchvision: `efficientnet_b0` to `b7`, `mobilenet_v2`, residual networks;
    - timm: `efficientnet_*`, `tf_efficientnet_*`, `mobilenet_v1` and `v2`;
    - EfficientNet-PyTorch (`_conv_stem`, `_blocks.0`): `tf_efficientnet_b0` to `b7`,
      `efficientnet_lite0` to `lite4`;
    - the AdderNet authors (weight `adder` and bias `b` in adder layers): residual networks;
    - models of `create_model`,

    also inside a dictionary (`state_dict`, `model_state_dict`, `model`) and with the prefixes of
    `DataParallel`, `torch.compile` and similar wrappers. Classes, channels, width, batch norm of
    the logits and the operator of each layer are inferred from the tensors and the metadata of the
    state dict. Padding and `eps` are not in a state dict: the name decides, and so
    `efficientnet_b0` and `tf_efficientnet_b0` are different networks.

    Networks of 1000 classes have the specification of ImageNet's images, with class names of an
    installed torchvision or timm, else numbers.

    Args:
        path_or_state_dict: File of `torch.save`, read for tensors only, or its content.
        name: The network.
        operator: Operator of all layers except the first and the last, for a state dict without a
            record of it: weights of adder layers and convolutions have equal names and shapes.

    Raises:
        ConfigError: Neither path nor state dict, unknown network or operator, or an operator that
            differs from the recorded one.
        ArtifactError: The file is missing, holds more than tensors, belongs to another network, or
            lacks the operator of its layers.
    """
    networks = [model for model in list_models() if any(_layouts(model))]
    if name not in networks:
        raise ConfigError(choices_message("load_published", "name", name, networks))
    if operator is not None and operator not in operators.OPERATORS:
        choices = operators.OPERATORS
        raise ConfigError(choices_message("load_published", "operator", operator, choices))
    state = StateDict.read(path_or_state_dict)
    layout = _layout(state, name)
    full = blueprint(ModelConfig(name=name))
    theirs = dict(layout.names(full))
    own = state.renamed({their: our for our, their in theirs.items()})
    linear = _made_convolution(own)
    arguments = {**layout.options(name), **_sizes(own, name, full, theirs)}
    if linear:
        _check_variant(own, name, arguments["width"])
    arguments |= _operators(own, operator, full, linear)
    config = ModelConfig(name=name, arguments=arguments)
    expected = claimed(WHAT, own.source, config)
    biases = _adder_biases(own, expected)
    for key, tensor in expected.items():
        if key.endswith("num_batches_tracked"):
            # Since torch 0.4.1; used for cumulative averages only.
            own.tensors.setdefault(key, torch.zeros_like(tensor, device="cpu"))
    # Under the names of the file, for messages.
    shown = replace(own, tensors=expected).renamed(theirs).tensors
    check_tensors(WHAT, own.source, shown, own.renamed(theirs).tensors, mixed=True)
    model = restored(WHAT, own.source, config, own.tensors, torch.float32)
    for layer, bias in biases.items():
        model.get_submodule(layer).bias = nn.Parameter(bias.detach().clone())
    is_imagenet = (arguments["num_classes"], arguments["in_channels"]) == (CLASSES, 3)
    # Classifiers of models of create_model are convolutions.
    if linear and is_imagenet:
        set_images(model, image_spec(layout.title, name, image_size(name)))
    return model


def _layouts(model: str) -> list[Layout]:
    """Layouts that have a model."""
    return [layout for layout in LAYOUTS if layout.has(model)]


def _layout(state: StateDict, name: str) -> Layout:
    """Layout of a state dict, by the name of its first layer."""
    found = [layout for layout in LAYOUTS if _is_kernel(state.tensors, f"{layout.stem}.weight")]
    for layout in found:
        if layout.has(name):
            return layout
    stems = " or ".join(repr(f"{layout.stem}.weight") for layout in _layouts(name))
    got = ""
    if found:
        networks = ", ".join(pattern for layout in found for pattern in layout.models)
        got = f"; its names are those of {found[0].title}, for {networks}"
    elif (first := next(iter(state.tensors), None)) is not None:
        got = f"; {quoted(first)} does not fit"
    raise state.refused(f"be weights of {name} (with a 4-D {stems}{got})")


def _is_kernel(tensors: Mapping[str, Tensor], key: str) -> bool:
    return key in tensors and tensors[key].ndim == 4


def _made_convolution(own: StateDict) -> bool:
    """Reshape a linear classifier to a 1x1 convolution; return whether there was one."""
    weight = own.tensors.get("fc.weight")
    if weight is None or weight.ndim != 2:
        return False
    own.tensors["fc.weight"] = weight[:, :, None, None]
    return True


def _sizes(own: StateDict, name: str, full: nn.Module, theirs: Mapping[str, str]) -> dict[str, Any]:
    """Sizes of a network, inferred from its tensors under our names."""
    tensors = own.tensors
    stem, norm, widest = _landmarks(full)
    for layer in ("fc", widest):
        if not _is_kernel(tensors, f"{layer}.weight"):
            raise own.refused(f"be weights of {name} (with a 4-D {theirs[layer] + '.weight'!r})")
    choices = model_options(name)
    scale = len(tensors[f"{widest}.weight"]) / len(full.get_parameter(f"{widest}.weight"))
    sizes = {
        "num_classes": len(tensors["fc.weight"]),
        "in_channels": tensors[f"{stem}.weight"].shape[1],
        "width": choices["width"] * scale,
        "norm_logits": f"{norm}.weight" in tensors,
    }
    if "small_input" in choices:
        sizes["small_input"] = tensors[f"{stem}.weight"].shape[2] == 3
    return sizes


def _check_variant(own: StateDict, name: str, width: float) -> None:
    """Refuse the width of another published variant, whose image size and dropout differ too."""
    widths = {other: model_options(other)["width"] for other in variants(name)}
    if not math.isclose(width, widths[name], rel_tol=_TOLERANCE):
        for other, its in widths.items():
            if math.isclose(width, its, rel_tol=_TOLERANCE):
                raise own.refused(f"be weights of {name} (these are as wide as {other})")


def _landmarks(full: nn.Module) -> tuple[str, str, str]:
    """Names of the first layer, of the logits' batch norm, and of the layer that shows the width.

    The last is the widest projection of a mobile network: rounding hardly changes its width.
    """
    if isinstance(full, MobileNetwork):
        return "stem.conv", "bn_fc", f"stages.{len(full.stages) - 1}.0.project.conv"
    return "conv1", "bn2", "conv1"


def _operators(
    own: StateDict, operator: str | None, full: nn.Module, linear: bool
) -> dict[str, Any]:
    """Operator of a network and layers that multiply, given or recorded."""
    if not own.recorded:
        if operator is None and not linear:
            raise ConfigError(
                'load_published: `operator` must be given as operator="adder2d" or '
                'operator="conv2d" where the weights do not record that of their layers, got None '
                f"for {own.source}"
            )
        return {"operator": operator or "conv2d"}
    found = next((kind for kind in own.recorded.values() if kind != "conv2d"), "conv2d")
    if operator not in (None, found):
        raise ConfigError(
            f"load_published: `operator` must be {found} as {own.source} records it, got {operator}"
        )
    if found == "conv2d":
        return {"operator": found}
    keep = [
        layer
        for layer, _ in full.named_modules()
        if _is_kernel(own.tensors, f"{layer}.weight") and own.recorded.get(layer) != found
    ]
    return {"operator": found, "keep": keep}


def _adder_biases(own: StateDict, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the biases of adder layers: optional in the authors' layer, unused in their nets."""
    return {
        layer: own.tensors.pop(key)
        for layer, kind in own.recorded.items()
        if kind == "adder2d" and (key := f"{layer}.bias") in own.tensors and key not in expected
    }
