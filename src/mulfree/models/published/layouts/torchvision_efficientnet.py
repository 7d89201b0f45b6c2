"""EfficientNet of torchvision.

References:
    efficientnet.py of github.com/pytorch/vision.
"""

from __future__ import annotations

from itertools import count

from torch import nn

from mulfree.models.published.layout import Layout, Names, pair, places


def _names(network: nn.Module) -> Names:
    yield from pair("stem", "features.0.0", "features.0.1")
    last = 0
    for place in places(network):
        last = place.stage + 1
        parts = (f"features.{last}.{place.index}.block.{number}" for number in count())
        if place.has_expansion:
            part = next(parts)
            yield from pair(f"{place.path}.expand", f"{part}.0", f"{part}.1")
        part = next(parts)
        yield from pair(f"{place.path}.depthwise", f"{part}.0", f"{part}.1")
        if place.has_se:
            part = next(parts)
            yield f"{place.path}.se.reduce", f"{part}.fc1"
            yield f"{place.path}.se.expand", f"{part}.fc2"
        part = next(parts)
        yield from pair(f"{place.path}.project", f"{part}.0", f"{part}.1")
    yield from pair("head", f"features.{last + 1}.0", f"features.{last + 1}.1")
    yield "fc", "classifier.1"


LAYOUT = Layout(title="torchvision", models=("efficientnet_b?",), stem="features.0.0", names=_names)
