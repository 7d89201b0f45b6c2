"""How much one network does what another does, whatever the labels say.

References:
    arXiv 2106.05945, section 3: the fidelity of a student to its teacher.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import kl_div


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """How much a student does what its teacher does on a set of images.

    Attributes:
        teacher_accuracy: Fraction of the images that the teacher recognises.
        agreement: Fraction of the images of which both name the same class.
        kl: Mean Kullback-Leibler divergence of their probabilities, see `divergence`, in nats.
    """

    teacher_accuracy: float
    agreement: float
    kl: float


def agreement(student: Tensor, teacher: Tensor) -> Tensor:
    """Fraction of the images of which both networks name the same class, a scalar.

    Args:
        student: Logits `[N, num_classes]`.
        teacher: Logits `[N, num_classes]`.
    """
    return (student.argmax(dim=1) == teacher.argmax(dim=1)).float().mean()


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Mean over the images of :math:`KL(p_t \,\|\, p_s) = \sum_j p_{t,j} \ln (p_{t,j} / p_{s,j})`.

    Args:
        student: Logits `[N, num_classes]`, whose softmax is :math:`p_s`.
        teacher: Logits `[N, num_classes]`, whose softmax is :math:`p_t`.

    Returns:
        A scalar in nats.
    """
    log_student, log_teacher = student.log_softmax(dim=1), teacher.log_softmax(dim=1)
    return kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
