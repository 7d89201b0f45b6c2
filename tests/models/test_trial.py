from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from mulfree import models
from mulfree.errors import ConfigError, ShapeError
from mulfree.models import ConversionWarning
from mulfree.nn import Adder2d

SIZE = (3, 4, 4)


class Net(nn.Module):
    """Two convolutions and a linear layer, with a forward that is given."""

    def __init__(self, forward: Callable[[Net, Tensor], Any]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.other = nn.Conv2d(3, 3, 1)
        self.fc = nn.Linear(4, 4)
        self.run = forward

    def forward(self, images: Tensor) -> Any:
        return self.run(self, images)


def refused(model: nn.Module, message: str, **options: Any) -> None:
    """The model is as it was after an attempt, and can be converted without its layer."""
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    attributes = {name: dict(vars(module)) for name, module in modules.items()}
    with pytest.raises(ConfigError, match=message):
        models.convert(model, keep=(), input_size=SIZE, **options)
    assert dict(model.named_modules()) == modules
    assert all(new is parameters[name] for name, new in model.named_parameters())
    assert {name: vars(module) for name, module in modules.items()} == attributes
    assert not any(hasattr(p, "mulfree_replaced") for p in model.parameters())


@pytest.mark.parametrize(
    ("forward", "layer", "function"),
    [
        (lambda m, x: F.linear(m.other(m.conv(x)), m.fc.weight, m.fc.bias), "fc", "linear"),
        (lambda m, x: F.linear(x, *m.fc.parameters()), "fc", "linear"),
        (lambda m, x: x @ m.fc.weight.T, "fc", "matmul"),
        (lambda m, x: torch.einsum("nchw,vw->nchv", x, m.fc.weight), "fc", "einsum"),
        (lambda m, x: x @ (m.fc.weight * 2), "fc", "mul"),
        (lambda m, x: x @ m.fc.weight.data, "fc", "matmul"),
        (lambda m, x: F.conv2d(x, m.conv.weight, padding=1), "conv", "conv2d"),
        # Called, but not only so: tied weights of an autoencoder.
        (lambda m, x: F.conv_transpose2d(m.other(x), m.other.weight), "other", "conv_transpose2d"),
    ],
)
def test_a_parent_that_computes_with_the_weight(
    forward: Callable[[Net, Tensor], Any], layer: str, function: str
) -> None:
    message = rf"must call the layers .* got {layer}, whose parameters are given to {function} ins"
    refused(Net(forward), message)
    models.convert(Net(forward), keep=(layer,), input_size=SIZE)


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: m.fc(m.other(m.norm(m.conv(x)))),
        lambda m, x: m.conv.forward(x),
        lambda m, x: m.conv(x.to(m.conv.weight.dtype).to(m.fc.weight.device)),
        lambda m, x: m.conv(x) if x.shape[2:] == m.fc.weight.shape else None,
        lambda m, x: m.conv(x) + 0 * m.conv.weight.square().sum(),
        lambda m, x: {"maps": [m.conv(x)]},
        lambda m, x: None,  # Nothing is called.
    ],
)
def test_other_forwards_are_not_refused(forward: Callable[[Net, Tensor], Any]) -> None:
    model = models.convert(Net(forward), keep=(), input_size=SIZE)
    assert type(model.get_submodule("conv")) is Adder2d
    assert type(model.get_submodule("other")) is Adder2d


def test_old_layers_that_no_attribute_leads_to(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Net(lambda m, x: sys.modules["hidden"](x))  # type: ignore[operator]
    monkeypatch.setitem(sys.modules, "hidden", model.conv)
    refused(model, r"must use the layers that are registered, got an old conv that is still used")


def test_a_forward_that_looks_at_the_class() -> None:
    def forward(model: Net, images: Tensor) -> Tensor:
        for layer in model.children():
            if isinstance(layer, nn.Conv2d):
                images = layer(images)
        return images

    refused(Net(forward), r"must call the new layers where .* got conv, which is no longer called")


def test_a_forward_that_needs_the_class() -> None:
    forward = lambda m, x: m.conv._conv_forward(m.conv(x), torch.ones(3, 3, 1, 1), None)  # noqa: E731
    refused(Net(forward), r"must run with the new layers, got 'Adder2d' object has no attribute")


def test_a_size_that_does_not_fit_leaves_the_model_as_it_was() -> None:
    model = Net(lambda m, x: m.conv(x))
    with pytest.raises(ShapeError, match=r"convert: `input_size` must fit Net, got \(4, 4, 4\): "):
        models.convert(model, keep=(), input_size=(4, 4, 4))
    with pytest.raises(ShapeError, match=r"convert: `input_size` must be the positive sizes .* 32"):
        models.convert(model, keep=(), input_size=32)  # type: ignore[arg-type]
    assert type(model.conv) is nn.Conv2d


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: F.relu(m.conv(x)),
        lambda m, x: torch.relu_(m.conv(x)),
        lambda m, x: m.conv(x).clamp(min=0),
        lambda m, x: m.conv(x).clamp_(0, 6),
        lambda m, x: F.relu6(m.conv(x)),
        lambda m, x: F.gelu(m.conv(x)),
        lambda m, x: torch.sigmoid(m.conv(x)),
        lambda m, x: F.silu(m.conv(x)),
        lambda m, x: F.relu(F.max_pool2d(m.conv(x), 2)),
        lambda m, x: F.relu(m.conv(x).mean((2, 3))),
        lambda m, x: F.relu(m.conv(x) + x),
        lambda m, x: F.relu(torch.cat([x, m.conv(x)], 1)),
        lambda m, x: F.relu(F.dropout(m.conv(x), 0.5, m.training).flatten(1)),
        lambda m, x: F.relu(F.interpolate(F.pad(m.conv(x), (1, 1)), scale_factor=2)),
        lambda m, x: F.relu(m.conv(x).permute(0, 2, 3, 1).reshape(-1)[1:]),
        lambda m, x: (m.norm(m.conv(x)), F.relu(m.conv(x))),
    ],
)
def test_an_activation_without_a_normalisation_before_it(
    forward: Callable[[Net, Tensor], Any],
) -> None:
    model = Net(forward)
    with pytest.warns(ConversionWarning, match=r"constant; add batch norm after conv$") as caught:
        models.convert(model, keep=("fc",), input_size=SIZE)
    assert len(caught) == 1
    assert isinstance(model.get_submodule("conv"), Adder2d)


def by_hand(images: Tensor) -> Tensor:
    return (images - images.mean((0, 2, 3), keepdim=True)) / images.std()


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: F.relu(m.norm(m.conv(x))),
        lambda m, x: F.relu(F.max_pool2d(m.norm(F.max_pool2d(m.conv(x), 2)), 2)),
        lambda m, x: F.relu(m.norm(m.other(F.relu(m.norm(m.conv(x)))) + x)),
        lambda m, x: F.relu(F.layer_norm(m.conv(x), (4, 4))),
        lambda m, x: F.relu(F.group_norm(m.conv(x), 3)),
        lambda m, x: F.relu(F.instance_norm(m.conv(x))),
        lambda m, x: F.relu(by_hand(m.conv(x))),
        lambda m, x: F.relu(m.conv(x) * 2 + 1),  # As a frozen batch normalisation.
        lambda m, x: F.leaky_relu(m.conv(x)),
        lambda m, x: m.conv(x).clamp(max=0),
        lambda m, x: F.relu(-m.conv(x)),
        lambda m, x: F.relu(x) + m.other(m.conv(x)),
        lambda m, x: m.norm(x + m.other(m.norm(m.conv(F.relu(m.norm(x)))))),
    ],
)
def test_normalised_outputs_are_not_warned_of(forward: Callable[[Net, Tensor], Any]) -> None:
    models.convert(Net(forward), keep=(), input_size=SIZE)


@pytest.mark.parametrize("name", ["lenet5_bn", "resnet20", "resnet50", "vgg_small"])
def test_no_network_of_this_library_is_warned_of(name: str) -> None:
    side = models.image_size(name)
    options: dict[str, Any] = {} if name == "vgg_small" else {"width": 0.25}
    for keep in ((), ("first", "last")):
        # The logits have no activation behind them.
        model = models.create_model(name, **options)
        models.convert(model, keep=keep, input_size=(3, side, side))


def test_the_run_leaves_the_model_and_random_numbers_as_they_were() -> None:
    model = Net(lambda m, x: m.norm(m.conv(x) + torch.rand(())))
    model.norm.momentum = None
    twin = Net(lambda m, x: None)
    torch.manual_seed(3)
    models.convert(twin, keep=())
    torch.manual_seed(3)
    models.convert(model, keep=(), input_size=SIZE)
    for name, parameter in twin.named_parameters():
        if not name.startswith("norm"):
            other = model.get_parameter(name)
            assert name.startswith(("conv", "other", "fc"))
            assert torch.equal(parameter, other)
    assert int(model.norm.num_batches_tracked or 0) == 0
    assert all(module.training for module in model.modules())
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel, AveragedModel])
def test_wrapped_networks_are_converted_inside(wrap: Callable[[nn.Module], nn.Module]) -> None:
    wrapper = wrap(Net(lambda m, x: m.conv(x)))
    assert models.convert(wrapper, keep=("fc", "other"), input_size=SIZE) is wrapper
    (inner,) = (module for module in wrapper.modules() if isinstance(module, Net))
    assert isinstance(inner.get_submodule("conv"), Adder2d)
    assert type(inner.other) is nn.Conv2d


def test_a_wrapped_layer_is_changed_inside_its_wrapper() -> None:
    wrapper: Any = nn.DataParallel(nn.Conv2d(3, 3, 1))
    assert models.convert(wrapper, keep=(), input_size=SIZE) is wrapper
    assert type(wrapper.module) is Adder2d
    message = r"got Conv2d or its weight in `forward` of OptimizedModule, which would keep"
    compiled: Any = torch.compile(nn.Conv2d(3, 3, 1))
    refused(compiled, message)
