"""Depth-dynamic networks: sub-nets in place and extracted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mulfree import models
from mulfree.errors import ConfigError, ShapeError
from mulfree.models.switchable_norm import SwitchableBatchNorm2d

SHALLOW = {"one": {"blocks": [1, 1, 1]}, "two": {"blocks": [1, 2, 2]}}
NORMS = ("private", "stage", "shared")


def ddnn(name: str = "resnet20", **options: Any) -> models.DepthDynamicNetwork:
    """Tiny network with statistics of its own in every batch norm."""
    torch.manual_seed(0)
    model = models.depth_dynamic(name, **{"subnets": SHALLOW, "width": 0.125, **options})
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        norm.weight.data.uniform_(0.5, 1.5)
    model.train().run_depths(torch.randn(8, 3, 16, 16))
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()


SUBNETS: list[tuple[str, dict[str, Any]]] = [
    ("resnet20", {}),
    ("resnet20", {"kept_blocks": "spread"}),
    ("vgg_small", {}),
    ("resnet34", {"subnets": ["resnet18"], "network_options": {"small_input": True}}),
    ("mobilenet_v2", {"subnets": {"short": {"depth": 0.5}}}),
]


# Every network with each batch norm and both operators, and these with each other.
@pytest.mark.parametrize(
    ("name", "options", "operator", "batch_norm"),
    [
        (*network, ("conv2d", "adder2d")[(number + shift) % 2], batch_norm)
        for number, network in enumerate(SUBNETS)
        for shift, batch_norm in enumerate(NORMS)
    ],
)
def test_an_extracted_sub_net_has_the_logits_of_the_one_in_place(
    name: str, options: dict[str, Any], operator: str, batch_norm: str
) -> None:
    model = ddnn(name, operator=operator, batch_norm=batch_norm, **options)
    images = torch.randn(2, 3, 16, 16)
    outputs = model.run_depths(images)
    logits = [output.logits for output in outputs.values()]
    assert not any(torch.equal(logits[0], other) for other in logits[1:])
    for depth in model.depths:
        model.set_depth(depth)
        extracted = model.extract(depth)
        assert torch.equal(extracted(images), model(images))
        assert torch.equal(outputs[depth].logits, model(images))
    config = models.config_of(extracted)
    assert config.name == name
    assert config.arguments["operator"] == operator


def test_sub_nets_have_the_names_of_their_networks() -> None:
    model = models.create_model("ddnn_resnet20_32_56", width=0.125)
    assert isinstance(model, models.DepthDynamicNetwork)
    assert model.depths == ("resnet20", "resnet32", "resnet56")
    assert model.depth == "resnet56"
    extracted = model.extract("resnet32")
    twin = models.create_model("resnet32", width=0.125)
    assert models.config_of(extracted) == models.config_of(twin)
    assert str(extracted) == str(twin)


def test_an_extracted_sub_net_is_a_copy_with_mode_images_type_and_kept_layers() -> None:
    model = ddnn(operator="adder2d", keep=["first", "last", "network.layer2.*.conv1"]).double()
    images = models.ImageSpec(
        size=(3, 8, 8), mean=(0.0,) * 3, std=(1.0,) * 3, resize=8, classes=("a",) * 10, data="x"
    )
    models.set_images(model, images)
    extracted = model.train().extract("two")
    assert extracted.training
    assert models.config_of(extracted).images == images
    weight = extracted.get_parameter("layer2.1.conv1.weight")
    assert weight.dtype == torch.float64
    assert torch.equal(weight, model.get_parameter("network.layer2.1.conv1.weight"))
    assert weight.data_ptr() != model.get_parameter("network.layer2.1.conv1.weight").data_ptr()
    assert type(extracted.get_submodule("layer2.1.conv1")) is nn.Conv2d
    assert type(extracted.get_submodule("layer2.1.conv2")) is not nn.Conv2d


def branches(model: nn.Module) -> dict[str, list[str]]:
    found = model.get_submodule("network").named_modules()
    return {k: list(m.branches) for k, m in found if isinstance(m, SwitchableBatchNorm2d)}


def test_batch_norms_are_private_after_the_common_blocks() -> None:
    found = branches(ddnn(norm_logits=True))
    assert "bn1" not in found
    assert not [name for name in found if name.startswith(("layer1.0", "layer1.1"))]
    # "one" goes on to stage 2 after the first block, "two" as well; the full network does not.
    assert found["layer2.0.bn1"] == ["one", "resnet20"]
    assert found["layer2.1.bn1"] == ["two", "resnet20"]
    assert found["layer3.0.bn2"] == ["one", "two", "resnet20"]
    assert found["bn2"] == ["one", "two", "resnet20"]


def test_shortened_stages_have_a_second_set_of_batch_norms() -> None:
    found = branches(ddnn(batch_norm="stage", norm_logits=True))
    assert found["layer1.0.bn1"] == found["layer3.0.bn1"] == ["one", "resnet20"]
    assert not {"bn1", "bn2", "layer1.1.bn1", "layer3.1.bn1"} & found.keys()
    assert branches(ddnn(batch_norm="shared", norm_logits=True)) == {}


@pytest.mark.parametrize("batch_norm", NORMS)
def test_blocks_that_compute_the_same_run_once(batch_norm: str) -> None:
    model, runs = ddnn(batch_norm=batch_norm), []
    for name in ("conv1", "layer1.0", "layer1.1", "layer2.0"):
        module = model.network.get_submodule(name)
        module.register_forward_hook(lambda *_, name=name: runs.append(name))
    outputs = model.run_depths(torch.randn(1, 3, 8, 8))
    # With a second set for the shortened stage the full network shares the stem alone.
    first = 2 if batch_norm == "stage" else 1
    counts = {name: runs.count(name) for name in dict.fromkeys(runs)}
    assert counts == {"conv1": 1, "layer1.0": first, "layer1.1": 1, "layer2.0": 2}
    assert [f.shape[1] for f in outputs["one"].features] == [2, 4, 8]
    assert torch.equal(outputs["one"].features[0], outputs["two"].features[0])


@pytest.mark.parametrize("name", ["resnet20", "vgg_small"])
def test_a_file_holds_the_network_whatever_the_depth(name: str, tmp_path: Path) -> None:
    model = ddnn(name)
    model.set_depth("one")
    images = torch.randn(2, 3, 8, 8)
    expected = model(images)
    models.save_weights(model, tmp_path / "model.safetensors")
    loaded = models.load_model(tmp_path / "model.safetensors")
    assert torch.equal(loaded(images, depth="one"), expected)
    assert models.config_of(loaded) == models.config_of(model)
    assert models.input_size(loaded) == (3, 32, 32)


def test_errors_of_a_call() -> None:
    model = ddnn()
    unknown = r"`depth` must be one of one, resnet20, two, got 'resnet2'"
    with pytest.raises(ConfigError, match=f"set_depth: {unknown}"):
        model.set_depth("resnet2")
    with pytest.raises(ConfigError, match=f"run_depths: {unknown}"):
        model(torch.zeros(1, 3, 8, 8), depth="resnet2")
    with pytest.raises(ConfigError, match=f"extract: {unknown}"):
        model.extract("resnet2")
    with pytest.raises(ConfigError, match=f"route: {unknown}"):
        model.route("resnet2")
    with pytest.raises(ShapeError, match=r"`images` must have shape \[N, 3, H, W\]"):
        model(torch.zeros(1, 1, 8, 8))
