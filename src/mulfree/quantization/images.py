"""Calibration images, read from batches of any loader."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mulfree.errors import ConfigError, DTypeError, MulfreeError, ShapeError, quoted
from mulfree.quantization.preprocessing import Preprocessing
from mulfree.quantization.trace import reason

Batch: TypeAlias = Tensor | NDArray[Any]
Batches: TypeAlias = Iterable[Batch | Sequence[Any]] | Batch

_PIXELS = torch.uint8


def read_images(
    batches: Batches, dtype: torch.dtype, preprocessing: Preprocessing | None
) -> list[Tensor]:
    """Images of all batches, `[N, C, H, W]` each, of one size and finite, on the CPU.

    Args:
        batches: As in `quantize`.
        dtype: Type to convert floating-point images to.
        preprocessing: Normalisation of uint8 pixels; None to refuse pixels.

    Raises:
        ConfigError: `batches` is not an iterable of batches, raises, or holds numbers that are not
            finite.
        DTypeError: `batches` holds integers.
        ShapeError: `batches` holds no images, or images of several sizes.
    """
    images = [_images(batch, dtype, preprocessing) for batch in _iterated(batches)]
    shapes = {tuple(batch.shape[1:]) for batch in images}
    if len(shapes) != 1 or any(batch.ndim != 4 or 0 in batch.shape for batch in images):
        seen = ", ".join(str(list(batch.shape)) for batch in images[:3]) or "nothing"
        raise ShapeError(
            f"quantize: `batches` must hold images [N, C, H, W] of one size, got {seen}"
        )
    return images


def _iterated(batches: Batches) -> Iterable[Any]:
    if isinstance(batches, (Tensor, np.ndarray)):
        # A single batch.
        yield batches
        return
    sequence = hasattr(batches, "__iter__") or hasattr(batches, "__getitem__")
    if isinstance(batches, (str, bytes, Mapping)) or not sequence:
        raise ConfigError(
            "quantize: `batches` must be an iterable of batches of images, got "
            f"{type(batches).__name__}"
        )
    try:
        yield from iter(batches)
    except MulfreeError:
        raise
    except Exception as error:  # any: from the loader
        raise ConfigError(
            f"quantize: `batches` must be an iterable that does not fail, got {reason(error)}"
        ) from error


def _images(batch: Any, dtype: torch.dtype, preprocessing: Preprocessing | None) -> Tensor:
    if isinstance(batch, (tuple, list)) and batch:
        batch = batch[0]
    if isinstance(batch, np.ndarray) and batch.dtype.kind in "biuf" and batch.itemsize <= 8:
        # Copied to native byte order and non-negative strides, which torch requires.
        batch = torch.from_numpy(np.array(batch, batch.dtype.newbyteorder("="), order="C"))
    if not isinstance(batch, Tensor):
        raise ConfigError(
            "quantize: `batches` must hold tensors or arrays, or tuples that begin with one, got "
            f"{_contents(batch)}"
        )
    if batch.layout != torch.strided or batch.is_quantized or batch.is_meta or batch.is_nested:
        raise ConfigError(
            f"quantize: `batches` must hold dense tensors with data, got {batch.layout} on "
            f"{batch.device}"
        )
    batch = batch.detach().to("cpu")
    if batch.dtype == _PIXELS and preprocessing is not None and batch.ndim == 4:
        return _normalised(batch, dtype, preprocessing)
    if not batch.is_floating_point():
        raise DTypeError(
            "quantize: `batches` must hold images as the network takes them, normalised floats, or "
            f"uint8 pixels with `preprocessing`, got {batch.dtype}"
        )
    images: Tensor = batch.to(dtype)
    if not images.isfinite().all():
        raise ConfigError(
            "quantize: `batches` must hold finite numbers, got "
            f"{images[~images.isfinite()][0].item()}"
        )
    return images


def _normalised(pixels: Tensor, dtype: torch.dtype, preprocessing: Preprocessing) -> Tensor:
    if pixels.shape[1] != len(preprocessing.mean):
        raise ShapeError(
            f"quantize: `batches` must hold pixels of {len(preprocessing.mean)} channels as "
            f"`preprocessing`, got {list(pixels.shape)}"
        )
    mean, std = (
        torch.tensor(row, dtype=torch.float64).view(-1, 1, 1)
        for row in (preprocessing.mean, preprocessing.std)
    )
    images: Tensor = (pixels.double() / 255 - mean) / std
    return images.to(dtype)


def _contents(batch: object) -> str:
    if isinstance(batch, Mapping):
        return f"{type(batch).__name__} with {quoted(list(batch))}"
    return type(batch).__name__
