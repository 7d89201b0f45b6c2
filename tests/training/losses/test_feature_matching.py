from __future__ import annotations

import copy
import math
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from mulfree import models
from mulfree.errors import ConfigError, ShapeError
from mulfree.training.losses.feature_matching import (
    LIMIT,
    FeatureMatching,
    FeatureMatchingConfig,
    Kernel,
    Pair,
)


def config(**options: Any) -> FeatureMatchingConfig:
    return FeatureMatchingConfig(**({"sigma": "matched"} | options))


def maps(*shape: int, scale: float = 1.0, offset: float = 0.0) -> Tensor:
    return scale * torch.randn(*shape, dtype=torch.float64) + offset


# One channel of two images with one pixel.
TINY = torch.tensor([[[[1.0]]], [[[5.0]]]], dtype=torch.float64)


def test_kernel_of_a_given_width_by_hand() -> None:
    falling = Kernel(-1.0, config(sigma=0.5)).double()(TINY)
    # The mean is 3; 2 sigma^2 = 1/2.
    assert falling.flatten().tolist() == pytest.approx([math.exp(4), math.exp(-4)], rel=1e-12)
    rising = Kernel(1.0, config(sigma=2.0)).double()(TINY)
    assert rising.flatten().tolist() == pytest.approx([math.exp(-0.25), math.exp(0.25)], rel=1e-12)


def test_matched_width_is_the_running_deviation_about_the_means_of_channels() -> None:
    kernel = Kernel(1.0, config()).double()
    # Means 3 and 100, variances 4 and 0.
    y = torch.cat([TINY, torch.full_like(TINY, 100.0)], dim=1)
    deviation = math.sqrt(2.0)
    k = kernel(y)
    assert k[:, 0].flatten().tolist() == pytest.approx(
        [math.exp(-2 / deviation), math.exp(2 / deviation)], rel=1e-6
    )
    assert k[:, 1].flatten().tolist() == pytest.approx([1.0, 1.0], rel=1e-12)
    # The next batch counts for a tenth.
    kernel(3 * y)
    assert kernel.deviation.item() == pytest.approx(1.2 * deviation)
    kernel.eval()(9 * y)
    assert kernel.deviation.item() == pytest.approx(1.2 * deviation)


def test_learned_width_starts_matched_and_has_its_gradient() -> None:
    y = maps(4, 3, 2, 2)
    learned = Kernel(-1.0, config(sigma="learned")).double()
    k = learned(y)
    assert torch.equal(k, Kernel(-1.0, config()).double()(y))
    assert learned.width is not None
    # d exp(e^w x) / dw = k log k, as w is 0.
    (gradient,) = torch.autograd.grad(k.sum(), learned.width)
    torch.testing.assert_close(gradient, (k * k.log()).sum()[None])


def test_without_kernel_the_exponent_itself() -> None:
    y = Kernel(-1.0, config(use_kernel=False, sigma=1.0)).double()(TINY)
    assert y.flatten().tolist() == [-1.0, 1.0]


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e4, 1e12])
@pytest.mark.parametrize("offset", [0.0, -1e3])
@pytest.mark.parametrize("sigma", ["matched", "learned", 1e-6, 1e6])
def test_no_response_is_too_large_or_too_small(
    scale: float, offset: float, sigma: float | Literal["matched", "learned"]
) -> None:
    torch.manual_seed(0)
    pair = Pair("layer", 2, (1.0, -1.0), config(sigma=sigma))
    student = (scale * (torch.randn(4, 2, 3, 3) + offset)).requires_grad_()
    loss = pair(student, scale * torch.randn(4, 2, 3, 3))
    loss.backward()
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    with torch.no_grad():
        k = pair.student_kernel(student)
    assert k.min() >= 0.999 * math.exp(-LIMIT)
    assert k.max() <= 1.001 * math.exp(LIMIT)


def direct(pair: Pair, student: Tensor, teacher: Tensor) -> Tensor:
    """The loss position by position."""
    s, t = pair.student_kernel.eval()(student), pair.teacher_kernel.eval()(teacher)
    s = s if pair.student_linear is None else pair.student_linear(s)
    t = t if pair.teacher_linear is None else pair.teacher_linear(t)
    s, t = (nn.functional.batch_norm(x, None, None, training=True) for x in (s, t))
    loss: Tensor = (s - t).square().mean()
    return loss


@pytest.mark.parametrize("linear", ["both", "student", "none"])
@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("shape", [(3, 4, 5, 2), (6, 5, 1, 1)], ids=["maps", "channels"])
def test_loss_and_gradient_equal_those_of_every_position(
    linear: str, kernel: bool, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    options = config(projection=linear, use_kernel=kernel, sigma="learned")
    pair = Pair("layer", shape[1], (1.0, -1.0), options).double()
    student, teacher = maps(*shape, scale=3, offset=-50), maps(*shape)
    pair(student, teacher)
    pair.eval()
    results = []
    for loss_of in (pair, lambda *y: direct(pair, *y)):
        x = student.clone().requires_grad_()
        loss = loss_of(x, teacher)
        variables = [x, *pair.parameters()]
        results.append((loss, *torch.autograd.grad(loss, variables)))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("kernel", [True, False])
def test_a_constant_added_to_a_channel_changes_nothing(kernel: bool) -> None:
    # The weights of an adder layer follow `sum (x - w) g`, which without that has a part along w:
    # they would grow and grow, and the means of the responses with them.
    torch.manual_seed(0)
    options = config(use_kernel=kernel, sigma="learned")
    pair = Pair("layer", 3, (1.0, -1.0), options).double()
    pair(maps(4, 3, 5, 5), maps(4, 3, 5, 5))
    student, teacher = maps(4, 3, 5, 5, offset=-9).requires_grad_(), maps(4, 3, 5, 5)
    pair.eval()
    loss = pair(student, teacher)
    loss.backward()
    assert student.grad is not None
    assert student.grad.abs().max() > 1e-4
    torch.testing.assert_close(
        student.grad.sum((0, 2, 3)), torch.zeros(3).double(), rtol=0, atol=1e-12
    )
    moved = student.detach() + torch.tensor([7.0, -300.0, 1.0]).view(3, 1, 1)
    assert pair(moved, teacher).item() == pytest.approx(loss.item(), rel=1e-9)


def test_half_precision_is_compared_in_float32() -> None:
    pair = Pair("layer", 2, (1.0, -1.0), config())
    student, teacher = torch.randn(2, 4, 2, 3, 3).unbind()
    with torch.autocast("cpu", torch.bfloat16):
        loss = pair(student.bfloat16(), teacher.bfloat16())
    assert loss.dtype == torch.float32


def test_maps_of_another_size() -> None:
    pair = Pair("layer1.0", 2, (1.0, -1.0), config())
    message = (
        r"pkkd: `teacher` must answer in layer layer1.0 with the student's shape \[4, 2, 3, 3\], "
        r"got \[4, 2, 2, 3\]"
    )
    with pytest.raises(ShapeError, match=message):
        pair(torch.randn(4, 2, 3, 3), torch.randn(4, 2, 2, 3))


# --- the networks that are read ---------------------------------------------------------------


def networks(name: str = "resnet20", **options: Any) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    options = {"width": 0.125, "norm_logits": True} | options
    return (
        models.create_model(name, operator="adder2d", **options),
        models.create_model(name, operator="conv2d", **options),
    )


@pytest.mark.parametrize(
    ("name", "layers", "expected"),
    [
        ("resnet20", ("stages",), ["layer1.2.conv2", "layer2.2.conv2", "layer3.2.conv2"]),
        ("vgg_small", ("stages",), ["features.1.0", "features.3.0", "features.5.0"]),
        ("lenet5_bn", ("*",), ["conv2", "conv3", "conv4"]),
        (
            "resnet20",
            ("layer3.?.conv2", "layer2.0.downsample.0", "layer3.0.*"),
            [
                *("layer2.0.downsample.0", "layer3.0.conv1", "layer3.0.conv2"),
                *("layer3.0.downsample.0", "layer3.1.conv2", "layer3.2.conv2"),
            ],
        ),
    ],
)
def test_names_of_layers(name: str, layers: tuple[str, ...], expected: list[str]) -> None:
    student, teacher = networks(name)
    before = [buffer.clone() for buffer in student.buffers()]
    matching = FeatureMatching(student, teacher, config(layers=layers))
    assert matching.names == expected
    assert student.training
    assert all(map(torch.equal, student.buffers(), before))


def test_signs_are_those_of_the_operators() -> None:
    student, teacher = networks()
    pairs = FeatureMatching(student, teacher, config()).pairs
    assert [pair.student_kernel.sign for pair in pairs] == [1.0] * 3
    assert [pair.teacher_kernel.sign for pair in pairs] == [-1.0] * 3
    assert FeatureMatching(teacher, student, config()).pairs[0].student_kernel.sign == -1.0


def test_it_compares_the_recorded_outputs() -> None:
    student, teacher = networks("lenet5_bn", in_channels=1)
    matching = FeatureMatching(student, teacher, config(layers=("conv2", "conv4")))
    heard: dict[str, list[Tensor]] = {"conv2": [], "conv4": []}
    for network in (student, teacher):
        for name, said in heard.items():
            network.get_submodule(name).register_forward_hook(
                lambda _, __, y, said=said: said.append(y.clone())
            )
    images = torch.randn(4, 1, 8, 8)
    matching.start()
    teacher(images), student(images)
    expected = copy.deepcopy(matching.pairs)
    loss = matching()
    sides = [(mine, theirs) for theirs, mine in heard.values()]
    by_hand = [pair(*said) for pair, said in zip(expected, sides, strict=True)]
    assert loss.item() == pytest.approx(sum(x.item() for x in by_hand), rel=1e-6)


def test_only_the_student_is_moved() -> None:
    student, teacher = networks()
    matching = FeatureMatching(student, teacher, config(layers=("layer1.0.conv2",)))
    matching.start()
    images = torch.randn(4, 3, 8, 8)
    teacher(images), student(images)
    matching().backward()
    assert all(p.grad is None for p in teacher.parameters())
    moved = {name for name, p in student.named_parameters() if p.grad is not None}
    assert moved == {
        *("conv1.weight", "bn1.weight", "bn1.bias", "layer1.0.conv1.weight"),
        *("layer1.0.bn1.weight", "layer1.0.bn1.bias", "layer1.0.conv2.weight"),
    }
    assert all(p.grad is not None for p in matching.parameters())


def test_a_copy_of_a_network_is_not_read() -> None:
    student, teacher = networks()
    matching = FeatureMatching(student, teacher, config())
    other = copy.deepcopy(student)
    # Nor is the network itself before the start.
    student(torch.randn(2, 3, 8, 8))
    matching.start()
    other(torch.randn(2, 3, 8, 8))
    with pytest.raises(KeyError):
        matching()
    assert other.state_dict().keys() == student.state_dict().keys()


def test_an_unknown_layer() -> None:
    message = (
        r"pkkd: `layers` must be stages or name layers of the student's operator, got "
        r"'layer1.2.conv3'; did you mean 'layer1.2.conv2'\?"
    )
    with pytest.raises(ConfigError, match=message):
        FeatureMatching(*networks(), config(layers=("stages", "layer1.2.conv3")))
    # The first layer multiplies.
    with pytest.raises(ConfigError, match=r"`layers` must be .*, got 'conv1'"):
        FeatureMatching(*networks(), config(layers=("conv1",)))


def test_networks_that_do_not_fit() -> None:
    student, _ = networks()
    message = r"pkkd: `teacher` must have a layer layer1.2.conv2 of 2 channels .*, got 4"
    with pytest.raises(ConfigError, match=message):
        FeatureMatching(student, models.create_model("resnet20", width=0.25), config())
    with pytest.raises(ConfigError, match=r"must have a layer layer1.2.conv2 .*, got None"):
        FeatureMatching(student, models.create_model("lenet5_bn"), config())
