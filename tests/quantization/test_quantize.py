from __future__ import annotations

from collections import OrderedDict
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.quantization.networks import named, outputs, warm
from torch import Tensor, nn
from torch.nn import functional

from mulfree import data, models, runtime, training
from mulfree.errors import ConfigError, ShapeError
from mulfree.nn import Adder2d
from mulfree.nodes.adder2d import Adder2d as AdderNode
from mulfree.quantization import Preprocessing, quantize
from mulfree.runtime import artifact, reference

Trained = tuple[nn.Module, list[Tensor]]


def preprocessing(**change: Any) -> Preprocessing:
    options: dict[str, Any] = {"mean": (0.0,), "std": (1.0,), "resize": 8, **change}
    return Preprocessing(**options)


@pytest.fixture(scope="module")
def trained() -> Trained:
    """A digit classifier, and images of them in batches of 32."""
    splits = data.load(data.DataConfig())
    torch.manual_seed(0)
    net = models.create_model("lenet5_bn", operator="adder2d", in_channels=1, width=0.5)
    optimizer = training.build_optimizer(net, training.OptimizerConfig(lr=0.05))
    loader = data.BatchLoader(splits.train, 64, train=True, transform=splits.train_transform)
    for _ in range(4):
        for images, labels in loader:
            optimizer.zero_grad()
            functional.cross_entropy(net(images), labels).backward()
            optimizer.step()
    net.eval()
    loader = data.BatchLoader(splits.train, 32, train=True, transform=splits.test_transform)
    return net, [images for images, _ in islice(loader, 8)]


def correlation(net: nn.Module, graph: runtime.Graph, images: Tensor) -> float:
    ours = reference.run(graph, images.numpy())
    return float(np.corrcoef(ours.ravel(), outputs(net, images).ravel())[0, 1])


# Three digits of logits at 8 bits; each bit less doubles the error.
@pytest.mark.parametrize(("bits", "least"), [(8, 0.999), (6, 0.995), (5, 0.99), (4, 0.97)])
def test_close_to_the_network(trained: Trained, bits: int, least: float) -> None:
    net, images = trained
    graph = quantize(net, images, bits)
    assert correlation(net, graph, torch.cat(images)) > least


def test_a_layer_by_hand() -> None:
    layer = Adder2d(2, 2, 1)
    first = (nn.Conv2d(1, 2, 1), nn.ReLU())
    net = nn.Sequential(*first, layer, nn.ReLU(), nn.Flatten(), nn.Linear(2, 2))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[-2.0, -0.2], [0.6, 1.5]])[..., None, None])
    images = [torch.zeros(1, 1, 1, 1)]
    ranges = dict.fromkeys((value.name for value in quantize(net, images).values), (-1.0, 3.0))
    _, node, _ = quantize(net, images, 4, ranges=ranges).nodes
    assert isinstance(node, AdderNode)
    # Steps of 4 / 15 from the zero 4 on; -2 becomes -16 / 15, and 14 / 15 is left of it.
    assert node.weight.tolist() == [[[[0, 3]]], [[[6, 10]]]]
    # The output has the scale 4 / 255 and the zero point 64.
    assert (node.shift, node.clamp_min, node.clamp_max) == (26, 64, 255)
    assert node.multiplier.tolist() == [17 << 26] * 2
    assert node.offset.tolist() == [round((64 - 14 / 15 * 255 / 4) * 2**26), 64 << 26]


def test_only_layers_that_are_convolutions_multiply_with_shifts(trained: Trained) -> None:
    net, images = trained
    plain, shifts = (quantize(net, images, 8, power_of_two_scales=only) for only in (False, True))
    multiplying = [
        node.name for node, count in zip(shifts.nodes, shifts.counts(), strict=True) if count.mul
    ]
    assert multiplying == ["conv1", "fc"]
    counts = [sum(count.mul for count in graph.counts()) for graph in (plain, shifts)]
    assert counts[1] < counts[0]
    assert correlation(net, shifts, images[0]) > 0.8


def test_shifts_cost_a_convolutional_network_nothing() -> None:
    net = named("resnet20", "conv2d", width=0.25)
    images = warm(net, (3, 16, 16))
    graph = quantize(net, images, 8, power_of_two_scales=True)
    assert correlation(net, graph, images[0]) > 0.99


def test_trained_ranges_are_used_as_they_are(trained: Trained) -> None:
    net, images = trained
    names = ["images", *(value.name for value in quantize(net, images).values)]
    ranges = dict.fromkeys(names, (-1.0, 3.0))
    graph = quantize(net, images[:1], 8, ranges=ranges)
    # Nothing was learned from the images.
    other = quantize(net, [torch.randn(1, 1, 8, 8)], 8, ranges=ranges)
    assert {(value.scale, value.zero_point) for value in graph.values} == {(4.0 / 255, 64)}
    x = images[1].numpy()
    np.testing.assert_array_equal(reference.run(graph, x), reference.run(other, x))


def test_normalisations_are_corrected_from_64_images_on(trained: Trained) -> None:
    net, images = trained
    x = images[-1].numpy()

    def logits(count: int, correct: bool | None) -> NDArray[np.float32]:
        return reference.run(
            quantize(net, [torch.cat(images)[:count]], 4, bias_correction=correct), x
        )

    for count, default in ((63, False), (64, True)):
        np.testing.assert_array_equal(logits(count, None), logits(count, default))
        assert not np.array_equal(logits(count, None), logits(count, not default))


def test_names_and_pictures(trained: Trained) -> None:
    net, images = trained
    graph = quantize(net, images)
    assert (graph.name, graph.classes) == ("LeNet5BN", None)
    assert (graph.input.mean, graph.input.std, graph.input.resize) == ((0.0,), (1.0,), 8)
    how = Preprocessing(mean=(0.5,), std=(0.2,), resize=40, classes=tuple("abcdefghij"))
    graph = quantize(net, images, preprocessing=how, name="net")
    assert (graph.name, graph.classes) == ("net", tuple("abcdefghij"))
    assert (graph.input.mean, graph.input.resize) == ((0.5,), 40)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"observer": "median"}, ConfigError, r"`observer` must be one of auto, minmax, "),
        ({"batches": []}, ShapeError, r"`batches` must hold images .* got nothing"),
        ({"model": nn.Sequential(nn.GLU())}, ConfigError, r"got GLU at 0"),
        ({"equalize": 1}, ConfigError, r"`equalize` must be True or False, got 1"),
        ({"equalize": True, "ranges": {}}, ConfigError, "`equalize` must be False with `ranges`"),
        ({"ranges": [1]}, ConfigError, r"`ranges` must be a mapping or None, got \[1\]"),
        ({"bits": 8.0}, ConfigError, r"`bits` must be one of 8, 6, 5, 4, got 8.0"),
        ({"bits": True}, ConfigError, r"`bits` must be one of 8, 6, 5, 4, got True"),
        ({"bits": 10**5000}, ConfigError, r"`bits` must be one of .* an integer of 16610 bits"),
        ({"observer": None}, ConfigError, r"`observer` must be one of auto, .* got None"),
        ({"bias_correction": 1}, ConfigError, r"`bias_correction` must be True, .* got 1"),
        ({"power_of_two_scales": "no"}, ConfigError, r"`power_of_two_scales` must .* got 'no'"),
        ({"name": "a\nb"}, ConfigError, r"`name` must be a printable text of .* got 'a\\nb'"),
        ({"preprocessing": (0, 1)}, ConfigError, r"`preprocessing` must be .* got \(0, 1\)"),
        (
            {"preprocessing": preprocessing(classes=("x" * 5000,) * 10)},
            ConfigError,
            r"`preprocessing.classes` must be a tuple of texts of .* or None, got \('xxx",
        ),
        (
            {"preprocessing": preprocessing(classes=("a", "b"))},
            ConfigError,
            r"`preprocessing.classes` must have 10 names, as many as logits, got 2",
        ),
        (
            {"preprocessing": preprocessing(resize=2**20)},
            ConfigError,
            r"`preprocessing.resize` must be an int in",
        ),
        (
            {"preprocessing": preprocessing(resize=7)},
            ConfigError,
            r"`preprocessing.resize` must be at least the images' side 8, got 7",
        ),
        (
            {"preprocessing": preprocessing(mean=(0.0,) * 3, std=(1.0,) * 3)},
            ConfigError,
            r"`preprocessing` must have a mean and std for each of 1 channels, got 3 and 3",
        ),
        ({"batches": torch.zeros(1, 2, 8, 8)}, ConfigError, r"\(ShapeError: LeNet5BN: `images`"),
        (
            {"model": nn.Sequential(OrderedDict({"x" * 300: nn.Conv2d(1, 1, 8)}))},
            ConfigError,
            r"`model` must be a network that an artifact can hold, got Graph: `nodes\[0\].name`",
        ),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_mistakes(
    trained: Trained, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    net, images = trained
    arguments: dict[str, Any] = {"model": net, "batches": images, **change}
    before = torch.get_rng_state()
    with pytest.raises(error, match="quantize: .*" + message) as caught:
        quantize(**arguments)
    assert len(str(caught.value)) <= 400
    assert torch.equal(torch.get_rng_state(), before)


def test_numbers_of_numpy_are_numbers(trained: Trained) -> None:
    net, images = trained
    options: dict[str, Any] = {"bits": np.int64(4), "bias_correction": np.bool_(True)}
    one, other = quantize(net, images, 4, bias_correction=True), quantize(net, images, **options)
    assert artifact.to_bytes(one) == artifact.to_bytes(other)


def test_pixels_become_what_the_artifact_makes_of_them(trained: Trained) -> None:
    net, _ = trained
    pixels = torch.randint(0, 256, (8, 1, 8, 8), dtype=torch.uint8)
    how = preprocessing(mean=(0.5,), std=(0.25,))
    one = quantize(net, [pixels], preprocessing=how)
    other = quantize(net, [(pixels / 255.0 - 0.5) / 0.25], preprocessing=how)
    assert one.input_value == other.input_value
    np.testing.assert_array_equal(one.input.table, other.input.table)


def test_wrapped_networks(trained: Trained) -> None:
    net, images = trained
    expected = artifact.to_bytes(quantize(net, images))
    averaged = torch.optim.swa_utils.AveragedModel(net)
    for wrapped in (nn.DataParallel(net), averaged, nn.DataParallel(averaged)):
        assert artifact.to_bytes(quantize(wrapped, images)) == expected


class Wayward(nn.Module):
    """Draws random numbers, keeps count and fails if told to."""

    def __init__(self, *, fails: bool) -> None:
        super().__init__()
        self.fails = fails
        self.layers = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU())
        self.fc = nn.Linear(72, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self.calls, Tensor)
        torch.rand(3)
        self.calls += 1
        if self.fails:
            raise ValueError("never\nagain")
        logits: Tensor = self.fc(self.layers(x).flatten(1))
        return logits


@pytest.mark.parametrize("fails", [False, True])
def test_the_network_is_left_as_it_was_whatever_it_does(fails: bool) -> None:
    net = Wayward(fails=fails).train()
    net.layers[1].eval()
    net.fc.weight.grad = torch.ones(3, 72)
    net.layers.register_forward_hook(lambda module, args, output: None)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    random = torch.get_rng_state()
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    kept = images.clone()
    if fails:
        with pytest.raises(ConfigError, match=r"got Wayward \(ValueError: never\)$"):
            quantize(net, images)
    else:
        assert quantize(net, images).outputs == 3
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(images, kept)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert torch.equal(net.fc.weight.grad, torch.ones(3, 72))
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert [m for m in net.modules() if not m.training] == [net.layers[1]]
    assert len(net.layers._forward_hooks) == 1


def test_a_correction_that_does_harm_is_left_out() -> None:
    """Early in training running statistics are not those of the images."""
    torch.manual_seed(0)
    net = models.create_model("lenet5_bn", operator="adder2d", in_channels=1)
    images = torch.randn(128, 1, 8, 8)
    with torch.no_grad():
        for start in range(0, 128, 16):
            net(images[start : start + 16])
        exact = net.eval()(images).numpy()

    def error(**options: Any) -> float:
        graph = quantize(net, [images], 8, **options)
        return float(np.square(runtime.Session(graph).run(images.numpy()) - exact).mean())

    assert error(bias_correction=True) > 10 * error(bias_correction=False)
    assert error() == error(bias_correction=False)
