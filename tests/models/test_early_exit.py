"""Networks with exits: outputs, confidence, and images that leave."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mulfree import models
from mulfree.errors import ConfigError, ShapeError
from mulfree.models.early_exit import AllExits, EarlyExitNetwork, confidence

SIZES = {"resnet20": 16, "resnet18": 32, "vgg_small": 16, "mobilenet_v2": 32}


def exiting(name: str = "resnet20", **options: Any) -> EarlyExitNetwork:
    torch.manual_seed(0)
    network = models.create_model("early_exit", network=name, width=0.125, **options).eval()
    assert isinstance(network, EarlyExitNetwork)
    return network


def small(**options: Any) -> EarlyExitNetwork:
    return exiting("resnet20", network_options={"blocks": [1, 1, 1]}, **options)


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_the_last_output_is_that_of_the_network_alone(name: str, size: int) -> None:
    network = exiting(name)
    images = torch.randn(2, 3, size, size)
    found = network.all_logits(images)
    stages = len(network.network.stage_blocks())
    assert list(found) == [*(f"exit{stage}" for stage in range(1, stages)), "logits"]
    assert torch.equal(found["logits"], network(images))
    assert torch.equal(found["logits"], network.network(images))
    assert all(logits.shape == (2, 10) for logits in found.values())


def test_an_exit_is_the_mean_of_a_map_and_a_classifier() -> None:
    network = small()
    images = torch.randn(2, 3, 8, 8)
    x = network.network.run_stem(images)
    for names in network.network.stage_blocks()[:2]:
        x = network.network.run_blocks(names, x)
    layer: Any = network.exits["exit2"]
    expected = x.mean((2, 3)) @ layer.fc.weight[:, :, 0, 0].T + layer.fc.bias
    torch.testing.assert_close(network.all_logits(images)["exit2"], expected)


@pytest.mark.parametrize("operator", ["conv2d", "adder2d"])
def test_classifiers_multiply_and_have_the_norm_of_the_network(operator: str) -> None:
    network = small(operator=operator)
    for path in ("network.fc", "exits.exit1.fc", "exits.exit2.fc", "network.conv1"):
        assert type(network.get_submodule(path)) is torch.nn.Conv2d
    kind = torch.nn.BatchNorm2d if operator == "adder2d" else torch.nn.Identity
    for path in ("network.bn2", "exits.exit1.bn_fc", "exits.exit2.bn_fc"):
        assert type(network.get_submodule(path)) is kind


def test_the_exits_that_are_named() -> None:
    assert small(exits=[2]).outputs == ("exit2", "logits")
    assert list(AllExits(small(), "exit1")(torch.randn(1, 3, 8, 8))) == ["exit1"]
    assert list(AllExits(small())(torch.randn(1, 3, 8, 8))) == ["exit1", "exit2", "logits"]


@pytest.mark.parametrize("exits", [[], [0], [3], [2, 1], [1, 1], [True], ["1"], [1, 2, 3]])
def test_exits_that_are_no_stages(exits: list[Any]) -> None:
    with pytest.raises(ConfigError, match="`exits` must be rising numbers of stages from 1 to 2"):
        small(exits=exits)


def test_options_of_the_network_inside() -> None:
    with pytest.raises(ConfigError, match="`blocks` must be 3 numbers from 1"):
        exiting(network_options={"blocks": [0]})


def test_confidence_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)], [5.0, 5.0]])
    torch.testing.assert_close(confidence(logits), torch.tensor([0.75, 0.5]).double())
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(2)
    expected = torch.tensor([1 - entropy, 0.0], dtype=torch.float64)
    torch.testing.assert_close(confidence(logits, "entropy"), expected, atol=1e-7, rtol=0)
    extreme = torch.tensor([[2000.0, 0.0], [math.inf, 0.0]])
    for kind in ("probability", "entropy"):
        sure, undefined = confidence(extreme, kind).tolist()
        assert sure == 1.0
        assert math.isnan(undefined)
    assert confidence(torch.zeros(2, 1), "entropy").tolist() == [1.0, 1.0]
    with pytest.raises(ConfigError, match="confidence: `confidence` must be one of entropy, prob"):
        confidence(logits, "margin")


def expected_exits(found: dict[str, Tensor], thresholds: list[float], kind: str) -> list[int]:
    taken = []
    for image in range(len(found["logits"])):
        sure = [
            float(confidence(logits[image : image + 1], kind)) >= limit
            for logits, limit in zip(found.values(), [*thresholds, 0.0], strict=True)
        ]
        taken.append(sure.index(True))
    return taken


@pytest.mark.parametrize("kind", ["probability", "entropy"])
def test_confident_images_leave_and_the_others_go_on(kind: str) -> None:
    network = small().double()
    images = 3 * torch.randn(12, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        found = network.all_logits(images)
    # In the middle of the confidences: some images leave at each exit.
    thresholds = [
        float(confidence(found[name], kind).quantile(share))
        for name, share in (("exit1", 0.7), ("exit2", 0.5))
    ]
    logits, exits = network.predict(images, thresholds, kind)
    assert exits.tolist() == expected_exits(found, thresholds, kind)
    assert set(exits.tolist()) == {0, 1, 2}
    own = torch.stack(list(found.values()))[exits, torch.arange(12)]
    torch.testing.assert_close(logits, own)


def test_the_ends_of_the_thresholds() -> None:
    network = small()
    images = torch.randn(3, 3, 8, 8)
    found = network.all_logits(images)
    logits, exits = network.predict(images, 1.5)
    assert torch.equal(logits, found["logits"])
    assert exits.tolist() == [2, 2, 2]
    logits, exits = network.predict(images, [0, 1.5])
    assert torch.equal(logits, found["exit1"])
    assert exits.tolist() == [0, 0, 0]
    logits, exits = network.predict(images[:0], 0.5)
    assert logits.shape == (0, 10)
    assert exits.shape == (0,)


@pytest.mark.parametrize("thresholds", [-0.1, [0.5], [0.5] * 3, [0.5, math.nan], [True, 0.5], "ab"])
def test_thresholds_that_are_none(thresholds: Any) -> None:
    with pytest.raises(ConfigError, match="`thresholds` must be one number of at least 0, or 2"):
        small().predict(torch.randn(1, 3, 8, 8), thresholds)


def test_predictions_need_evaluation_mode_and_images() -> None:
    with pytest.raises(ConfigError, match="predict: the network must be in evaluation mode"):
        small().train().predict(torch.randn(1, 3, 8, 8), 0.5)
    for call in (small().all_logits, lambda images: small().predict(images, 0.5)):
        with pytest.raises(ShapeError, match="EarlyExitNetwork: `images` must have shape"):
            call(torch.randn(1, 4, 8, 8))


def test_options_in_files(tmp_path: Any) -> None:
    network = small(operator="adder2d", exits=[1])
    models.save_weights(network, tmp_path / "w.safetensors")
    loaded = models.load_model(tmp_path / "w.safetensors")
    images = torch.randn(2, 3, 8, 8)
    assert isinstance(loaded, EarlyExitNetwork)
    assert loaded.outputs == ("exit1", "logits")
    assert torch.equal(loaded(images), network(images))
