"""Every operation against Pillow's."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from mulfree.data import image_ops

Op = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def images(count: int = 6, height: int = 13, width: int = 17) -> torch.Tensor:
    """Noise, a ramp of few values, and one flat image."""
    generator = torch.Generator().manual_seed(0)
    made = torch.randint(256, (count, 3, height, width), dtype=torch.uint8, generator=generator)
    made[1] = 40 + made[1] // 4
    made[2] = 77
    made[3, 0] = 0
    return made


def pillow(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


POINTWISE: list[tuple[Op, list[float], Callable[[Image.Image, float], Image.Image]]] = [
    (image_ops.invert, [0.0], lambda image, _: ImageOps.invert(image)),
    (image_ops.auto_contrast, [0.0], lambda image, _: ImageOps.autocontrast(image)),
    (image_ops.equalize, [0.0], lambda image, _: ImageOps.equalize(image)),
    (image_ops.solarize, [256.0, 113.7, 0.0], lambda i, v: ImageOps.solarize(i, v)),  # type: ignore[arg-type]
    (image_ops.posterize, [8.0, 6.0, 4.0, 1.0], lambda i, v: ImageOps.posterize(i, int(v))),
    (image_ops.color, [0.1, 1.0, 1.9], lambda i, v: ImageEnhance.Color(i).enhance(v)),
    (image_ops.contrast, [0.1, 1.0, 1.9], lambda i, v: ImageEnhance.Contrast(i).enhance(v)),
    (image_ops.brightness, [0.1, 1.0, 1.9], lambda i, v: ImageEnhance.Brightness(i).enhance(v)),
    (image_ops.sharpness, [0.1, 1.0, 1.9], lambda i, v: ImageEnhance.Sharpness(i).enhance(v)),
]


@pytest.mark.parametrize(
    ("ours", "values", "theirs"), POINTWISE, ids=lambda v: getattr(v, "__name__", "")
)
def test_values_of_pillow(
    ours: Op, values: list[float], theirs: Callable[[Image.Image, float], Image.Image]
) -> None:
    # Wide enough for a histogram with more than 255 pixels.
    given = images(height=24, width=31)
    for value in values:
        got = ours(given, torch.full((len(given),), value))
        assert got.dtype == torch.uint8
        for image, own in zip(given, got, strict=True):
            assert torch.equal(own, tensor(theirs(pillow(image), value))), value


GEOMETRIC: list[tuple[Op, float, Callable[[float, int, int], tuple[float, ...]]]] = [
    (image_ops.shear_x, 0.3, lambda v, h, w: (1, v, 0, 0, 1, 0)),
    (image_ops.shear_y, 0.23, lambda v, h, w: (1, 0, 0, v, 1, 0)),
    (image_ops.translate_x, 0.2, lambda v, h, w: (1, 0, v * w, 0, 1, 0)),
    (image_ops.translate_y, 0.45, lambda v, h, w: (1, 0, 0, 0, 1, v * h)),
]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("ours", "value", "matrix"), GEOMETRIC, ids=lambda v: getattr(v, "__name__", "")
)
def test_shears_and_shifts_of_pillow(
    ours: Op, value: float, matrix: Callable[[float, int, int], tuple[float, ...]], sign: int
) -> None:
    given = images()
    got = ours(given, torch.full((len(given),), sign * value))
    height, width = given.shape[2:]
    for image, own in zip(given, got, strict=True):
        data = matrix(sign * value, height, width)
        expected = pillow(image).transform(
            (width, height), Image.Transform.AFFINE, data, fillcolor=(image_ops.FILL,) * 3
        )
        # Pillow computes positions in fixed point: pixels exactly on an edge may differ.
        assert (own != tensor(expected)).float().mean() < 0.02


@pytest.mark.parametrize("degrees", [30.0, -7.0, 0.0, 90.0])
def test_rotations_of_pillow(degrees: float) -> None:
    given = images(height=15, width=15)
    got = image_ops.rotate(given, torch.full((len(given),), degrees))
    for image, own in zip(given, got, strict=True):
        expected = pillow(image).rotate(degrees, fillcolor=(image_ops.FILL,) * 3)
        assert (own != tensor(expected)).float().mean() < 0.02


def test_each_image_has_its_own_magnitude() -> None:
    given = images(4)
    values = torch.tensor([0.5, 1.0, 1.5, 0.25])
    got = image_ops.brightness(given, values)
    for image, value, own in zip(given, values, got, strict=True):
        assert torch.equal(own, image_ops.brightness(image[None], value[None])[0])
    turned = image_ops.rotate(given, torch.tensor([0.0, 180.0, 0.0, 180.0]))
    assert torch.equal(turned[0], given[0])
    assert torch.equal(turned[1], given[1].flip(1, 2))


def test_tiny_images() -> None:
    given = images(4, height=2, width=1)
    for op in (image_ops.sharpness, image_ops.equalize, image_ops.auto_contrast, image_ops.rotate):
        assert op(given, torch.full((4,), math.pi)).shape == given.shape
