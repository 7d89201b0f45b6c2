"""Parts shared by all families."""

from __future__ import annotations

from torch import Tensor, nn

from mulfree.errors import ShapeError


def logit_norm(num_classes: int, norm_logits: bool) -> nn.Module:
    """Batch norm of logits `[N, classes, 1, 1]`, or the identity."""
    return nn.BatchNorm2d(num_classes) if norm_logits else nn.Identity()


def check_images(function: str, images: Tensor, channels: int, side: int) -> None:
    """Require a batch of images with `channels` channels and at least `side` pixels a side.

    Raises:
        ShapeError: Another rank, number of channels, or too small.
    """
    shape = images.shape
    if len(shape) != 4 or shape[1] != channels or shape[2] < side or shape[3] < side:
        raise ShapeError(
            f"{function}: `images` must have shape [N, {channels}, H, W] with H and W >= {side}, "
            f"got {list(shape)}"
        )
