"""Augmentation and normalisation of whole batches, on any device.

Legend: N images, C channels, H W stored size, S size of the network's input. Random numbers are
drawn first, on the CPU, one row per image (`draw`), and applied second: equal rows give equal
images on every device and for every division of a batch among ranks. Constants are computed once on
the CPU and cached per device: a batch causes no copy and no synchronisation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from mulfree.errors import ConfigError, ShapeError


class Augmentation(Protocol):
    """Change of the geometry of uint8 images by random numbers drawn in advance."""

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Random numbers, one row per image, `[count, K]`."""

    def __call__(self, images: Tensor, drawn: Tensor) -> Tensor:
        """The changed images `[N, C, S, S]`, on the scale 0..255."""


def _flip(images: Tensor, flipped: Tensor) -> Tensor:
    """Flip images `[N, C, H, W]` horizontally where `flipped` `[N]` is true."""
    return torch.where(flipped.view(-1, 1, 1, 1), images.flip(-1), images)


@dataclass(frozen=True, kw_only=True)
class ShiftFlip:
    """Random crop of the zero-padded image at its own size, then a random horizontal flip.

    The augmentation of the AdderNet authors' CIFAR training (padding 4).

    Args:
        padding: Pixels added on each side, and largest shift of the crop.
        flip: Whether to flip half of the images. Wrong for digits and letters.

    References:
        arXiv 1912.13200, section 4.2; He et al., arXiv 1512.03385, section 4.2.
    """

    padding: int
    flip: bool = True

    def __post_init__(self) -> None:
        if self.padding < 0:
            raise ConfigError(f"ShiftFlip: `padding` must not be negative, got {self.padding}")

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Row offset, column offset and flip, int64 `[count, 3]`."""
        offsets = torch.randint(2 * self.padding + 1, (count, 2), generator=generator)
        mirror = torch.randint(2 if self.flip else 1, (count, 1), generator=generator)
        return torch.cat([offsets, mirror], dim=1)

    def __call__(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Shifted and flipped images of the same shape and dtype."""
        height, width = images.shape[-2:]
        padded = functional.pad(images, [self.padding] * 4)
        # A view of all crops, [N, C, 2p + 1, 2p + 1, H, W]; indexing copies the chosen ones only.
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)
        rows = torch.arange(len(images), device=images.device)
        return _flip(windows[rows, :, drawn[:, 0], drawn[:, 1]], drawn[:, 2] == 1)


@dataclass(frozen=True, kw_only=True)
class ResizedCrop:
    """Random crop by area and aspect ratio, resized bilinearly, then a random horizontal flip.

    Args:
        size: S.
        scale: Smallest and largest share of the area.
        ratio: Smallest and largest width over height.

    References:
        Szegedy et al., arXiv 1409.4842, section 6.
    """

    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    _constants: dict[torch.device, Tensor] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    _TRIES = 10

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Top, left, height and width as fractions, and flip, float32 `[count, 5]`."""
        draws = torch.rand(count, self._TRIES, 2, generator=generator)
        place = torch.rand(count, 3, generator=generator)
        area = self.scale[0] + (self.scale[1] - self.scale[0]) * draws[..., 0]
        low, high = torch.tensor(self.ratio).log()
        ratio = torch.exp(low + (high - low) * draws[..., 1])
        heights, widths = (area / ratio).sqrt(), (area * ratio).sqrt()
        fits = (heights <= 1) & (widths <= 1)
        first = fits.to(torch.uint8).argmax(dim=1, keepdim=True)
        found = fits.any(dim=1, keepdim=True)
        height = torch.where(found, heights.gather(1, first), 1.0)
        width = torch.where(found, widths.gather(1, first), 1.0)
        top, left = (1 - height) * place[:, :1], (1 - width) * place[:, 1:2]
        return torch.cat([top, left, height, width, (place[:, 2:] < 0.5).float()], dim=1)

    def __call__(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Float images `[N, C, S, S]`."""
        top, left, height, width, mirror = drawn[:, :, None].unbind(dim=1)
        # grid_sample's coordinates run from -1 to 1: the crop's centre plus steps of its half
        # extent. Not affine_grid: that is a matrix product, which TF32 rounds to tenths of a pixel.
        steps = self._steps(images.device)
        rows = steps * height + (2 * top + height - 1)
        columns = steps * (width * (1 - 2 * mirror)) + (2 * left + width - 1)
        shape = (len(images), self.size, self.size)
        grid = torch.stack(
            [columns[:, None, :].expand(shape), rows[:, :, None].expand(shape)], dim=-1
        )
        return functional.grid_sample(
            images.float(), grid, padding_mode="border", align_corners=False
        )

    def _steps(self, device: torch.device) -> Tensor:
        """Centres of S equal pixels over -1..1, `[S]`."""
        if device not in self._constants:
            steps = torch.linspace(-1, 1, self.size) * (self.size - 1) / self.size
            self._constants[device] = steps.to(device)
        return self._constants[device]


@dataclass(frozen=True, kw_only=True)
class CentreCrop:
    """Centre crop of `size` x `size` pixels, without random numbers."""

    size: int

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Empty rows, `[count, 0]`."""
        return torch.empty(count, 0)

    def __call__(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Images `[N, C, S, S]` of the same dtype."""
        height, width = images.shape[-2:]
        if min(height, width) < self.size:
            raise ShapeError(
                f"CentreCrop: `images` must be at least {self.size} pixels high and wide, "
                f"got {list(images.shape)}"
            )
        top, left = (height - self.size) // 2, (width - self.size) // 2
        return images[..., top : top + self.size, left : left + self.size]


@dataclass(frozen=True, kw_only=True)
class Transform:
    """Transform of uint8 images to the network's float32 input: (augment(x) / 255 - mean) / std.

    Args:
        mean: Per channel, on the scale 0..1.
        std: Per channel, on the scale 0..1.
        augmentation: Applied before normalisation; None for none.

    Raises:
        ConfigError: `mean` and `std` differ in length or `std` is not positive.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation | None = None

    _constants: dict[torch.device, tuple[Tensor, Tensor]] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or min(self.std, default=0.0) <= 0.0:
            raise ConfigError(
                "Transform: `std` must hold one positive number for each of the "
                f"{len(self.mean)} channels of `mean`, got {self.std}"
            )

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Random numbers for `count` images, one row each."""
        if self.augmentation is None:
            return torch.empty(count, 0)
        return self.augmentation.draw(count, generator)

    def __call__(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Network input `[N, C, S, S]`, float32.

        Args:
            images: `[N, C, H, W]`, uint8.
            drawn: Rows of `draw`, one per image, on the device of `images`.
        """
        if images.dim() != 4 or images.shape[1] != len(self.mean):
            raise ShapeError(
                f"Transform: `images` must have shape [N, {len(self.mean)}, H, W], "
                f"got {list(images.shape)}"
            )
        if self.augmentation is not None:
            images = self.augmentation(images, drawn)
        # x * (1 / (255 std)) - mean / std: one multiply-add over the batch.
        offset, scale = self._offset_and_scale(images.device)
        return torch.addcmul(offset, images, scale)

    def _offset_and_scale(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Summand and factor of each channel, `[C, 1, 1]`."""
        if device not in self._constants:
            std = torch.tensor(self.std).view(-1, 1, 1)
            mean = torch.tensor(self.mean).view(-1, 1, 1)
            self._constants[device] = (-mean / std).to(device), (1 / (255 * std)).to(device)
        return self._constants[device]
