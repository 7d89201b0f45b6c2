"""Attention distillation: spatial attention maps of features of one resolution, made similar.

References:
    arXiv 2103.00793; formulas: code of EKD-FWSNet by the same authors.
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn.functional import mse_loss

_EPS = 1e-6
"""Added to the variance of a map, which is 0 where all features are."""


def attention_map(features: Tensor) -> Tensor:
    r"""Standardised sum over the channels, :math:`(A - \mu) / \sqrt{\sigma^2 + \epsilon}`.

    Mean :math:`\mu` and unbiased variance :math:`\sigma^2` belong to one image's map
    :math:`A = \sum_c F_c`.

    Args:
        features: `[N, C, H, W]`.

    Returns:
        `[N, H, W]`; 0 for maps of a single position.
    """
    maps = features.sum(dim=1)
    positions = math.prod(maps.shape[1:])
    centred = maps - maps.mean(dim=(1, 2), keepdim=True)
    variance = centred.square().sum(dim=(1, 2), keepdim=True) / max(positions - 1, 1)
    return centred / (variance + _EPS).sqrt()


def attention_loss(features: Tensor, reference: Tensor) -> Tensor:
    """Mean squared difference of two attention maps.

    Args:
        features: `[N, C, H, W]`.
        reference: Features of the teacher, `[N, C', H, W]`; they get no gradient.
    """
    return mse_loss(attention_map(features), attention_map(reference.detach()))
