"""Mobile networks of `create_model`."""

from __future__ import annotations

from mulfree.models.published.layout import Layout, same_names

LAYOUT = Layout(
    title="mulfree",
    models=("efficientnet_*", "tf_efficientnet_*", "mobilenet_v?"),
    stem="stem.conv",
    names=same_names,
)
