from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mulfree.errors import DataError, MulfreeError
from mulfree.quantization import Preprocessing
from mulfree.quantization.images import read_images

X = torch.linspace(-1.0, 1.0, 2 * 3 * 4 * 4).reshape(2, 3, 4, 4)
PIXELS = torch.arange(96, dtype=torch.uint8).reshape(2, 3, 4, 4)


def read(batches: Any, preprocessing: Preprocessing | None = None) -> Tensor:
    images = read_images(batches, torch.float32, preprocessing)
    assert all(batch.dtype == torch.float32 and not batch.requires_grad for batch in images)
    return torch.cat(images)


class Indexed:
    """A sequence by its items alone."""

    def __getitem__(self, index: int) -> Tensor:
        return [X][index]


@pytest.mark.parametrize(
    "batches",
    [
        [X],
        X,
        X.numpy(),
        iter([X[:1], X[1:]]),
        [(X, 0)],
        [[X, torch.zeros(2)]],
        [X.double()],
        [X.clone().requires_grad_()],
        [X.numpy().astype(">f8")],
        [X.flip(0).numpy()[::-1]],
        Indexed(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_batches(batches: Any) -> None:
    torch.testing.assert_close(read(batches), X, rtol=0, atol=1e-7)


def test_half_precision() -> None:
    assert torch.equal(read([X.half()]), X.half().float())
    assert torch.equal(read([X.bfloat16()]), X.bfloat16().float())


@pytest.mark.parametrize("pixels", [PIXELS, PIXELS.numpy()], ids=["torch", "numpy"])
def test_pixels(pixels: Any) -> None:
    preprocessing = Preprocessing(mean=(0.0, 0.5, 0.25), std=(1.0, 0.5, 0.25), resize=4)
    images = read([pixels], preprocessing)
    assert images[0, 0, 0, :3].tolist() == pytest.approx([0, 1 / 255, 2 / 255])
    assert images[0, 1, 0, 0].item() == pytest.approx((16 / 255 - 0.5) / 0.5)
    assert images[1, 2, 3, 3].item() == pytest.approx((95 / 255 - 0.25) / 0.25)


def failing() -> Iterator[Tensor]:
    yield X
    raise KeyError("label")


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (None, r"must be an iterable of batches of images, got NoneType"),
        ("images", r"must be an iterable of batches of images, got str"),
        ({"image": X}, r"must be an iterable of batches of images, got dict"),
        ([{"image": X}], r"tuples that begin with one, got dict with \['image'\]"),
        ([()], r"tuples that begin with one, got tuple"),
        ([None], r"tuples that begin with one, got NoneType"),
        ([np.array([None])], r"tuples that begin with one, got ndarray"),
        ([X.numpy().astype(np.longdouble)], r"tuples that begin with one, got ndarray"),
        (failing(), r"must be an iterable that does not fail, got KeyError: 'label'"),
        ([X.to_sparse()], r"must hold dense tensors with data, got torch.sparse_coo on cpu"),
        ([X.to("meta")], r"must hold dense tensors with data, got torch.strided on meta"),
        ([PIXELS], r"uint8 pixels with `preprocessing`, got torch.uint8"),
        ([X.long()], r"normalised floats, .* got torch.int64"),
        ([X.to(torch.complex64)], r"normalised floats, .* got torch.complex64"),
        ([X, X / 0], r"must hold finite numbers, got -inf"),
        ([], r"images \[N, C, H, W\] of one size, got nothing"),
        (X[0], r"of one size, got \[3, 4, 4\]"),
        (torch.tensor(1.0), r"of one size, got \[\]"),
        ([X[:0]], r"of one size, got \[0, 3, 4, 4\]"),
        ([X[..., :0]], r"of one size, got \[2, 3, 4, 0\]"),
        ([X, X[:, :2]], r"of one size, got \[2, 3, 4, 4\], \[2, 2, 4, 4\]"),
    ],
    ids=lambda value: value[-30:] if isinstance(value, str) else "",
)
def test_refused(batches: Any, message: str) -> None:
    with pytest.raises(MulfreeError, match=r"^quantize: `batches` " + f".*{message}"):
        read(batches)


def test_pixels_of_other_channels() -> None:
    preprocessing = Preprocessing(mean=(0.0,), std=(1.0,), resize=4)
    with pytest.raises(MulfreeError, match=r"pixels of 1 channels as .*, got \[2, 3, 4, "):
        read([PIXELS], preprocessing)


def test_errors_of_a_loader_of_mulfree_pass() -> None:
    def loader() -> Iterator[Tensor]:
        yield X
        raise DataError("gone")

    with pytest.raises(DataError, match=r"^gone$"):
        read(loader())
