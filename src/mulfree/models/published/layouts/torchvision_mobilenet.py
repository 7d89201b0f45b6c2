"""MobileNetV2 of torchvision.

References:
    mobilenetv2.py of github.com/pytorch/vision.
"""

from __future__ import annotations

from torch import nn

from mulfree.models.published.layout import Layout, Names, pair, places


def _names(network: nn.Module) -> Names:
    yield from pair("stem", "features.0.0", "features.0.1")
    last = 0
    for place in places(network):
        last = place.number + 1
        theirs, part = f"features.{last}.conv", 0
        if place.has_expansion:
            yield from pair(f"{place.path}.expand", f"{theirs}.0.0", f"{theirs}.0.1")
            part = 1
        yield from pair(f"{place.path}.depthwise", f"{theirs}.{part}.0", f"{theirs}.{part}.1")
        yield from pair(f"{place.path}.project", f"{theirs}.{part + 1}", f"{theirs}.{part + 2}")
    yield from pair("head", f"features.{last + 1}.0", f"features.{last + 1}.1")
    yield "fc", "classifier.1"


LAYOUT = Layout(title="torchvision", models=("mobilenet_v2",), stem="features.0.0", names=_names)
