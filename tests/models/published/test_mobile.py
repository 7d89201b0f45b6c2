"""Published mobile networks, against functions of their state dicts and with real weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.published import reference
from torch import Tensor, nn

from mulfree import models
from mulfree.errors import ArtifactError, ConfigError
from mulfree.models.published.layouts import timm

LARGE = [pytest.param(number, marks=pytest.mark.slow) for number in (3, 4, 5, 6, 7)]
TORCHVISION_EPS = {5: 1e-3, 6: 1e-3, 7: 1e-3}
CLASSES = 11

Forward = Callable[[dict[str, Tensor], Tensor], Tensor]


def efficientnet_state(number: int, classes: int = CLASSES) -> dict[str, Tensor]:
    shapes = reference.efficientnet_shapes(*reference.SCALING[number], classes)
    return reference.random_state(shapes)


def mobilenet_state() -> dict[str, Tensor]:
    return reference.random_state(reference.mobilenet_v2_shapes(CLASSES))


def lite_state() -> dict[str, Tensor]:
    return reference.random_state(reference.lite_shapes(1.0, 1.0, CLASSES))


def logits(state: dict[str, Tensor], forward: Forward) -> tuple[Tensor, Tensor]:
    """Images and their logits in float64; sets the running statistics of the state dict."""
    images = torch.randn(2, 3, 66, 63)
    with torch.no_grad():
        forward(state, images)
        expected = forward(
            {name: tensor.double() for name, tensor in state.items()}, images.double()
        )
    assert expected.std(0).max() > 0.01
    return images.double(), expected


def assert_equal(model: nn.Module, images: Tensor, expected: Tensor) -> None:
    assert not model.training
    with torch.no_grad():
        torch.testing.assert_close(model.double()(images), expected, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("number", [0, 1, 2, *LARGE])
def test_efficientnet_of_torchvision(number: int) -> None:
    state = efficientnet_state(number)
    eps = TORCHVISION_EPS.get(number, 1e-5)
    images, expected = logits(state, lambda state, x: reference.efficientnet(state, x, eps))
    model = models.load_published(state, f"efficientnet_b{number}")
    assert_equal(model, images, expected)
    width, depth = reference.SCALING[number]
    arguments = models.config_of(model).arguments
    assert arguments["width"] == pytest.approx(width)
    assert (arguments["depth"], arguments["num_classes"]) == (depth, CLASSES)


def test_width_and_depth_of_b2_make_b0_a_b2() -> None:
    with torch.device("meta"):
        large = models.create_model("efficientnet_b2").state_dict()
        scaled = models.create_model("efficientnet_b0", width=1.1, depth=1.2).state_dict()
    assert {key: tensor.shape for key, tensor in scaled.items()} == {
        key: tensor.shape for key, tensor in large.items()
    }


def test_mobilenet_v2_of_torchvision() -> None:
    state = mobilenet_state()
    images, expected = logits(state, reference.mobilenet_v2)
    assert_equal(models.load_published(state, "mobilenet_v2"), images, expected)


@pytest.mark.parametrize(("number", "width", "depth"), [(0, 1.0, 1.0), (2, 1.1, 1.2)])
def test_lite_in_the_names_of_efficientnet_pytorch(number: int, width: float, depth: float) -> None:
    state = reference.random_state(reference.lite_shapes(width, depth, CLASSES))
    images, expected = logits(state, lambda state, x: reference.lite(state, x, depth))
    assert_equal(models.load_published(state, f"efficientnet_lite{number}"), images, expected)


# Names in timm and EfficientNet-PyTorch of each part of a block, by whether it has an expansion.
PARTS = {
    ("timm", True): {
        "expand": ("conv_pw", "bn1"),
        "depthwise": ("conv_dw", "bn2"),
        "project": ("conv_pwl", "bn3"),
        "se": ("se.conv_reduce", "se.conv_expand"),
    },
    ("timm", False): {
        "depthwise": ("conv_dw", "bn1"),
        "project": ("conv_pw", "bn2"),
        "se": ("se.conv_reduce", "se.conv_expand"),
    },
}
LUKEMELAS = {
    "expand": ("_expand_conv", "_bn0"),
    "depthwise": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
    "se": ("_se_reduce", "_se_expand"),
}
PARTS[("lukemelas", True)] = PARTS[("lukemelas", False)] = LUKEMELAS
ENDS = {
    "timm": ("conv_stem", "bn1", "conv_head", "bn2", "classifier"),
    "lukemelas": ("_conv_stem", "_bn0", "_conv_head", "_bn1", "_fc"),
}


def renamed(state: Mapping[str, Tensor], code: str) -> dict[str, Tensor]:
    """A state dict of torchvision's EfficientNet in the names of another code."""
    stem, stem_bn, head, head_bn, classifier = ENDS[code]
    ends = {
        "features.0.0": stem,
        "features.0.1": stem_bn,
        "features.8.0": head,
        "features.8.1": head_bn,
        "classifier.1": classifier,
    }
    blocks = sorted({tuple(map(int, key.split(".")[1:3])) for key in state if ".block." in key})
    result = {}
    for key, tensor in state.items():
        layer, _, leaf = key.rpartition(".")
        if layer in ends:
            result[f"{ends[layer]}.{leaf}"] = tensor
            continue
        found = re.fullmatch(r"features\.(\d+)\.(\d+)\.block\.(\d+)\.(\w+)", layer)
        assert found is not None
        stage, index, part = (int(found[number]) for number in (1, 2, 3))
        expands = f"features.{stage}.{index}.block.3.0.weight" in state
        role = ("expand", "depthwise", "se", "project")[part + (not expands)]
        name = PARTS[(code, expands)][role][found[4] in ("1", "fc2")]
        block = f"blocks.{stage - 1}.{index}"
        if code == "lukemelas":
            block = f"_blocks.{blocks.index((stage, index))}"
        result[f"{block}.{name}.{leaf}"] = tensor
    assert len(result) == len(state)
    return result


@pytest.mark.parametrize(
    ("code", "name", "eps", "same"),
    [
        ("timm", "efficientnet_b0", 1e-5, False),
        ("timm", "tf_efficientnet_b0", 1e-3, True),
        ("lukemelas", "tf_efficientnet_b0", 1e-3, True),
    ],
)
def test_names_of_other_code(code: str, name: str, eps: float, same: bool) -> None:
    state = efficientnet_state(0)
    images, expected = logits(state, lambda state, x: reference.efficientnet(state, x, eps, same))
    assert_equal(models.load_published(renamed(state, code), name), images, expected)


def test_eps_of_timm_in_large_networks_and_padding_in_lite() -> None:
    with torch.device("meta"):
        large = models.create_model("efficientnet_b5")
    assert large.get_submodule("stem.bn").eps == 1e-3
    assert timm.LAYOUT.options("efficientnet_b5") == {"same_padding": False, "bn_eps": 1e-5}
    assert timm.LAYOUT.options("efficientnet_lite0") == {"same_padding": False, "bn_eps": 1e-5}
    assert timm.LAYOUT.options("tf_efficientnet_lite0") == {}


def test_sizes_are_inferred() -> None:
    model = models.create_model(
        "mobilenet_v2", width=1.4, num_classes=5, in_channels=1, norm_logits=True
    )
    arguments = models.config_of(
        models.load_published(model.state_dict(), "mobilenet_v2")
    ).arguments
    found = {key: arguments[key] for key in ("num_classes", "in_channels", "norm_logits")}
    assert found == {"num_classes": 5, "in_channels": 1, "norm_logits": True}
    assert arguments["width"] == pytest.approx(1.4)


@pytest.mark.parametrize("placement", ["all", "depthwise"])
def test_a_state_dict_of_our_own_with_adders(placement: str) -> None:
    model = models.create_model(
        "efficientnet_b0", operator="adder2d", width=0.25, placement=placement
    ).eval()
    loaded = models.load_published(model.state_dict(), "efficientnet_b0")
    assert {name: type(module) for name, module in loaded.named_modules()} == {
        name: type(module) for name, module in model.named_modules()
    }
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(images), model(images))
    assert models.config_of(loaded).images is None


@pytest.mark.parametrize(
    ("state", "name", "message"),
    [
        (lambda: efficientnet_state(1), "efficientnet_b0", r"'features.1.1.block.0.0.weight' is n"),
        (lambda: efficientnet_state(2), "efficientnet_b1", "are as wide as efficientnet_b2."),
        (lambda: efficientnet_state(0), "efficientnet_b1", r"'features.1.1.block.*' is missing"),
        (mobilenet_state, "efficientnet_b0", r"with a 4-D 'features.7.0.block.3.0.weight'"),
        (lambda: efficientnet_state(0), "mobilenet_v2", "with a 4-D 'features.17.conv.2.weight'"),
        (lambda: efficientnet_state(0), "tf_efficientnet_b0", "names are those of torchvision, fo"),
        (lite_state, "efficientnet_b0", "are those of lukemelas, for tf_efficientnet_b., efficien"),
        (lite_state, "mobilenet_v2", "'stem.conv.weight' or 'conv_stem.weight' or 'features.0.0"),
        (dict, "efficientnet_b0", "4-D 'stem.conv.weight' or .* or 'features.0.0.weight'.,"),
        (
            lambda: mobilenet_state() | {"stem.conv.weight": torch.zeros(1)},
            "mobilenet_v2",
            "hold every tensor once",
        ),
    ],
)
def test_weights_of_another_network(state: Any, name: str, message: str) -> None:
    with pytest.raises(ArtifactError, match=message) as caught:
        models.load_published(state(), name)
    assert len(str(caught.value)) <= 400


def test_a_shape_is_refused_under_the_name_of_the_file() -> None:
    state = mobilenet_state()
    state["features.3.conv.1.0.weight"] = torch.zeros(144, 1, 5, 5)
    with pytest.raises(ArtifactError, match=r"for 'features.3.conv.1.0.weight', not \[144, 1, 5"):
        models.load_published(state, "mobilenet_v2")


def test_a_legacy_file_of_tensors_that_are_not_contiguous(tmp_path: Path) -> None:
    state = lite_state()
    images, expected = logits(state, lambda state, x: reference.lite(state, x, 1.0))
    strided = {
        key: tensor.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)
        if tensor.ndim == 4
        else tensor
        for key, tensor in state.items()
    }
    assert not strided["_conv_stem.weight"].is_contiguous()
    torch.save(strided, tmp_path / "lite.pth", _use_new_zipfile_serialization=False)
    model = models.load_published(tmp_path / "lite.pth", "efficientnet_lite0")
    assert_equal(model, images, expected)


def test_a_name_without_published_weights() -> None:
    with pytest.raises(ConfigError, match="did you mean 'efficientnet_b7'"):
        models.load_published({}, "efficientnet_b8")
