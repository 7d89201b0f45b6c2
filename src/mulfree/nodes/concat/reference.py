"""Definition of stacked and permuted channels."""

from __future__ import annotations

import numpy as np

from mulfree.nodes.arithmetic import U8, Made
from mulfree.nodes.concat import Concat
from mulfree.nodes.node import Values


def evaluate(node: Concat, values: Values, made: Made) -> U8:
    """Return the output, `[N, H, W, C]`."""
    output: U8 = np.concatenate([made[name] for name in node.inputs], axis=3)[..., node.order]
    return output
