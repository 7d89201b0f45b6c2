from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from mulfree import models


@pytest.mark.parametrize("size", [28, 30, 31])
def test_smaller_images_are_framed_with_zeros(size: int) -> None:
    model = models.create_model("lenet5_bn", in_channels=1).eval()
    images = torch.randn(2, 1, size, size)
    before, rest = divmod(32 - size, 2)
    framed = functional.pad(images, (before, before + rest, before, before + rest))
    torch.testing.assert_close(model(framed), model(images), atol=0, rtol=0)


def test_tiny_images_are_enlarged_by_repeating_pixels() -> None:
    model = models.create_model("lenet5_bn", in_channels=1).eval()
    images = torch.randn(2, 1, 8, 8)
    large = images.repeat_interleave(4, 2).repeat_interleave(4, 3)
    torch.testing.assert_close(model(large), model(images), atol=0, rtol=0)


def test_the_pooling_before_the_third_layer_is_the_identity_at_the_native_size() -> None:
    model = models.create_model("lenet5_bn", in_channels=1).eval()
    shapes = []
    model.get_submodule("avgpool").register_forward_hook(
        lambda _module, inputs, output: shapes.append((inputs[0].shape, output.shape))
    )
    model(torch.randn(2, 1, 28, 28))
    assert shapes == [((2, 16, 5, 5), (2, 16, 5, 5))]
