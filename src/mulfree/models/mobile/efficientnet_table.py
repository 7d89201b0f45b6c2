"""Block table of EfficientNet-B0 and Lite0.

References:
    arXiv 1905.11946, Table 1, with the strides of its code.
"""

from __future__ import annotations

from mulfree.models.mobile.blocks import Stage

STEM, HEAD = 32, 1280
STAGES = (
    # expansion, kernel, stride, channels, blocks
    Stage(1, 3, 1, 16, 1),
    Stage(6, 3, 2, 24, 2),
    Stage(6, 5, 2, 40, 2),
    Stage(6, 3, 2, 80, 3),
    Stage(6, 5, 1, 112, 3),
    Stage(6, 5, 2, 192, 4),
    Stage(6, 3, 1, 320, 1),
)
