"""EfficientNet in PyTorch by Luke Melas-Kyriazi, and Lite in its names.

Padding and `eps` follow TensorFlow.

References:
    model.py of github.com/lukemelas/EfficientNet-PyTorch.
"""

from __future__ import annotations

from torch import nn

from mulfree.models.published.layout import Layout, Names, pair, places


def _names(network: nn.Module) -> Names:
    yield from pair("stem", "_conv_stem", "_bn0")
    for place in places(network):
        theirs = f"_blocks.{place.number}"
        if place.has_expansion:
            yield from pair(f"{place.path}.expand", f"{theirs}._expand_conv", f"{theirs}._bn0")
        yield from pair(f"{place.path}.depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1")
        if place.has_se:
            yield f"{place.path}.se.reduce", f"{theirs}._se_reduce"
            yield f"{place.path}.se.expand", f"{theirs}._se_expand"
        yield from pair(f"{place.path}.project", f"{theirs}._project_conv", f"{theirs}._bn2")
    yield from pair("head", "_conv_head", "_bn1")
    yield "fc", "_fc"


LAYOUT = Layout(
    title="lukemelas",
    models=("tf_efficientnet_b?", "efficientnet_lite?", "tf_efficientnet_lite?"),
    stem="_conv_stem",
    names=_names,
)
