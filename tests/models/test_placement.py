from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import nn

from mulfree import models
from mulfree.errors import ConfigError
from mulfree.models import placement
from mulfree.nn import Adder2d, AdderLinear


def network() -> nn.Sequential:
    """Four convolutions, two of them in a module, and two linear layers."""
    body = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 1))
    parts = OrderedDict(
        stem=nn.Conv2d(3, 4, 3),
        body=body,
        tail=nn.Conv2d(6, 8, (3, 1), padding="same", dilation=2, groups=2, bias=False),
        pool=nn.AdaptiveAvgPool2d(1),
        flat=nn.Flatten(),
        hidden=nn.Linear(8, 8),
        fc=nn.Linear(8, 5, bias=False),
    )
    return nn.Sequential(parts)


def kinds(model: nn.Module) -> dict[str, str]:
    wanted = ("Conv2d", "Linear", "Adder2d", "AdderLinear")
    named = {name: type(module).__name__ for name, module in model.named_modules()}
    return {name: kind for name, kind in named.items() if kind in wanted}


def test_keeps_the_first_and_the_last_layer_and_returns_the_model() -> None:
    model = network()
    assert models.convert(model) is model
    assert kinds(model) == {
        "stem": "Conv2d",
        "body.0": "Adder2d",
        "body.2": "Adder2d",
        "tail": "Adder2d",
        "hidden": "AdderLinear",
        "fc": "Linear",
    }
    assert model(torch.randn(2, 3, 16, 16)).shape == (2, 5)


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        ((), set()),
        (("first",), {"stem"}),
        (["last"], {"fc"}),
        (("first", "last", "tail"), {"stem", "fc", "tail"}),
        (("body",), {"body.0", "body.2"}),
        (("body.2",), {"body.2"}),
        (("body.?",), {"body.0", "body.2"}),
        (("*d*",), {"body.0", "body.2", "hidden"}),
        (("*",), {"stem", "body.0", "body.2", "tail", "hidden", "fc"}),
    ],
)
def test_keep(keep: tuple[str, ...], kept: set[str]) -> None:
    converted = kinds(models.convert(network(), keep=keep))
    assert {name for name, kind in converted.items() if not kind.startswith("Adder")} == kept


def test_linear_layers_can_be_left_alone() -> None:
    converted = kinds(models.convert(network(), keep=(), linear=False))
    assert [name for name, kind in converted.items() if kind == "Linear"] == ["hidden", "fc"]
    assert [name for name, kind in converted.items() if kind == "Conv2d"] == []


def test_copies_the_geometry() -> None:
    model = models.convert(network(), keep=())
    body, tail, hidden, fc = map(model.get_submodule, ("body.0", "tail", "hidden", "fc"))
    assert isinstance(body, Adder2d)
    assert (body.kernel_size, body.stride, body.padding) == ((3, 3), (2, 2), (0, 0))
    assert body.bias is not None
    assert isinstance(tail, Adder2d)
    assert (tail.in_channels, tail.out_channels, tail.kernel_size) == (6, 8, (3, 1))
    assert (tail.padding, tail.dilation, tail.groups) == ("same", (2, 2), 2)
    assert tail.bias is None
    assert isinstance(hidden, AdderLinear)
    assert (hidden.in_features, hidden.out_features) == (8, 8)
    assert hidden.bias is not None
    assert isinstance(fc, AdderLinear)
    assert fc.bias is None


def test_a_model_that_is_the_layer_itself_is_returned_anew() -> None:
    conv, linear = nn.Conv2d(3, 4, 3), nn.Linear(3, 4)
    assert isinstance(models.convert(conv, keep=()), Adder2d)
    assert isinstance(models.convert(linear, keep=()), AdderLinear)
    assert models.convert(conv) is conv


def test_a_module_under_two_names_stays_one() -> None:
    shared = nn.Conv2d(4, 4, 3, padding=1)
    inner = nn.Sequential(shared, shared)
    model = nn.ModuleDict({"a": inner, "b": inner, "c": shared, "d": nn.Conv2d(4, 4, 1)})
    models.convert(model, keep=("d",))
    assert isinstance(model["c"], Adder2d)
    assert model["a"] is model["b"] is inner
    assert inner[0] is inner[1] is model["c"]
    kept = models.convert(nn.ModuleDict({"x": shared, "y": nn.Sequential(shared)}), keep=("y",))
    assert kinds(kept) == {"x": "Conv2d"}


def test_keeps_mode_and_dtype_and_device() -> None:
    model = network().double()
    model.get_submodule("body").eval()
    models.convert(model)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    assert not model.get_submodule("body.0").training
    assert model.get_submodule("tail").training
    with torch.device("meta"):
        on_meta = network()
    models.convert(on_meta, keep=())
    assert {parameter.device.type for parameter in on_meta.parameters()} == {"meta"}


def test_weights_are_new_and_layers_of_the_operator_keep_theirs() -> None:
    model = models.convert(network())
    weight = model.get_parameter("tail.weight")
    assert abs(float(weight.detach().std()) - 1) < 0.5
    models.convert(model, gradient="sign")
    assert model.get_parameter("tail.weight") is weight
    assert model.get_submodule("tail").gradient == "sign"
    assert model.get_submodule("hidden").gradient == "sign"


def test_back_to_convolutions() -> None:
    model = models.convert(models.convert(network(), keep=()), "conv2d", keep=())
    assert kinds(model) == kinds(network())
    tail = model.get_submodule("tail")
    assert isinstance(tail, nn.Conv2d)
    assert (tail.padding, tail.dilation, tail.groups, tail.bias) == ("same", (2, 2), 2, None)
    assert model(torch.randn(2, 3, 16, 16)).shape == (2, 5)


def test_the_output_projection_of_attention_is_left_alone() -> None:
    # torch's attention reads its weight and never calls it.
    model = nn.ModuleList([nn.MultiheadAttention(4, 1), nn.Linear(4, 4)])
    models.convert(model, keep=())
    assert isinstance(model[1], AdderLinear)
    tokens = torch.randn(3, 2, 4)
    assert model[0](tokens, tokens, tokens)[0].shape == (3, 2, 4)


def tied() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))
    model[1].weight = model[0].weight
    return model


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 3, 1))
    model[0].register_forward_hook(lambda *_: None)
    return model


def reflecting() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3, padding_mode="reflect", padding=1))


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (network(), {"operator": "ader2d"}, "got 'ader2d'; did you mean 'adder2d'"),
        (network(), {"keep": "first"}, "`keep` must be a sequence of names, got 'first'"),
        (network(), {"keep": 3}, "`keep` must be a sequence of names, got 3"),
        (network(), {"keep": (1,)}, r"`keep` must be a sequence of names, got \(1,\)"),
        (network(), {"keep": ("bodi",)}, "got 'bodi'; did you mean 'body'"),
        (network(), {"keep": ("pool",)}, "must name layers of the model .* got 'pool'"),
        (network(), {"gradient": "sgn"}, "`gradient` must be .*, got 'sgn'"),
        (
            network(),
            {"operator": "conv2d", "gradient": "sign"},
            "`gradient` must be None for operator 'conv2d', .*, got 'sign'",
        ),
        (nn.ReLU(), {}, "must contain a convolution or linear layer, got a ReLU without any"),
        (reflecting(), {"keep": ()}, "got padding_mode='reflect' in 1; keep it"),
        (tied(), {"keep": ("first",)}, "must not tie parameters .* shared by 0 and 1"),
        (hooked(), {"keep": ()}, "must have no hooks .* got some on 0"),
        (nn.Sequential(nn.LazyConv2d(3, 3)), {}, "no lazy layers left, got 0 = LazyConv2d"),
        (
            nn.TransformerEncoderLayer(4, 1, 4),
            {"keep": ()},
            "a TransformerEncoderLayer that multiplies with the weights of linear1 itself",
        ),
    ],
)
def test_errors_leave_the_model_as_it_was(
    model: nn.Module, options: dict[str, Any], message: str
) -> None:
    before = dict(model.named_modules())
    with pytest.raises(ConfigError, match=message):
        models.convert(model, **options)
    assert dict(model.named_modules()) == before


def test_kept_layers_are_not_checked() -> None:
    assert kinds(models.convert(reflecting(), keep=("1",))) == {"0": "Adder2d", "1": "Conv2d"}
    assert kinds(models.convert(tied())) == {"0": "Conv2d", "1": "Conv2d"}


def test_a_pattern_of_any_length_or_kind_is_quoted() -> None:
    with pytest.raises(ConfigError, match=r"got 'x+\.\.\.x+'$"):
        models.convert(network(), keep=("x" * 10_000,))
    with pytest.raises(ConfigError, match=r"got '\\x1b\[31m'$"):
        models.convert(network(), keep=("\x1b[31m",))


@pytest.mark.parametrize("operator", ["conv2d", "adder2d"])
@pytest.mark.parametrize("gradient", [None, "sign"])
def test_networks_just_built_are_placed_as_they_are_converted(
    operator: str, gradient: str | None
) -> None:
    def network() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 1), Adder2d(4, 4, 1), nn.Conv2d(4, 2, 1))

    options = placement.Placement(keep=("first",), gradient=gradient)
    if operator == "conv2d" and gradient is not None:
        with pytest.raises(ConfigError, match=r"`gradient` must be None for operator 'conv2d'"):
            placement.placed(network(), operator, options)
        return
    placed = placement.placed(network(), operator, options)
    converted = models.convert(network(), operator, ("first",), gradient=gradient)
    assert str(placed) == str(converted)
    assert list(map(type, placed.children())) == list(map(type, converted.children()))
    for key, tensor in converted.state_dict().items():
        torch.testing.assert_close(placed.state_dict()[key], tensor, rtol=0, atol=0)
