from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from mulfree import models
from mulfree.nn import Adder2d


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


def test_an_embedding_is_a_layer_and_its_normalisation() -> None:
    plain = models.create_model("lenet5_bn", operator="adder2d", in_channels=1)
    model = models.create_model("lenet5_bn", operator="adder2d", in_channels=1, embedding=2)
    assert isinstance(model.get_submodule("embedding.0"), Adder2d)
    seen: list[torch.Tensor] = []
    model.get_submodule("fc").register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    assert model(torch.randn(16, 1, 28, 28)).shape == (16, 10)
    (features,) = seen
    assert features.shape == (16, 2, 1, 1)
    # Normalised, and on both sides of zero.
    torch.testing.assert_close(features.mean(0), torch.zeros(2, 1, 1), atol=1e-5, rtol=0)
    assert (features < 0).any()
    own, names = model.state_dict(), plain.state_dict().keys()
    assert {key.partition(".")[0] for key in own.keys() - names} == {"embedding"}
    counts = [sum(p.numel() for p in network.parameters()) for network in (plain, model)]
    # 84 * 2 weights and 2 * 2 of the normalisation more, 10 * 2 weights instead of 10 * 84.
    assert counts[1] - counts[0] == 84 * 2 + 2 * 2 + 10 * 2 - 10 * 84
