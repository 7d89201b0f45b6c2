from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import mulfree
from mulfree import models
from mulfree.errors import ArtifactError, ConfigError


def trained(operator: str = "adder2d", **options: Any) -> nn.Module:
    """A small network whose normalisations have seen a batch."""
    model = models.create_model("resnet20", operator=operator, width=0.25, **options)
    model(torch.randn(4, 3, 8, 8))
    return model.eval()


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


def test_weights_in_another_memory_format(tmp_path: Path) -> None:
    model = trained()
    weight = model.get_parameter("layer2.0.conv2.weight")
    weight.data = weight.data.to(memory_format=torch.channels_last)
    models.save_weights(model, tmp_path / "w")
    loaded = models.load_model(tmp_path / "w").get_parameter("layer2.0.conv2.weight")
    torch.testing.assert_close(loaded, weight, atol=0, rtol=0)


def test_wrapped_models_are_saved_as_what_they_wrap(tmp_path: Path) -> None:
    model = trained()
    compiled: Any = torch.compile(model)
    for wrapper in (nn.DataParallel(model), AveragedModel(model), compiled):
        models.save_weights(wrapper, tmp_path / "w")
        loaded = models.load_model(tmp_path / "w").state_dict()
        torch.testing.assert_close(loaded, model.state_dict(), atol=0, rtol=0)


def test_what_a_network_was_trained_on_goes_with_it(tmp_path: Path) -> None:
    model = trained(num_classes=2)
    images = models.ImageSpec(
        size=(3, 8, 8),
        mean=(0.5, 0.25, 1e-9),
        std=(1, 2, 3),
        resize=9,
        classes=("a", "é\n"),
        data="x",
    )
    models.set_images(model, images)
    models.save_weights(model, tmp_path / "w")
    loaded = models.load_model(tmp_path / "w")
    assert models.config_of(loaded).images == images
    assert models.input_size(loaded) == (3, 8, 8)


def test_no_flipped_bit_loads_another_network(tmp_path: Path) -> None:
    model = models.create_model("lenet5_bn", operator="adder2d", width=1 / 16, num_classes=2)
    path = tmp_path / "w"
    models.save_weights(model, path)
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    chance = random.Random(0)
    # Half of them in the header.
    places = [chance.randrange(8 * end) for end in (header, len(content)) for _ in range(100)]
    refused = 0
    for place in places:
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            loaded = models.load_model(path)
        except ArtifactError:
            refused += 1
        else:
            assert models.config_of(loaded) == models.config_of(model)
            torch.testing.assert_close(loaded.state_dict(), model.state_dict(), atol=0, rtol=0)
    assert refused == len(places)


def test_other_weights_under_the_digest_of_these(tmp_path: Path) -> None:
    path = rewritten(tmp_path / "w", tensors=lambda t: t[LAYER].view(-1)[0].add_(1))
    with pytest.raises(
        ArtifactError, match=r"must be undamaged \(its content has another sha256\)"
    ):
        models.load_model(path)
    path = rewritten(tmp_path / "w", config=lambda r: r["arguments"].update(gradient="sign"))
    with pytest.raises(ArtifactError, match="must be undamaged"):
        models.load_model(path)


def test_a_file_without_a_digest_and_one_that_another_tool_has_rewritten(tmp_path: Path) -> None:
    path = rewritten(tmp_path / "w", metadata=lambda m: m.pop("sha256"))
    assert models.config_of(models.load_model(path)).name == "resnet20"
    path = rewritten(tmp_path / "w")
    assert models.config_of(models.load_model(path)).name == "resnet20"


def test_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "no", tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ArtifactError, match=r"^load_model: .*must be a readable safetensors"):
            models.load_model(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: models.convert(model, "conv2d"),
        lambda model: models.convert(model.layer1, "conv2d"),
        lambda model: setattr(model, "fc", nn.Conv2d(16, 3, 1, bias=False)),
    ],
)
def test_a_changed_model_is_not_saved(change: Callable[[Any], object], tmp_path: Path) -> None:
    model = trained()
    change(model)
    with pytest.raises(ConfigError, match=r"`model` must be as create_model\('resnet20'\) built"):
        models.save_weights(model, tmp_path / "w")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: model.to("meta"), "plain tensors alone"),
        (lambda model: model.conv1.half(), "of one floating-point type, not of torch.float16, tor"),
        (
            lambda model: model.to(torch.float8_e5m2),
            "of one floating-point type, not of torch.float8",
        ),
        (lambda model: model.type(torch.float16), "network's types .*, not torch.float16"),
        (
            lambda model: setattr(model.layer1[0].conv2, "weight", model.layer1[0].conv1.weight),
            "not one",
        ),
    ],
)
def test_a_model_that_could_not_be_loaded_again_is_not_saved(
    change: Callable[[Any], object], message: str, tmp_path: Path
) -> None:
    model = trained()
    change(model)
    with pytest.raises(ConfigError, match=rf"^save_weights: `model` must .*{message}.* Residual"):
        models.save_weights(model, tmp_path / "w")
    assert not list(tmp_path.iterdir())


def test_a_model_without_a_model_config_is_not_saved(tmp_path: Path) -> None:
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


def rewritten(
    path: Path,
    *,
    tensors: Callable[[dict[str, Tensor]], object] = lambda _: None,
    config: Callable[[dict[str, Any]], object] = lambda _: None,
    metadata: Callable[[dict[str, str]], object] = lambda _: None,
) -> Path:
    """A file of `save_weights` with something changed."""
    models.save_weights(trained(), path)
    content = safetensors.torch.load_file(path)
    tensors(content)
    with safe_open(path, framework="pt") as file:
        fields = dict(file.metadata())
    model = json.loads(fields["model"])
    config(model)
    fields["model"] = json.dumps(model)
    metadata(fields)
    safetensors.torch.save_file(content, path, fields)
    return path


LAYER = "layer1.0.conv1.weight"
COUNTER = "bn1.num_batches_tracked"


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
        ({"metadata": lambda m: m.update(sha257="0")}, r"no metadata but .* \('sha257'\)"),
        ({"metadata": lambda m: m.update(format="\x1b]0;owned\x07")}, r"not \\x1b\]0;owned\\x07\)"),
        ({"metadata": lambda m: m.update(format="x" * 9999)}, r"not x+ \.\.\. x+\)"),
        ({"metadata": lambda m: m.pop("model")}, r"valid model config \(KeyError\)"),
        ({"metadata": lambda m: m.update(model="{")}, r"valid model config \(JSONDecodeError\)"),
        (
            {"metadata": lambda m: m.update(model="[" * 100_000)},
            r"valid model config \(Recursion",
        ),
        ({"metadata": lambda m: m.update(model="[]")}, r"valid model config \(TypeError\)"),
        ({"config": lambda r: r.update(arguments=[])}, r"valid model config \(TypeError\)"),
        (
            {"config": lambda r: r.update(images={"size": 3})},
            r"valid model config \(ConfigError\)",
        ),
        (
            {"tensors": lambda t: t.update({COUNTER: t[COUNTER].int()})},
            rf"network's types \(torch.int64 for '{COUNTER}', not torch.int32\)",
        ),
        ({"config": lambda r: r.update(name=5)}, "of a network that can be built .*got 5"),
        ({"config": lambda r: r.update(name="resnet32")}, "hold all tensors"),
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "a"}, r"valid model config \(TypeError\)"),
        ({"num_classes": 10**400}, "an integer of 1329 bits"),
        ({"keep": ["a"] * 2000}, "valid model config .TypeErr"),
        ({"width": 64}, "network's shapes"),
        ({"width": 1}, "network's shapes"),
        ({"keep": 7}, "`keep` must be a sequence"),
        ({"gradient": 7}, "`gradient` must be .* got 7"),
        ({"evil": 7}, "`options` must be .* got 'evil'"),
    ],
)
def test_arguments_of_no_network(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = rewritten(tmp_path / "w", config=lambda r: r["arguments"].update(arguments))
    with pytest.raises(ArtifactError, match=rf"^load_model: `path` must .*{message}"):
        models.load_model(path)


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


def test_equal_networks_give_equal_files(tmp_path: Path) -> None:
    model = models.create_model("lenet5_bn", operator="adder2d", width=0.25)
    files = set()
    for number in range(8):
        models.save_weights(model, tmp_path / f"{number}.safetensors")
        files.add((tmp_path / f"{number}.safetensors").read_bytes())
    (content,) = files
    keys = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    assert list(keys) == ["format", "model", "mulfree_version", "sha256"]
