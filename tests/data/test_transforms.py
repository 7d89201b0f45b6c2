from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mulfree.data import Augmentation, CentreCrop, ResizedCrop, ShiftFlip, Transform
from mulfree.errors import ConfigError, ShapeError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(count: int, channels: int, height: int, width: int) -> torch.Tensor:
    return torch.randint(
        256, (count, channels, height, width), dtype=torch.uint8, generator=generator(1)
    )


@pytest.mark.parametrize(
    ("count", "channels", "height", "width", "padding", "flip"),
    [
        (64, 3, 32, 32, 4, True),
        (7, 1, 28, 28, 2, True),
        (50, 1, 8, 8, 1, False),
        (5, 2, 5, 9, 3, True),
        (3, 3, 4, 4, 0, True),
        (1, 1, 1, 1, 2, False),
        (0, 3, 8, 8, 2, True),
    ],
)
def test_shift_flip_is_the_image_by_image_crop(
    count: int, channels: int, height: int, width: int, padding: int, flip: bool
) -> None:
    images = batch(count, channels, height, width)
    augmentation = ShiftFlip(padding=padding, flip=flip)
    drawn = augmentation.draw(count, generator())
    result = augmentation(images, drawn)
    assert result.dtype == torch.uint8
    assert result.shape == images.shape
    for image, (down, right, mirror), got in zip(
        images.numpy(), drawn.tolist(), result.numpy(), strict=True
    ):
        around = ((0, 0), (padding, padding), (padding, padding))
        expected = np.pad(image, around)[:, down : down + height, right : right + width]
        np.testing.assert_array_equal(got, expected[..., ::-1] if mirror else expected)


def test_shift_flip_draws_every_offset_and_mirror_alike() -> None:
    drawn = ShiftFlip(padding=2).draw(20000, generator())
    for column, choices in ((0, 5), (1, 5), (2, 2)):
        counts = drawn[:, column].bincount(minlength=choices)
        assert len(counts) == choices
        # Five standard deviations of a binomial count.
        spread = 5 * math.sqrt(20000 / choices * (1 - 1 / choices))
        assert (counts - 20000 / choices).abs().max() < spread
    assert ShiftFlip(padding=2, flip=False).draw(100, generator())[:, 2].max() == 0


def test_shift_flip_keeps_a_strided_input_right() -> None:
    images = batch(6, 3, 8, 8).to(memory_format=torch.channels_last)
    augmentation = ShiftFlip(padding=2)
    drawn = augmentation.draw(6, generator())
    assert torch.equal(augmentation(images, drawn), augmentation(images.contiguous(), drawn))


def bilinear(image: NDArray[np.float64], row: float, column: float) -> NDArray[np.float64]:
    """The value at a fractional pixel position, the border repeated outwards."""
    height, width = image.shape[1:]
    row, column = min(max(row, 0), height - 1), min(max(column, 0), width - 1)
    top, left = int(row), int(column)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, along = row - top, column - left
    upper = image[:, top, left] * (1 - along) + image[:, top, right] * along
    lower = image[:, bottom, left] * (1 - along) + image[:, bottom, right] * along
    result: NDArray[np.float64] = upper * (1 - down) + lower * down
    return result


def test_resized_crop_is_the_image_by_image_resize() -> None:
    size, sides = 5, (12, 10)
    images = batch(8, 3, *sides)
    augmentation = ResizedCrop(size=size)
    drawn = augmentation.draw(8, generator())
    assert 0 < drawn[:, 4].sum() < 8
    result = augmentation(images, drawn)
    assert result.shape == (8, 3, size, size)
    for image, (top, left, height, width, mirror), got in zip(
        images.double().numpy(), drawn.double().tolist(), result.numpy(), strict=True
    ):
        for i in range(size):
            for j in range(size):
                across = size - 1 - j if mirror else j
                row = (top + height * (i + 0.5) / size) * sides[0] - 0.5
                column = (left + width * (across + 0.5) / size) * sides[1] - 0.5
                # float32 positions: 255 times a few ulp of a coordinate of up to 12.
                np.testing.assert_allclose(got[:, i, j], bilinear(image, row, column), atol=2e-3)


def test_resized_crop_draws_crops_inside_with_the_area_and_ratio_asked_for() -> None:
    drawn = ResizedCrop(size=8, scale=(0.2, 0.9)).draw(5000, generator()).double()
    top, left, height, width, mirror = drawn.unbind(1)
    assert min(top.min(), left.min()) >= 0
    assert max((top + height).max(), (left + width).max()) <= 1 + 1e-6
    area, ratio = height * width, width / height
    assert 0.2 - 1e-6 <= area.min() < 0.21
    assert 0.8 < area.max() <= 0.9 + 1e-6
    assert 3 / 4 - 1e-6 <= ratio.min() < 0.77
    assert 1.3 < ratio.max() <= 4 / 3 + 1e-6
    assert 0.45 < mirror.mean() < 0.55


def test_resized_crop_takes_the_whole_image_where_nothing_fits() -> None:
    drawn = ResizedCrop(size=8, scale=(1.0, 1.0), ratio=(2.0, 2.0)).draw(3, generator())
    assert drawn[:, :4].tolist() == [[0.0, 0.0, 1.0, 1.0]] * 3


def test_centre_crop() -> None:
    images = batch(2, 3, 9, 8)
    crop = CentreCrop(size=4)
    drawn = crop.draw(2, generator())
    assert torch.equal(crop(images, drawn), images[..., 2:6, 2:6])
    with pytest.raises(ShapeError, match=r"at least 9 pixels high and wide, got \[2, 3, 9, 8\]"):
        CentreCrop(size=9)(images, drawn)


@pytest.mark.parametrize("augmentation", [None, ShiftFlip(padding=4)])
def test_transform_normalises_as_the_definition(augmentation: Augmentation | None) -> None:
    mean, std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    transform = Transform(mean=mean, std=std, augmentation=augmentation)
    images = batch(16, 3, 32, 32)
    drawn = transform.draw(16, generator())
    result = transform(images, drawn)
    changed = images if augmentation is None else augmentation(images, drawn)
    centre = torch.tensor(mean, dtype=torch.float64).view(3, 1, 1)
    scale = torch.tensor(std, dtype=torch.float64).view(3, 1, 1)
    expected = (changed.double() / 255 - centre) / scale
    assert result.dtype == torch.float32
    # Values up to 2.8, four roundings of half an ulp each.
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=5e-7)


@pytest.mark.parametrize(
    "augmentation", [None, ShiftFlip(padding=2), ResizedCrop(size=6), CentreCrop(size=6)]
)
def test_compiles_to_one_graph(augmentation: Augmentation | None) -> None:
    transform = Transform(mean=(0.5,) * 3, std=(0.25,) * 3, augmentation=augmentation)
    everything = batch(20, 3, 8, 8)
    rows = torch.arange(19, 3, -2)
    drawn = transform.draw(len(rows), generator())

    def load(rows: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        return transform(everything.index_select(0, rows), drawn)

    compiled = torch.compile(load, fullgraph=True, backend="aot_eager")
    first = compiled(rows, drawn)  # when no constant is there yet
    assert torch.equal(first, load(rows, drawn))
    assert torch.equal(compiled(rows, drawn), first)


@pytest.mark.gpu
def test_a_gpu_shifts_and_crops_as_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    images = batch(64, 3, 40, 36)
    for exact in (ShiftFlip(padding=4), CentreCrop(size=30)):
        drawn = exact.draw(64, generator())
        assert torch.equal(exact(images.cuda(), drawn.cuda()).cpu(), exact(images, drawn))
    crop = ResizedCrop(size=24)
    drawn = crop.draw(64, generator())
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", True)
    # Positions are the same numbers; scaling them to pixels may round differently by an ulp.
    torch.testing.assert_close(
        crop(images.cuda(), drawn.cuda()).cpu(), crop(images, drawn), rtol=0, atol=2e-3
    )


def test_rejects() -> None:
    with pytest.raises(ConfigError, match="`padding` must not be negative, got -1"):
        ShiftFlip(padding=-1)
    with pytest.raises(ConfigError, match=r"`std` must hold one positive number for each of the 2"):
        Transform(mean=(0.0, 0.0), std=(1.0,))
    with pytest.raises(ConfigError, match=r"`std` must hold one positive number.*\(0.0,\)"):
        Transform(mean=(0.0,), std=(0.0,))
    transform = Transform(mean=(0.0,), std=(1.0,))
    with pytest.raises(ShapeError, match=r"must have shape \[N, 1, H, W\], got \[2, 3, 8, 8\]"):
        transform(batch(2, 3, 8, 8), transform.draw(2, generator()))
