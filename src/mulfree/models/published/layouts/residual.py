"""Residual networks of torchvision, of the AdderNet authors and of `create_model`.

References:
    resnet20.py, resnet50.py and adder.py of github.com/huawei-noah/AdderNet.
"""

from __future__ import annotations

from mulfree.models.published.layout import Layout, same_names

LAYOUT = Layout(title="torchvision", models=("resnet*",), stem="conv1", names=same_names)
