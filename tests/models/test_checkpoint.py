from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional

import mulfree
from mulfree import models
from mulfree.errors import ArtifactError, ConfigError
from mulfree.nn import Adder2d

# ---------------------------------------------------------------------------------------------
# safetensors


def trained(operator: str = "adder2d", **options: Any) -> nn.Module:
    """A small network whose normalisations have seen a batch."""
    model = models.create_model("resnet20", operator=operator, width=0.25, **options)
    model(torch.randn(4, 3, 8, 8))
    return model.eval()


@pytest.mark.parametrize("operator", ["conv2d", "adder2d"])
@pytest.mark.parametrize("name", models.list_models())
def test_round_trip_from_the_file_alone(name: str, operator: str, tmp_path: Path) -> None:
    model = models.create_model(name, operator=operator, width=1 / 16, num_classes=4, in_channels=1)
    images = torch.randn(3, 1, 8, 8)
    model(images)
    path = tmp_path / "model.safetensors"
    models.save_weights(model, path)
    loaded = models.load_model(path)
    assert not loaded.training
    torch.testing.assert_close(loaded(images), model.eval()(images), atol=0, rtol=0)
    assert models.config_of(loaded) == models.config_of(model)


def test_metadata(tmp_path: Path) -> None:
    model = trained(gradient="sign", keep=("first", "layer3"), norm_logits=False)
    models.save_weights(model, tmp_path / "w")
    with safe_open(tmp_path / "w", framework="pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "mulfree.model/1"
    assert metadata["mulfree_version"] == mulfree.__version__
    assert json.loads(metadata["model"]) == {
        "name": "resnet20",
        "arguments": dict(models.config_of(model).arguments),
    }
    loaded = models.load_model(str(tmp_path / "w"))
    assert loaded.get_submodule("layer1.0.conv1").gradient == "sign"
    assert type(loaded.get_submodule("layer3.0.conv1")) is nn.Conv2d


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_precision_is_kept(dtype: torch.dtype, tmp_path: Path) -> None:
    model = trained().to(dtype)
    models.save_weights(model, tmp_path / "w")
    loaded = models.load_model(tmp_path / "w").state_dict()
    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(loaded[key], tensor, atol=0, rtol=0)


def test_saving_and_loading_draw_no_random_numbers(tmp_path: Path) -> None:
    model = trained()
    state = torch.get_rng_state()
    models.save_weights(model, tmp_path / "w")
    models.load_model(tmp_path / "w")
    assert torch.equal(torch.get_rng_state(), state)


def test_a_compiled_model_is_saved_as_what_it_wraps(tmp_path: Path) -> None:
    model = trained()
    models.save_weights(torch.compile(model), tmp_path / "w")  # type: ignore[arg-type]
    assert models.load_model(tmp_path / "w").state_dict().keys() == model.state_dict().keys()


def test_weights_in_another_memory_format(tmp_path: Path) -> None:
    model = trained()
    weight = model.get_parameter("layer2.0.conv2.weight")
    weight.data = weight.data.to(memory_format=torch.channels_last)
    models.save_weights(model, tmp_path / "w")
    loaded = models.load_model(tmp_path / "w").get_parameter("layer2.0.conv2.weight")
    torch.testing.assert_close(loaded, weight, atol=0, rtol=0)


def with_another_classifier(model: nn.Module) -> None:
    model.fc = nn.Conv2d(16, 3, 1, bias=False)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: models.convert(model, "conv2d"),
        lambda model: models.convert(model.layer1, "conv2d"),
        with_another_classifier,
    ],
)
def test_a_changed_model_is_not_saved(change: Callable[[Any], object], tmp_path: Path) -> None:
    model = trained()
    change(model)
    with pytest.raises(ConfigError, match=r"`model` must be as create_model\('resnet20'\) built"):
        models.save_weights(model, tmp_path / "w")
    assert not list(tmp_path.iterdir())


def test_a_model_without_a_recipe_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`model` must be one that create_model built"):
        models.save_weights(nn.Linear(2, 2), tmp_path / "w")


def test_nothing_is_left_of_a_write_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w"
    models.save_weights(trained(), path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        models.save_weights(trained(), path)
    assert [file.name for file in tmp_path.iterdir()] == ["w"]
    assert path.read_bytes() == before


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no/w'$"):
        models.save_weights(trained(), tmp_path / "no" / "w")


def rewritten(
    path: Path,
    *,
    tensors: Callable[[dict[str, Tensor]], object] = lambda _: None,
    recipe: Callable[[dict[str, Any]], object] = lambda _: None,
    metadata: Callable[[dict[str, str]], object] = lambda _: None,
) -> Path:
    """A file of `save_weights` with something changed."""
    models.save_weights(trained(), path)
    content = safetensors.torch.load_file(path)
    tensors(content)
    with safe_open(path, framework="pt") as file:
        fields = dict(file.metadata())
    model = json.loads(fields["model"])
    recipe(model)
    fields["model"] = json.dumps(model)
    metadata(fields)
    safetensors.torch.save_file(content, path, fields)
    return path


LAYER = "layer1.0.conv1.weight"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"tensors": lambda t: t.pop(LAYER)},
            rf"hold all tensors of its network \('{LAYER}' is missing\)",
        ),
        (
            {"tensors": lambda t: t.update({LAYER: t[LAYER][:3].clone()})},
            rf"network's shapes \(\[4, 4, 3, 3\] for '{LAYER}', not \[3, 4, 3, 3\]\)",
        ),
        ({"tensors": lambda t: t.update(more=torch.zeros(1))}, r"its network's \('more' is not\)"),
        ({"tensors": lambda t: t.update({LAYER: t[LAYER].half()})}, "of one floating-point type"),
        ({"tensors": lambda t: t.update({LAYER: t[LAYER].int()})}, "not of torch.float32, torch.i"),
        ({"metadata": lambda m: m.clear()}, r"a file of save_weights \(mulfree.model/1, not None"),
        ({"metadata": lambda m: m.update(format="pt")}, r"mulfree.model/1, not pt\)"),
        ({"metadata": lambda m: m.pop("model")}, r"a valid recipe \(KeyError\)"),
        ({"metadata": lambda m: m.update(model="{")}, r"a valid recipe \(JSONDecodeError\)"),
        ({"metadata": lambda m: m.update(model="[" * 100_000)}, r"a valid recipe \(Recursion"),
        ({"metadata": lambda m: m.update(model="[]")}, r"a valid recipe \(TypeError\)"),
        ({"recipe": lambda r: r.update(arguments=[])}, r"a valid recipe \(TypeError\)"),
        ({"recipe": lambda r: r["arguments"].update(name="a")}, r"a valid recipe \(TypeError\)"),
        ({"recipe": lambda r: r.update(name=5)}, "of a network that can be built .*got 5"),
        ({"recipe": lambda r: r.update(name="resnet32")}, "hold all tensors"),
        ({"recipe": lambda r: r["arguments"].update(operator=[])}, "`operator` must be of type"),
        ({"recipe": lambda r: r["arguments"].update(width=1e9)}, "`width` must be above 0"),
        ({"recipe": lambda r: r["arguments"].update(width=1)}, "network's shapes"),
        ({"recipe": lambda r: r["arguments"].update(keep=7)}, "`keep` must be a sequence"),
        ({"recipe": lambda r: r["arguments"].update(gradient=7)}, "`gradient` must be .* got 7"),
        ({"recipe": lambda r: r["arguments"].update(evil=7)}, "`options` must be .* got 'evil'"),
    ],
)
def test_a_file_that_is_not_what_it_claims(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = rewritten(tmp_path / "w", **changes)
    with pytest.raises(ArtifactError, match=rf"^load_model: `path` must .*{message}") as caught:
        models.load_model(path)
    assert str(caught.value).endswith(f"got {path}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [0, 7, 8, 100, -1])
def test_a_truncated_file(kept: int, tmp_path: Path) -> None:
    path = tmp_path / "w"
    models.save_weights(trained(), path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ArtifactError, match="must be a readable safetensors file"):
        models.load_model(path)


@pytest.mark.parametrize("content", [b"PK\3\4", b"\xff" * 64, b"\0" * 64, b"no tensors" * 9])
def test_a_file_of_another_kind(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "w"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="must be a readable safetensors file"):
        models.load_model(path)
    with pytest.raises(ArtifactError, match="must be an undamaged file of torch"):
        models.load_published(path, "resnet20")


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "no"):
        with pytest.raises(ArtifactError, match=r"^load_model: .*must be a readable safetensors"):
            models.load_model(path)
        with pytest.raises(ArtifactError, match=r"^load_published: .*must be a readable file"):
            models.load_published(path, "resnet20")


# ---------------------------------------------------------------------------------------------
# Published weights, against an evaluation of the authors' networks from their state dict alone.


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


def test_published_logits_in_single_precision() -> None:
    state = resnet20_state(4)
    images = torch.randn(2, 3, 32, 32)
    expected = evaluate(state, images)
    actual = models.load_published(state, "resnet20")(images)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * float(expected.std()))


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


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {"epoch": 3, "arch": "resnet20", "state_dict": state},
        lambda state: {name: t for name, t in state.items() if "num_batches" not in name},
    ],
)
def test_published_file(wrap: Callable[[dict[str, Tensor]], object], tmp_path: Path) -> None:
    state = resnet20_state(4)
    torch.save(wrap(state), tmp_path / "published.pth")
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


@pytest.mark.parametrize(
    ("change", "name", "message"),
    [
        (lambda s: s.clear(), "resnet20", "the weights of a resnet20 .with a 4-D 'conv1.weight'"),
        (lambda s: s.pop("fc.weight"), "resnet20", "with a 4-D 'fc.weight'"),
        (
            lambda s: s.pop("layer1.0.conv1.adder"),
            "resnet20",
            "tensors .* .'layer1.0.conv1.weight'",
        ),
        (lambda s: s.update(more=torch.zeros(2)), "resnet20", "network's .'more' is not"),
        (lambda s: s.update({"bn1.bias": torch.zeros(5)}), "resnet20", r"'bn1.bias', not \[5\]"),
        (lambda s: s.update({"conv1.weight": torch.zeros(0, 3, 3, 3)}), "resnet20", "`width` must"),
        (lambda s: s.update({"conv1.weight": 5}), "resnet20", "a state dict of tensors"),
        (lambda s: None, "resnet32", "tensors .* .'layer1.3.conv1.weight' is missing"),
    ],
)
def test_a_state_dict_of_something_else(
    change: Callable[[dict[str, Any]], object], name: str, message: str
) -> None:
    state = resnet20_state(4)
    change(state)
    pattern = rf"^load_published: `path_or_state_dict` must .*{message}.*got a state dict$"
    with pytest.raises(ArtifactError, match=pattern):
        models.load_published(state, name)


def test_only_residual_networks_are_published() -> None:
    with pytest.raises(ConfigError, match=r"`name` must be one of resnet110, .*, got 'vgg_small'"):
        models.load_published({}, "vgg_small")
