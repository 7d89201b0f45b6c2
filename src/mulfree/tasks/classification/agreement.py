"""Agreement of a network with another one, whatever the labels are.

References:
    arXiv 2106.05945, section 3, which calls it fidelity.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import kl_div


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """Agreement of a network with a reference network on a set of images.

    Attributes:
        reference_accuracy: Fraction of the images that the reference recognises.
        agreement: Fraction of the images for which both predict the same class.
        kl: Mean Kullback-Leibler divergence of their probabilities, see `divergence`, in nats.
    """

    reference_accuracy: float
    agreement: float
    kl: float


def agreement(logits: Tensor, reference: Tensor) -> Tensor:
    """Fraction of the images for which both networks predict the same class, a scalar.

    Args:
        logits: `[N, num_classes]`.
        reference: Logits of the reference network, `[N, num_classes]`.
    """
    return (logits.argmax(dim=1) == reference.argmax(dim=1)).float().mean()


def divergence(logits: Tensor, reference: Tensor) -> Tensor:
    r"""Mean over the images of :math:`KL(p_r \,\|\, p) = \sum_j p_{r,j} \ln (p_{r,j} / p_j)`.

    Args:
        logits: `[N, num_classes]`, whose softmax is :math:`p`.
        reference: Logits of the reference network, whose softmax is :math:`p_r`.

    Returns:
        A scalar in nats.
    """
    log_p, log_r = logits.log_softmax(dim=1), reference.log_softmax(dim=1)
    return kl_div(log_p, log_r, reduction="batchmean", log_target=True)
