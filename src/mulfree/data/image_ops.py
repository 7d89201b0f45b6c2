"""Operations of AutoAugment on batches of uint8 images, with the values of Pillow's.

Legend: N images, C = 3 channels, H W size. Every operation maps images `[N, 3, H, W]`, uint8, and a
magnitude per image `[N]`, float32, to images of the same shape and dtype; those without magnitude
ignore it.

References:
    Operations: arXiv 1805.09501, Table 6. Values: ImageOps and ImageEnhance of Pillow.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

FILL = 128
"""Value of pixels from outside the image."""


def shear_x(images: Tensor, shear: Tensor) -> Tensor:
    """Shift each row by its distance from the top times `shear`, to the left if positive."""
    return _affine(images, 1, shear, 0, 0, 1, 0)


def shear_y(images: Tensor, shear: Tensor) -> Tensor:
    """Shift each column by its distance from the left times `shear`, upwards if positive."""
    return _affine(images, 1, 0, 0, shear, 1, 0)


def translate_x(images: Tensor, share: Tensor) -> Tensor:
    """Shift by a share of the width, to the left if positive."""
    return _affine(images, 1, 0, share * images.shape[3], 0, 1, 0)


def translate_y(images: Tensor, share: Tensor) -> Tensor:
    """Shift by a share of the height, upwards if positive."""
    return _affine(images, 1, 0, 0, 0, 1, share * images.shape[2])


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Rotate about the centre, counterclockwise if positive."""
    angle = degrees.double() * (-math.pi / 180)
    cos, sin = angle.cos(), angle.sin()
    y, x = (side / 2 for side in images.shape[2:])
    return _affine(images, cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y)


def invert(images: Tensor, _: Tensor) -> Tensor:
    """255 minus each value."""
    return 255 - images


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert values of `threshold` and above."""
    return torch.where(images < threshold.view(-1, 1, 1, 1), images, 255 - images)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest `bits` bits, a whole number from 1 to 8."""
    step = (2 ** (8 - bits)).to(torch.uint8).view(-1, 1, 1, 1)
    return images - images % step


def auto_contrast(images: Tensor, _: Tensor) -> Tensor:
    """Stretch each channel to 0..255; a channel of one value stays as it is."""
    flat = images.flatten(2).double()
    low, high = flat.amin(2, keepdim=True), flat.amax(2, keepdim=True)
    scale = 255 / (high - low).clamp_min(1)
    stretched = (flat * scale - low * scale).trunc().clamp(0, 255)
    return torch.where(high > low, stretched, flat).to(torch.uint8).view_as(images)


def equalize(images: Tensor, _: Tensor) -> Tensor:
    """Equalise the histogram of each channel."""
    values = images.flatten(2).long()
    histogram = torch.zeros(*values.shape[:2], 256, dtype=torch.int64, device=images.device)
    histogram.scatter_add_(2, values, torch.ones_like(values))
    # The last value that occurs is left out of the total.
    last = histogram.gather(2, values.amax(2, keepdim=True))
    step = (histogram.sum(2, keepdim=True) - last) // 255
    below = histogram.cumsum(2) - histogram
    table = ((step // 2 + below) // step.clamp_min(1)).clamp_max(255)
    table = torch.where(step > 0, table, torch.arange(256, device=images.device))
    return table.gather(2, values).to(torch.uint8).view_as(images)


def color(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the grey image."""
    return _blended(_grey(images), images, factor)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean of the grey image, rounded."""
    mean = (_grey(images).double().mean((1, 2, 3), keepdim=True) + 0.5).floor()
    return _blended(mean, images, factor)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with black."""
    return _blended(torch.zeros_like(images), images, factor)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the image smoothed by a 3x3 filter; the outermost pixels stay as they are."""
    kernel = torch.ones(3, 1, 3, 3, device=images.device)
    kernel[:, :, 1, 1] = 5
    smooth = images.clone()
    if min(images.shape[2:]) > 2:
        # Sums of whole numbers, which are exact, then rounded to the nearest.
        sums = functional.conv2d(images.float(), kernel, groups=3)
        smooth[:, :, 1:-1, 1:-1] = (sums / 13 + 0.5).floor().to(torch.uint8)
    return _blended(smooth, images, factor)


def _grey(images: Tensor) -> Tensor:
    """Luma of ITU-R 601 with Pillow's 16-bit weights, `[N, 1, H, W]`."""
    red, green, blue = images.int().unbind(1)
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).unsqueeze(1)


def _blended(other: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    """`other + factor * (images - other)`, truncated and clamped."""
    start = other.float()
    blended = start + factor.float().view(-1, 1, 1, 1) * (images.float() - start)
    return blended.clamp(0, 255).to(torch.uint8)


def _affine(images: Tensor, *matrix: Tensor | float) -> Tensor:
    """Pixel (x, y) from the nearest of (a x + b y + c, d x + e y + f), or `FILL` outside."""
    count, channels, height, width = images.shape
    dtype, device = torch.float64, images.device
    coefficients = (torch.as_tensor(v, dtype=dtype, device=device) for v in matrix)
    a, b, c, d, e, f = (v.view(-1, 1, 1) for v in coefficients)
    y = (torch.arange(height, dtype=dtype, device=device) + 0.5).view(1, -1, 1)
    x = (torch.arange(width, dtype=dtype, device=device) + 0.5).view(1, 1, -1)
    columns, rows = (a * x + b * y + c).floor(), (d * x + e * y + f).floor()
    shape = (count, height, width)
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    index = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
    index = index.long().expand(shape).reshape(count, 1, -1).expand(-1, channels, -1)
    moved = images.flatten(2).gather(2, index).view_as(images)
    return torch.where(inside.expand(shape).unsqueeze(1), moved, FILL)
