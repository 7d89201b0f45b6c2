"""Mobile networks of timm.

Its own training uses even padding and an `eps` of 1e-5; the weights of TensorFlow have names that
begin with `tf_`.

References:
    _efficientnet_blocks.py and efficientnet.py of github.com/huggingface/pytorch-image-models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from mulfree.models.published.layout import Layout, Names, pair, places


def _names(network: nn.Module) -> Names:
    yield from pair("stem", "conv_stem", "bn1")
    for place in places(network):
        ours, theirs = place.path, f"blocks.{place.stage}.{place.index}"
        if place.has_expansion:
            yield from pair(f"{ours}.expand", f"{theirs}.conv_pw", f"{theirs}.bn1")
            yield from pair(f"{ours}.depthwise", f"{theirs}.conv_dw", f"{theirs}.bn2")
            yield from pair(f"{ours}.project", f"{theirs}.conv_pwl", f"{theirs}.bn3")
        else:
            yield from pair(f"{ours}.depthwise", f"{theirs}.conv_dw", f"{theirs}.bn1")
            yield from pair(f"{ours}.project", f"{theirs}.conv_pw", f"{theirs}.bn2")
        if place.has_se:
            yield f"{ours}.se.reduce", f"{theirs}.se.conv_reduce"
            yield f"{ours}.se.expand", f"{theirs}.se.conv_expand"
    yield from pair("head", "conv_head", "bn2")
    yield "fc", "classifier"


def _options(name: str) -> Mapping[str, Any]:
    if name.startswith("tf_"):
        return {}
    return {"same_padding": False, "bn_eps": 1e-5}


LAYOUT = Layout(
    title="timm",
    models=("efficientnet_*", "tf_efficientnet_*", "mobilenet_v?"),
    stem="conv_stem",
    names=_names,
    options=_options,
)
