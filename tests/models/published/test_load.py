"""Published weights, against an evaluation of the authors' networks from their state dict alone."""

from __future__ import annotations

import collections
import io
import os
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.test_wrappers import compiled
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from mulfree import models, operators
from mulfree.errors import ArtifactError, ConfigError
from mulfree.nn import Adder2d


def adder(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    columns = functional.unfold(x, weight.shape[2:], padding=padding, stride=stride)
    distances = (columns.unsqueeze(1) - weight.flatten(1)[None, :, :, None]).abs().sum(2)
    side = (x.shape[2] + 2 * padding - weight.shape[2]) // stride + 1
    return distances.neg().reshape(len(x), len(weight), side, -1)


def norm(state: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    scale = state[f"{name}.weight"] / (state[f"{name}.running_var"] + 1e-5).sqrt()
    shifted = x - state[f"{name}.running_mean"][:, None, None]
    return shifted * scale[:, None, None] + state[f"{name}.bias"][:, None, None]


def evaluate(state: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Logits of the published code, for 3x3 stems as in CIFAR nets and 7x7 as in ImageNet nets."""
    stem = state["conv1.weight"]
    large = stem.shape[2] == 7
    x = functional.conv2d(x, stem, stride=2 if large else 1, padding=stem.shape[2] // 2)
    x = norm(state, "bn1", x).relu()
    x = functional.max_pool2d(x, 3, 2, 1) if large else x
    blocks = sorted({tuple(key.split(".")[:2]) for key in state if key.startswith("layer")})
    for stage, index in blocks:
        block = f"{stage}.{index}"
        depth = 3 if f"{block}.conv3.adder" in state else 2
        block_stride = 2 if index == "0" and stage != "layer1" else 1
        out = x
        for number in range(1, depth + 1):
            weight = state[f"{block}.conv{number}.adder"]
            stride = block_stride if number == depth - 1 else 1
            out = adder(out, weight, stride, weight.shape[2] // 2)
            out = norm(state, f"{block}.bn{number}", out)
            out = out if number == depth else out.relu()
        if f"{block}.downsample.0.adder" in state:
            x = adder(x, state[f"{block}.downsample.0.adder"], block_stride, 0)
            x = norm(state, f"{block}.downsample.1", x)
        x = (out + x).relu()
    x = functional.conv2d(x.mean((2, 3), keepdim=True), state["fc.weight"], state.get("fc.bias"))
    return norm(state, "bn2", x).flatten(1)


def published(
    depths: list[int], width: int, *, bottleneck: bool, classes: int, imagenet: bool
) -> dict[str, Tensor]:
    """A random state dict with the names and shapes of the published networks."""
    shapes: dict[str, tuple[int, ...]] = {}

    def add_norm(name: str, channels: int) -> None:
        for key in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{key}"] = (channels,)
        shapes[f"{name}.num_batches_tracked"] = ()

    def add_layer(layer: str, normalisation: str, *shape: int) -> None:
        shapes[f"{layer}.adder"] = shape
        add_norm(normalisation, shape[0])

    kernel = 7 if imagenet else 3
    shapes["conv1.weight"] = (width, 3, kernel, kernel)
    add_norm("bn1", width)
    inputs = width
    for stage, depth in enumerate(depths):
        channels = width * 2**stage
        outputs = 4 * channels if bottleneck else channels
        for index in range(depth):
            block = f"layer{stage + 1}.{index}"
            if bottleneck:
                add_layer(f"{block}.conv1", f"{block}.bn1", channels, inputs, 1, 1)
                add_layer(f"{block}.conv2", f"{block}.bn2", channels, channels, 3, 3)
                add_layer(f"{block}.conv3", f"{block}.bn3", outputs, channels, 1, 1)
            else:
                add_layer(f"{block}.conv1", f"{block}.bn1", channels, inputs, 3, 3)
                add_layer(f"{block}.conv2", f"{block}.bn2", channels, channels, 3, 3)
            if inputs != outputs:
                add_layer(f"{block}.downsample.0", f"{block}.downsample.1", outputs, inputs, 1, 1)
            inputs = outputs
    shapes["fc.weight"] = (classes, inputs, 1, 1)
    if imagenet:
        shapes["fc.bias"] = (classes,)
    add_norm("bn2", classes)
    return {name: random_tensor(name, shape) for name, shape in shapes.items()}


def random_tensor(name: str, shape: tuple[int, ...]) -> Tensor:
    if name.endswith("num_batches_tracked"):
        return torch.tensor(7)
    if name.endswith("running_var"):
        return torch.rand(shape) + 50
    if name.endswith("running_mean"):
        return torch.randn(shape) - 30
    return torch.randn(shape)


def resnet20_state(width: int = 16) -> dict[str, Tensor]:
    return published([3, 3, 3], width, bottleneck=False, classes=10, imagenet=False)


def assert_same_logits(model: nn.Module, state: Mapping[str, Tensor], size: int) -> None:
    images = torch.randn(2, 3, size, size, dtype=torch.float64)
    expected = evaluate({name: tensor.double() for name, tensor in state.items()}, images)
    assert expected.std() > 0.1
    torch.testing.assert_close(model.double()(images), expected)


def test_published_resnet20_gives_the_logits_of_the_authors_network() -> None:
    state = resnet20_state()
    model = models.load_published(state, "resnet20")
    assert not model.training
    assert_same_logits(model, state, 32)
    arguments = models.config_of(model).arguments
    assert (arguments["operator"], arguments["width"]) == ("adder2d", 1.0)
    assert arguments["norm_logits"] is True


@pytest.mark.parametrize("size", [32, 64])
def test_published_resnet50_of_reduced_width_gives_the_same_logits(size: int) -> None:
    state = published([3, 4, 6, 3], 4, bottleneck=True, classes=6, imagenet=True)
    model = models.load_published(state, "resnet50")
    assert models.config_of(model).arguments["width"] == 1 / 16
    assert_same_logits(model, state, size)


def test_the_full_resnet50_has_the_published_names_and_shapes() -> None:
    with torch.device("meta"):
        state = published([3, 4, 6, 3], 64, bottleneck=True, classes=1000, imagenet=True)
        ours = models.create_model("resnet50", operator="adder2d", num_classes=1000).state_dict()
    theirs = {name.replace(".adder", ".weight"): value.shape for name, value in state.items()}
    assert {name: value.shape for name, value in ours.items()} == theirs


@pytest.mark.parametrize("archived", [True, False])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {"epoch": 3, "arch": "resnet20", "state_dict": state},
        lambda state: {name: t for name, t in state.items() if "num_batches" not in name},
    ],
)
def test_published_file(
    wrap: Callable[[dict[str, Tensor]], object], archived: bool, tmp_path: Path
) -> None:
    state = resnet20_state(4)
    torch.save(wrap(state), tmp_path / "published.pth", _use_new_zipfile_serialization=archived)
    assert_same_logits(models.load_published(tmp_path / "published.pth", "resnet20"), state, 8)


def test_a_loaded_published_network_can_be_saved_as_our_own(tmp_path: Path) -> None:
    model = models.load_published(resnet20_state(4), "resnet20")
    models.save_weights(model, tmp_path / "w")
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(models.load_model(tmp_path / "w")(images), model(images))


def test_layers_that_are_convolutions_in_the_file_stay_convolutions() -> None:
    state = resnet20_state(4)
    state["layer2.0.conv1.weight"] = state.pop("layer2.0.conv1.adder")
    model = models.load_published(state, "resnet20")
    assert type(model.get_submodule("layer2.0.conv1")) is nn.Conv2d
    assert type(model.get_submodule("layer2.0.conv2")) is Adder2d


def test_the_bias_of_a_published_adder_layer() -> None:
    state = resnet20_state(4)
    model = models.load_published(state, "resnet20")
    state["layer3.2.conv2.b"] = torch.arange(16.0)
    # A constant before a normalisation moves its mean.
    state["layer3.2.bn2.running_mean"] += torch.arange(16.0)
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(models.load_published(state, "resnet20")(images), model(images))


def test_a_multiplying_network_with_a_linear_classifier() -> None:
    state = models.create_model("resnet18", width=1 / 16, num_classes=3).state_dict()
    model = models.create_model("resnet18", width=1 / 16, num_classes=3).eval()
    model.load_state_dict(state)
    state["fc.weight"] = state["fc.weight"].flatten(1)
    loaded = models.load_published(state, "resnet18")
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(loaded(images), model(images), atol=0, rtol=0)
    assert models.config_of(loaded).arguments["operator"] == "conv2d"


def test_the_stem_for_small_images() -> None:
    state = models.create_model("resnet18", width=1 / 16, small_input=True).state_dict()
    assert models.config_of(models.load_published(state, "resnet18")).arguments["small_input"]


def test_whole_models_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(models.create_model("lenet5_bn"), path)
    with pytest.raises(ArtifactError, match="only tensors are read, never whole models") as caught:
        models.load_published(path, "resnet20")
    assert "\n" not in str(caught.value)


def with_prefix(prefix: str) -> Callable[[dict[str, Any]], None]:
    def change(state: dict[str, Any]) -> None:
        for key in list(state):
            state[prefix + key] = state.pop(key)

    return change


def quantised(tensor: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


def nested() -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.clear(), "be weights of resnet20 .with a 4-D 'conv1.weight'"),
        (lambda s: s.pop("fc.weight"), "with a 4-D 'fc.weight'"),
        (lambda s: s.pop("layer1.0.conv1.adder"), "tensors .* .'layer1.0.conv1.weight'"),
        (lambda s: s.update(more=torch.zeros(2)), "network's .'more' is not"),
        (lambda s: s.update({"bn1.bias": torch.zeros(5)}), r"'bn1.bias', not \[5\]"),
        (lambda s: s.update({"conv1.weight": torch.zeros(0, 3, 3, 3)}), "`width` must"),
        (lambda s: s.update({"conv1.weight": 5}), "of tensors .'conv1.weight' is none"),
        (lambda s: s.update({5: torch.zeros(1)}), "a state dict of tensors .5 is none"),
        (lambda s: s.update({"x" * 9999: 5}), r"tensors .'x+\.\.\.x+' is none"),
        (lambda s: s.update({"fc.weight": s["fc.weight"].to_sparse()}), "'fc.weight' is"),
        (lambda s: s.update({"fc.weight": s["fc.weight"].to("meta")}), "'fc.weight' is"),
        (lambda s: s.update({"fc.weight": quantised(s["fc.weight"])}), "'fc.weight' is"),
        (lambda s: s.update({"fc.weight": nested()}), "'fc.weight' is none"),
        (lambda s: s.update({"bn1.bias": torch.zeros(4, dtype=torch.cfloat)}), "complex64"),
        (lambda s: s.update({"bn1.bias": torch.zeros(1).expand(4)}), "not one for many"),
        (with_prefix("encoder."), "'conv1.weight'; 'encoder.conv1.weight' does not fit"),
        (lambda s: s.update({"module.bn1.bias": s.pop("bn1.bias")}), "'module.bn1.bias' is"),
    ],
)
def test_a_state_dict_of_something_else(
    change: Callable[[dict[str, Any]], object], message: str
) -> None:
    state = resnet20_state(4)
    change(state)
    pattern = rf"^load_published: `path_or_state_dict` must .*{message}.*got a state dict$"
    with pytest.raises(ArtifactError, match=pattern):
        models.load_published(state, "resnet20")


def test_a_network_without_published_weights() -> None:
    with pytest.raises(ConfigError, match=r"`name` must be one of eff.*, got 'vgg_small'"):
        models.load_published({}, "vgg_small")


def own_state(operator: str, **options: Any) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = models.create_model("resnet20", operator=operator, width=0.25, **options)
    model(torch.randn(4, 3, 8, 8))
    return model.eval().state_dict()


def assert_loads(loaded: nn.Module, state: Mapping[str, Tensor], operator: str) -> None:
    assert models.config_of(loaded).arguments["operator"] == operator
    expected = operators.get_operator(operator).conv
    assert type(loaded.get_submodule("layer1.0.conv1")) is expected
    torch.testing.assert_close(dict(loaded.state_dict()), dict(state), atol=0, rtol=0)


@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize("operator", ["adder2d", "conv2d"])
def test_a_state_dict_of_our_own_tells_its_operator(
    operator: str, in_file: bool, tmp_path: Path
) -> None:
    state = own_state(operator)
    torch.save(state, tmp_path / "x.pt")
    loaded = models.load_published(tmp_path / "x.pt" if in_file else state, "resnet20")
    assert_loads(loaded, state, operator)


def test_a_network_of_others_that_was_converted_tells_its_operator() -> None:
    model = models.create_model("resnet20", width=0.25)
    model._state_dict_hooks.clear()  # As if create_model had not built it.
    models.convert(model)
    assert_loads(
        models.load_published(model.state_dict(), "resnet20"), model.state_dict(), "adder2d"
    )


@pytest.mark.parametrize("operator", ["adder2d", "conv2d"])
def test_a_state_dict_that_could_be_of_either_operator(operator: str) -> None:
    state = dict(own_state(operator))
    with pytest.raises(
        ConfigError, match=r"^load_published: `operator` must be given as operator=\"ad"
    ):
        models.load_published(state, "resnet20")
    assert_loads(models.load_published(state, "resnet20", operator=operator), state, operator)


def test_an_operator_that_the_state_dict_contradicts() -> None:
    line = "`operator` must be adder2d as a state dict records it, got conv2d"
    for state in (own_state("adder2d"), resnet20_state(4)):
        with pytest.raises(ConfigError, match=line):
            models.load_published(state, "resnet20", operator="conv2d")
        models.load_published(state, "resnet20", operator="adder2d")
    with pytest.raises(ConfigError, match="`operator` must be one of adder2d, conv2d, got 'adder'"):
        models.load_published({}, "resnet20", operator="adder")


@pytest.mark.parametrize(
    "metadata",
    [
        5,
        {"layer1.0.conv1": 5},
        {"layer1.0.conv1": {"operator": []}},
        {"layer1.0.conv1": {"operator": "x"}},
    ],
)
def test_metadata_that_tells_nothing(metadata: object) -> None:
    state = collections.OrderedDict(own_state("adder2d"))
    state._metadata = metadata  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="`operator` must be given"):
        models.load_published(state, "resnet20")


@pytest.mark.parametrize(
    ("wrap", "container"),
    [
        (nn.DataParallel, None),
        (compiled, "model"),
        (AveragedModel, "state_dict"),
        (lambda model: nn.DataParallel(compiled(model)), "model_state_dict"),
        (lambda model: compiled(nn.DataParallel(model)), "model"),
        (lambda model: compiled(AveragedModel(nn.DataParallel(model))), "state_dict"),
    ],
)
def test_wrappers(
    wrap: Callable[[nn.Module], nn.Module], container: str | None, tmp_path: Path
) -> None:
    model = models.create_model("resnet20", operator="adder2d", width=0.25).eval()
    content: object = wrap(model).state_dict()
    if container is not None:
        content = {"epoch": 3, "optimizer": {"lr": 0.1}, container: {"state_dict": content}}
    torch.save(content, tmp_path / "x.pt")
    loaded = models.load_published(tmp_path / "x.pt", "resnet20")
    assert_loads(loaded, model.state_dict(), "adder2d")


def test_containers_without_an_end() -> None:
    content: dict[str, Any] = {}
    content["model"] = content
    with pytest.raises(ArtifactError, match=r"of tensors \('model' is none"):
        models.load_published(content, "resnet20")


def test_a_name_of_many_prefixes() -> None:
    state = {"module." * 100_000 + "conv1.weight": torch.zeros(1)}
    with pytest.raises(ArtifactError, match=r"'module\.module\..* does not fit"):
        models.load_published(state, "resnet20")


class WithoutMethods(dict[str, Tensor]):
    """Pickled as an ordered dictionary with attributes in the places of its methods."""

    def __reduce__(self) -> tuple[Any, ...]:
        attributes = dict.fromkeys(("items", "keys", "get", "values"), 5)
        return collections.OrderedDict, (), attributes, None, iter(self.items())


def test_methods_that_a_pickle_has_replaced(tmp_path: Path) -> None:
    state = resnet20_state(4)
    torch.save({"model": WithoutMethods(state)}, tmp_path / "x.pt")
    assert torch.load(tmp_path / "x.pt", weights_only=True)["model"].items == 5
    assert_same_logits(models.load_published(tmp_path / "x.pt", "resnet20"), state, 8)


def test_numbers_of_several_types_become_float32() -> None:
    state = resnet20_state(4)
    state["fc.weight"] = state["fc.weight"].half()
    state["bn1.bias"] = state["bn1.bias"].double()
    loaded = models.load_published(state, "resnet20")
    assert loaded.get_parameter("fc.weight").dtype == torch.float32
    assert torch.equal(loaded.get_parameter("fc.weight"), state["fc.weight"].float())


@pytest.mark.parametrize("content", [b"PK\3\4", b"\xff" * 64, b"\0" * 64, b"no tensors" * 9])
def test_a_file_of_another_kind(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(ArtifactError, match="must be an undamaged file of torch"):
        models.load_published(tmp_path / "w", "resnet20")


def test_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "no", tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ArtifactError, match=r"^load_published: .*must be a readable file"):
            models.load_published(path, "resnet20")


def test_an_archive_larger_than_its_file(tmp_path: Path) -> None:
    plain, packed = io.BytesIO(), tmp_path / "x.pt"
    torch.save({"conv1.weight": torch.zeros(1_000_000)}, plain)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert packed.stat().st_size < 20_000
    with pytest.raises(ArtifactError, match="its records are compressed"):
        models.load_published(packed, "resnet20")


@pytest.mark.parametrize("keep", [(), ("layer1.*",)])
def test_a_classifier_of_our_own_that_is_an_adder_layer_with_bias(keep: tuple[str, ...]) -> None:
    model = models.create_model("resnet18", operator="adder2d", width=1 / 16, keep=keep).eval()
    loaded: Any = models.load_published(model.state_dict(), "resnet18")
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded(images), model(images))
    assert type(loaded.fc) is Adder2d
    assert loaded.fc.bias is not None


@pytest.mark.parametrize("value", [None, 3, b"resnet20.pt", [], nn.Conv2d(3, 3, 1)])
def test_something_that_is_neither_a_path_nor_a_state_dict(value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"path or a state dict, got a {type(value).__name__}$"):
        models.load_published(value, "resnet20")
