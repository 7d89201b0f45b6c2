"""Differentiable samples of a categorical distribution: Gumbel-softmax with straight-through.

References:
    arXiv 1611.01144; as used here: arXiv 2106.02898, Eq. 9 to 11.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def gumbel_noise(like: Tensor) -> Tensor:
    """Gumbel noise for the images of this rank, `-log(-log u)` with `u` uniform in (0, 1).

    The first rank seeds one generator of the noise of the whole batch, the parts of the ranks one
    after another: several processes draw what one process draws.

    Args:
        like: Logits `[N, m]` of the images of this rank; every rank has as many.

    Returns:
        `[N, m]`, of the type and on the device of `like`.
    """
    seed = torch.randint(2**62, (), device=like.device)
    rank, ranks = 0, 1
    if distributed.is_available() and distributed.is_initialized():
        distributed.broadcast(seed, src=0)
        rank, ranks = distributed.get_rank(), distributed.get_world_size()
    generator = torch.Generator().manual_seed(int(seed))
    count, choices = like.shape
    u = torch.rand(ranks * count, choices, generator=generator, dtype=torch.float64)
    # Zero has the probability 2^-53 and an infinite logarithm.
    u = u[rank * count : (rank + 1) * count].clamp_min(torch.finfo(torch.float64).tiny)
    return -(-u.log()).log().to(like)


def straight_through(log_p: Tensor, noise: Tensor, tau: float) -> Tensor:
    r"""One-hot samples with the gradient of the softmax.

    .. math::
        h = \mathrm{onehot}(\arg\max_j (\log p_j + g_j)), \quad
        \frac{\partial h}{\partial p} :=
        \frac{\partial}{\partial p} \mathrm{softmax}((\log p + g) / \tau)

    Args:
        log_p: Logarithms of the probabilities, `[N, m]`.
        noise: Gumbel noise, `[N, m]`.
        tau: Temperature.

    Returns:
        `[N, m]`, a one in every row and zeros.
    """
    scores = log_p + noise
    soft = (scores / tau).softmax(1)
    hard = torch.zeros_like(soft).scatter_(1, scores.argmax(1, keepdim=True), 1.0)
    # Exactly zeros and ones: the difference is zero.
    return hard + (soft - soft.detach())
