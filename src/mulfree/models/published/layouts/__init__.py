"""Layouts of published state dicts, one module each; layouts never import each other."""

from __future__ import annotations

from mulfree.models.published.layout import Layout
from mulfree.models.published.layouts import (
    lukemelas,
    mobile,
    residual,
    timm,
    torchvision_efficientnet,
    torchvision_mobilenet,
)

LAYOUTS: tuple[Layout, ...] = (
    lukemelas.LAYOUT,
    mobile.LAYOUT,
    residual.LAYOUT,
    timm.LAYOUT,
    torchvision_efficientnet.LAYOUT,
    torchvision_mobilenet.LAYOUT,
)
