"""Former names of options, for recipes, command lines and checkpoints that still have them."""

from __future__ import annotations

RENAMED = {
    "norm.start": "p_annealing.start",
    "norm.fraction": "p_annealing.fraction",
    "method.blend": "method.loss_weighting (sum is additive, mix is convex)",
    "method.kernel": "method.use_kernel",
    "method.linear": "method.projection",
    "method.where": "removed: outputs of the layers themselves are always compared",
    "method.sign": "removed: the kernels of both networks always have opposite signs",
    "method.normalise": "removed: outputs are always compared at unit variance",
    "method.teacher_lr": "removed: both networks always have the learning rate of the optimizer",
    "method.edges": "removed: the first layer and the classifier always have int8 weights",
    "method.start": "method.init_from",
    "method.shift_only": "method.power_of_two_scales",
    "optimizer.eta": "optimizer.local_lr_eta",
    "schedule.interval": "schedule.per",
    "schedule.peak": "schedule.pct_start",
    "schedule.floor": "schedule.min_lr_ratio",
    "trainer.accumulate": "trainer.accumulate_grad_batches",
    "trainer.clip_norm": "trainer.gradient_clip_norm",
}
"""New name of each option, or "removed" with the value that it always has."""


def renaming(name: str) -> str:
    """End of the error about the unknown option `name`; empty if there was never such an option."""
    new = RENAMED.get(name)
    if new is None:
        return ""
    return f"; it was {new}" if new.startswith("removed") else f"; it is now {new}"
