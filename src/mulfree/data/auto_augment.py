"""AutoAugment: learned policies of two operations an image.

References:
    arXiv 1805.09501; magnitudes Table 6, policies Tables 7 and 9.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

from mulfree.data import image_ops
from mulfree.data.transforms import Augmentation
from mulfree.errors import ConfigError, ShapeError, choices_message

_Step: TypeAlias = tuple[str, float, int]
"""Operation, probability and magnitude from 0 to 9."""


@dataclass(frozen=True, kw_only=True)
class _Operation:
    """Operation on images and its values at the ten magnitudes.

    Attributes:
        apply: Maps images and values to images.
        values: Value at each magnitude.
        signed: Whether the value is negated for half of the images.
    """

    apply: Callable[[Tensor, Tensor], Tensor]
    values: Sequence[float] = (0.0,) * 10
    signed: bool = False


def _range(start: float, end: float) -> tuple[float, ...]:
    return tuple(start + (end - start) * magnitude / 9 for magnitude in range(10))


_FACTORS = _range(0.1, 1.9)
# Pixels of an image of 331 in the paper.
_SHARES = _range(0, 150 / 331)
_OPERATIONS = {
    "shear_x": _Operation(apply=image_ops.shear_x, values=_range(0, 0.3), signed=True),
    "shear_y": _Operation(apply=image_ops.shear_y, values=_range(0, 0.3), signed=True),
    "translate_x": _Operation(apply=image_ops.translate_x, values=_SHARES, signed=True),
    "translate_y": _Operation(apply=image_ops.translate_y, values=_SHARES, signed=True),
    "rotate": _Operation(apply=image_ops.rotate, values=_range(0, 30), signed=True),
    "auto_contrast": _Operation(apply=image_ops.auto_contrast),
    "invert": _Operation(apply=image_ops.invert),
    "equalize": _Operation(apply=image_ops.equalize),
    "solarize": _Operation(apply=image_ops.solarize, values=_range(256, 0)),
    "posterize": _Operation(
        apply=image_ops.posterize, values=tuple(8 - round(m * 4 / 9) for m in range(10))
    ),
    "contrast": _Operation(apply=image_ops.contrast, values=_FACTORS),
    "color": _Operation(apply=image_ops.color, values=_FACTORS),
    "brightness": _Operation(apply=image_ops.brightness, values=_FACTORS),
    "sharpness": _Operation(apply=image_ops.sharpness, values=_FACTORS),
}

POLICIES: dict[str, tuple[tuple[_Step, _Step], ...]] = {
    "cifar": (
        (("invert", 0.1, 7), ("contrast", 0.2, 6)),
        (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
        (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
        (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
        (("auto_contrast", 0.5, 8), ("equalize", 0.9, 2)),
        (("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
        (("color", 0.4, 3), ("brightness", 0.6, 7)),
        (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
        (("equalize", 0.6, 5), ("equalize", 0.5, 1)),
        (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
        (("color", 0.7, 7), ("translate_x", 0.5, 8)),
        (("equalize", 0.3, 7), ("auto_contrast", 0.4, 8)),
        (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
        (("brightness", 0.9, 6), ("color", 0.2, 8)),
        (("solarize", 0.5, 2), ("invert", 0.0, 3)),
        (("equalize", 0.2, 0), ("auto_contrast", 0.6, 0)),
        (("equalize", 0.2, 8), ("equalize", 0.6, 4)),
        (("color", 0.9, 9), ("equalize", 0.6, 6)),
        (("auto_contrast", 0.8, 4), ("solarize", 0.2, 8)),
        (("brightness", 0.1, 3), ("color", 0.7, 0)),
        (("solarize", 0.4, 5), ("auto_contrast", 0.9, 3)),
        (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
        (("auto_contrast", 0.9, 2), ("solarize", 0.8, 3)),
        (("equalize", 0.8, 8), ("invert", 0.1, 3)),
        (("translate_y", 0.7, 9), ("auto_contrast", 0.9, 1)),
    ),
    "imagenet": (
        (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
        (("solarize", 0.6, 5), ("auto_contrast", 0.6, 5)),
        (("equalize", 0.8, 8), ("equalize", 0.6, 3)),
        (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
        (("equalize", 0.4, 7), ("solarize", 0.2, 4)),
        (("equalize", 0.4, 4), ("rotate", 0.8, 8)),
        (("solarize", 0.6, 3), ("equalize", 0.6, 7)),
        (("posterize", 0.8, 5), ("equalize", 1.0, 2)),
        (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
        (("equalize", 0.6, 8), ("posterize", 0.4, 6)),
        (("rotate", 0.8, 8), ("color", 0.4, 0)),
        (("rotate", 0.4, 9), ("equalize", 0.6, 2)),
        (("equalize", 0.0, 7), ("equalize", 0.8, 8)),
        (("invert", 0.6, 4), ("equalize", 1.0, 8)),
        (("color", 0.6, 4), ("contrast", 1.0, 8)),
        (("rotate", 0.8, 8), ("color", 1.0, 2)),
        (("color", 0.8, 8), ("solarize", 0.8, 7)),
        (("sharpness", 0.4, 7), ("invert", 0.6, 8)),
        (("shear_x", 0.6, 5), ("equalize", 1.0, 9)),
        (("color", 0.4, 0), ("equalize", 0.6, 3)),
        (("equalize", 0.4, 7), ("solarize", 0.2, 4)),
        (("solarize", 0.6, 5), ("auto_contrast", 0.6, 5)),
        (("invert", 0.6, 4), ("equalize", 1.0, 8)),
        (("color", 0.6, 4), ("contrast", 1.0, 8)),
        (("equalize", 0.8, 8), ("equalize", 0.6, 3)),
    ),
}


@dataclass(frozen=True, kw_only=True)
class AutoAugment:
    """Augmentation, then one sub-policy for each image, drawn uniformly.

    Each of the two operations of a sub-policy is applied with its probability. Images of one
    operation are processed as a batch; on a GPU their selection waits for the device.

    Args:
        policy: One of `POLICIES`.
        first: Augmentation applied before, whose result is rounded to uint8; None for none.

    Raises:
        ConfigError: There is no such policy.
    """

    policy: str
    first: Augmentation | None = None

    _columns: tuple[int, torch.dtype] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ConfigError(choices_message("AutoAugment", "policy", self.policy, POLICIES))
        empty = torch.empty(0, 0)
        drawn = empty if self.first is None else self.first.draw(0, torch.Generator())
        object.__setattr__(self, "_columns", (drawn.shape[1], drawn.dtype))

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Sub-policy, two probabilities and two signs, then columns of `first`, `[count, K]`."""
        first = torch.empty(count, 0)
        if self.first is not None:
            first = self.first.draw(count, generator)
        choice = torch.randint(len(POLICIES[self.policy]), (count, 1), generator=generator)
        probabilities = torch.rand(count, 2, generator=generator)
        signs = torch.randint(2, (count, 2), generator=generator) * 2 - 1
        # Whole numbers below 2^24 are exact.
        return torch.cat([choice.float(), probabilities, signs.float(), first.float()], dim=1)

    def __call__(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Augmented images, uint8."""
        if images.shape[1] != 3:
            raise ShapeError(
                f"AutoAugment: `images` must have 3 channels, got {list(images.shape)}"
            )
        columns, dtype = self._columns
        own, first = drawn[:, :5], drawn[:, 5 : 5 + columns].to(dtype)
        if self.first is not None:
            images = self.first(images, first)
        if images.is_floating_point():
            images = images.round().clamp(0, 255).to(torch.uint8)
        result = images.clone()
        choice = own[:, 0].long()
        for position in range(2):
            for name, (probabilities, values) in self._tables(position, images.device).items():
                rows = (own[:, 1 + position] < probabilities[choice]).nonzero().flatten()
                if not len(rows):
                    continue
                value = values[choice[rows]]
                if _OPERATIONS[name].signed:
                    value = value * own[rows, 3 + position]
                result[rows] = _OPERATIONS[name].apply(result[rows], value)
        return result

    def _tables(self, position: int, device: torch.device) -> dict[str, tuple[Tensor, Tensor]]:
        """Probability and value in each sub-policy, by operation; 0 where another one stands."""
        steps = [pair[position] for pair in POLICIES[self.policy]]
        return {
            name: (
                torch.tensor([p if own == name else 0.0 for own, p, _ in steps], device=device),
                torch.tensor([operation.values[m] for _, _, m in steps], device=device),
            )
            for name, operation in _OPERATIONS.items()
            if any(own == name for own, _, _ in steps)
        }
