"""Model families, one module each, imported when a model is first listed or created.

A new family is a module with a config class called `Config`, a `ModelOptions`, that builds its
networks from `torch.nn.Conv2d` and `torch.nn.Linear` and registers each with `register_model`, and
its name in `FAMILIES`. Families never import each other; `mulfree.models.mobile`,
`mulfree.models.residual` and `mulfree.models.parts` hold what they share.
"""

from __future__ import annotations

FAMILIES: tuple[str, ...] = (
    "depth_dynamic",
    "dynamic_resolution",
    "early_exit",
    "efficientnet",
    "efficientnet_lite",
    "lenet",
    "mobilenet",
    "resnet",
    "resnet_cifar",
    "vgg",
)
