"""Definition of the classifier."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mulfree.nodes.arithmetic import Made
from mulfree.nodes.linear import Linear
from mulfree.nodes.node import Values


def evaluate(node: Linear, values: Values, made: Made) -> NDArray[np.float32]:
    """Return the logits, `[N, O]`: the exact sum, then a product and a sum in float32."""
    x = made[node.input]
    # Sums below 2**31 are exact in float64, whose matrix product is the fast one.
    flat = x.reshape(len(x), node.weight.shape[1]).astype(np.float64)
    sums = flat @ node.weight.T.astype(np.float64)
    with np.errstate(over="ignore"):
        logits: NDArray[np.float32] = sums.astype(np.float32) * node.scale + node.bias
    return logits
