"""Networks of dynamic resolution: their parts, their batches, and what is extracted from them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mulfree import models
from mulfree.errors import ConfigError
from mulfree.models import ImageSpec
from mulfree.models.dynamic_resolution import DynamicResolutionNetwork, resized
from mulfree.models.switchable_norm import SwitchableBatchNorm2d

WITH = pytest.mark.parametrize("operator", ["conv2d", "adder2d"])
SPEC = ImageSpec(
    size=(3, 20, 20),
    mean=(0.5,) * 3,
    std=(0.25,) * 3,
    resize=24,
    classes=("a", "b", "c", "d"),
    data="synthetic",
)


def made(operator: str = "conv2d", **changed: Any) -> DynamicResolutionNetwork:
    """A tiny network whose batch norms have seen images of all resolutions."""
    options: dict[str, Any] = {"width": 0.125, "predictor_width": 1.0, "num_classes": 4}
    options |= {"resolutions": [16, 12, 8]} | changed
    torch.manual_seed(0)
    model = models.create_model("dynamic_resolution", operator=operator, **options)
    assert isinstance(model, DynamicResolutionNetwork)
    for _ in range(3):
        model(images())
    return model.eval()


class _ByPixel(nn.Module):
    """A predictor by the channels of the first pixel."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, 0, 0]


def images(count: int = 12) -> Tensor:
    return torch.randn(count, 3, 16, 16)


@WITH
@torch.no_grad()
def test_every_image_at_its_resolution_in_its_order(operator: str) -> None:
    model, x = made(operator), images(24)
    model.predictor = _ByPixel()
    sides = model.predict_resolution(x)
    assert set(sides.tolist()) == {16, 12, 8}
    expected = torch.stack(
        [model.logits_at(x, int(side))[row] for row, side in enumerate(sides.tolist())]
    )
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)
    choice = torch.tensor([(16, 12, 8).index(side) for side in sides.tolist()])
    for index, side in enumerate((16, 12, 8)):
        own = choice == index
        assert torch.equal(model.logits_by(x, choice)[own], model.logits_at(x[own], side))


@WITH
@torch.no_grad()
def test_with_one_resolution_it_is_its_classifier(operator: str) -> None:
    model, x = made(operator, resolutions=[16]), images()
    network = model.extract(16)
    assert torch.equal(model(x), network(x))
    assert torch.equal(model.train()(x), network.train()(x))
    assert not any(isinstance(m, SwitchableBatchNorm2d) for m in model.modules())


@WITH
@pytest.mark.parametrize("norms", ["private", "shared"])
@torch.no_grad()
def test_extracted_networks_have_the_same_logits(operator: str, norms: str) -> None:
    model, x = made(operator, batch_norm=norms), images()
    assert list(model.extract_all()) == ["predictor", "16", "12", "8"]
    for name, (network, side) in model.extract_all().items():
        expected = model.predictor_logits(x) if name == "predictor" else model.logits_at(x, side)
        assert torch.equal(network(resized(x, side)), expected)
        config = models.config_of(network)
        again = models.create_model(config.name, **config.arguments)
        assert str(again) == str(network)
        assert again.state_dict().keys() == network.state_dict().keys()
    own = model.network.state_dict()
    next(model.extract(8).parameters()).zero_()
    assert all(torch.equal(own[key], t) for key, t in model.network.state_dict().items())


def test_extracted_networks_know_their_images() -> None:
    model = made()
    models.set_images(model, SPEC)
    network, predictor = model.extract(8), model.extract_predictor()
    assert models.input_size(network) == (3, 8, 8)
    own = models.config_of(network).images
    assert own is not None
    assert (own.resize, own.classes) == (10, SPEC.classes)
    choice = models.config_of(predictor).images
    assert choice is not None
    assert (choice.size, choice.classes) == ((3, 16, 16), ("16", "12", "8"))


def test_batch_norms_count_their_own_images_alone() -> None:
    model = made().train()
    before = copy.deepcopy(model.network.state_dict())
    model.logits_at(images(), 12)
    changed = {
        key.partition("branches.")[2].partition(".")[0]
        for key, tensor in model.network.state_dict().items()
        if not torch.equal(tensor, before[key])
    }
    assert changed == {"at_12"}
    shared = made(batch_norm="shared")
    assert not any(isinstance(m, SwitchableBatchNorm2d) for m in shared.modules())


def test_in_training_logits_are_the_mean_by_the_probabilities() -> None:
    model, x = made().double(), images(5).double()
    # Logits that do not depend on the mode, as the batch norms of a tiny batch would make them.
    model.training = True
    expected = torch.zeros(5, 4, dtype=torch.float64)
    probabilities = model.predictor_logits(x).softmax(1)
    for index, side in enumerate(model.resolutions):
        expected += probabilities[:, index, None] * model.logits_at(x, side)
    torch.testing.assert_close(model(x), expected)
    model(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_defaults_are_those_of_the_paper() -> None:
    with torch.device("meta"):
        model = models.create_model("dynamic_resolution", network="resnet50", num_classes=1000)
    assert isinstance(model, DynamicResolutionNetwork)
    assert (model.resolutions, model.predictor_size) == ((224, 168, 112), 128)
    # 30.5 M of DR-ResNet-50 in Table 3.
    count = sum(p.numel() for name, p in model.named_parameters() if ".bn" not in name)
    assert count == pytest.approx(30.5e6, rel=0.01)
    with torch.device("meta"):
        small = models.create_model("dynamic_resolution")
    assert isinstance(small, DynamicResolutionNetwork)
    assert (small.resolutions, small.predictor_size) == ((32, 24, 16), 32)
    assert sum(p.numel() for p in small.predictor.parameters()) < 320_000


def test_the_predictor_may_multiply_and_have_another_shape() -> None:
    model = made(
        "adder2d",
        predictor="lenet5_bn",
        predictor_operator="conv2d",
        predictor_size=10,
        network="vgg_small",
        resolutions=[16, 8],
    )
    assert sum(isinstance(m, nn.Conv2d) for m in model.predictor.modules()) == 5
    assert models.config_of(model.extract_predictor()).name == "lenet5_bn"
    assert models.config_of(model.extract_predictor()).arguments["operator"] == "conv2d"
    network = models.config_of(model.extract(8))
    assert (network.name, network.arguments["operator"]) == ("vgg_small", "adder2d")
    small = made(network_options={"blocks": [1, 1, 1]})
    assert models.config_of(small.extract(8)).arguments["blocks"] == [1, 1, 1]
    assert sum(isinstance(m, nn.Conv2d) for m in small.network.modules()) == 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"predictor": "dynamic_resolution"}, "`predictor` must be a model without a network ins"),
        ({"predictor_options": {"keep": []}}, "`options` must be one of .* got 'keep'"),
        ({"resolutions": []}, "`resolutions` must be 1 to 16 falling sides of at most 4096 pix"),
        ({"resolutions": [16, 24]}, r"falling sides of at most 4096 pixels, got \[16, 24\]"),
        ({"resolutions": [16, 16]}, r"falling sides of at most 4096 pixels, got \[16, 16\]"),
        ({"resolutions": [16, "8"]}, r"falling sides of at most 4096 pixels, got \[16, '8'\]"),
        ({"network": "vgg_small", "resolutions": [16, 4]}, "`resolutions` must be at least 8 for"),
        ({"batch_norm": "own"}, "`batch_norm` must be one of private, shared, got 'own'"),
        ({"predictor_operator": "adder2d"}, "`predictor_operator` must be conv2d or None, got"),
        ({"predictor_size": 0}, "`predictor_size` must be from 1 to 4096, got 0"),
        ({"predictor_width": 0.0}, "`width` must be above 0"),
    ],
)
def test_wrong_options_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        models.create_model("dynamic_resolution", **options)


def test_a_resolution_that_is_no_candidate() -> None:
    model = made()
    with pytest.raises(
        ConfigError, match="logits_at: `resolution` must be one of 12, 16, 8, got 10"
    ):
        model.logits_at(images(), 10)
    with pytest.raises(ConfigError, match="extract: `resolution` must be one of 12, 16, 8, got"):
        model.extract(10)
