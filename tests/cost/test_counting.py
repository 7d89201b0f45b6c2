from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.optim.swa_utils import AveragedModel

import mulfree.functional
from mulfree import cost, models, operators
from mulfree import nn as mnn
from mulfree.errors import BackendUnavailableError, ConfigError, MulfreeError, ShapeError
from mulfree.opcounts import OpCounts

# Layers worked out by hand on a 3x8x8 image.
CONV = 4 * 8 * 8 * 3 * 9  # 3x3, 3 to 4 channels, 8x8 positions
ADDER = 6 * 4 * 4 * 4 * 9  # 3x3 with stride 2, 4 to 6 channels, 4x4 positions
LINEAR = 10 * 96


def small() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        mnn.Adder2d(4, 6, 3, stride=2, padding=1),
        nn.Flatten(),
        nn.Linear(96, 10),
    )


def test_every_layer_of_a_small_network_by_hand() -> None:
    profile = cost.count(small(), (3, 8, 8))
    found = {
        layer.name: (layer.kind, layer.operator, layer.cost, layer.params, layer.output_shape)
        for layer in profile.layers
    }
    assert found == {
        "0": ("Conv2d", "conv2d", OpCounts(mul=CONV, add=CONV), 4 * 27 + 4, (1, 4, 8, 8)),
        "1": ("BatchNorm2d", None, OpCounts(), 8, (1, 4, 8, 8)),
        "3": ("Adder2d", "adder2d", OpCounts(add=2 * ADDER), 6 * 36, (1, 6, 4, 4)),
        "5": ("Linear", "conv2d", OpCounts(mul=LINEAR, add=LINEAR), LINEAR + 10, (1, 10)),
    }
    assert profile.layers[0].input_shape == (1, 3, 8, 8)
    assert profile.layers[0].weight_bytes == 4 * 112
    assert profile.layers[0].activation_bytes == 4 * 256
    assert profile.layers[0].energy == pytest.approx(CONV * 4.6)
    assert profile.uncounted == ()


def test_totals_are_sums() -> None:
    total = cost.count(small(), (3, 8, 8)).total
    assert (total.cost.mul, total.cost.add, total.cost.xnor) == (
        CONV + LINEAR,
        CONV + 2 * ADDER + LINEAR,
        0,
    )
    assert total.params == 112 + 8 + 216 + 970
    assert total.weight_bytes == 4 * total.params
    assert total.activation_bytes == 4 * (256 + 256 + 96 + 10)
    assert total.energy == pytest.approx((CONV + LINEAR) * 4.6 + ADDER * 1.8)


def test_bytes_and_energy_follow_the_number_format() -> None:
    total = cost.count(small(), (3, 8, 8), dtype="int8").total
    assert total.weight_bytes == total.params
    assert total.energy == pytest.approx((CONV + LINEAR) * 0.23 + ADDER * 0.06)


def test_the_papers_convention_turns_multiplications_of_an_adder_network_into_additions() -> None:
    total = cost.count(small(), (3, 8, 8), convention="paper").total
    assert (total.cost.mul, total.cost.add) == (0, 2 * (CONV + ADDER + LINEAR))


def test_the_papers_convention_leaves_a_convolutional_network_alone() -> None:
    model = nn.Conv2d(3, 4, 3, padding=1)
    total = cost.count(model, (3, 8, 8), convention="paper").total
    assert (total.cost.mul, total.cost.add) == (CONV, CONV)


def test_normalisation_is_counted_on_request() -> None:
    profile = cost.count(small(), (3, 8, 8), normalisation=True)
    assert profile.layers[1].cost == OpCounts(mul=256, add=256)
    assert profile.total.cost.mul == CONV + LINEAR + 256


@pytest.mark.parametrize(
    ("name", "classes", "taps"),
    [
        # 40.81 M; the tables of the papers print 41.17 M, which no variant of the network has.
        ("resnet20", 10, 40_813_184),
        # 69.12 M in the tables of arXiv 1912.13200.
        ("resnet32", 10, 69_124_736),
        # 1.8 G in the tables.
        ("resnet18", 1000, 1_814_073_344),
    ],
)
def test_networks_of_the_papers(name: str, classes: int, taps: int) -> None:
    side = models.image_size(name)
    twins = [
        models.create_model(name, operator=operator, num_classes=classes)
        for operator in ("conv2d", "adder2d")
    ]
    multiplying = cost.count(twins[0], (3, side, side)).total
    adding = cost.count(twins[1], (3, side, side), convention="paper").total
    assert (multiplying.cost.mul, multiplying.cost.add) == (taps, taps)
    assert (adding.cost.mul, adding.cost.add) == (0, 2 * taps)


def test_first_and_last_layer_of_a_cifar_network_multiply() -> None:
    total = cost.count(models.create_model("resnet32", operator="adder2d"), (3, 32, 32)).total
    first, last = 16 * 32 * 32 * 27, 64 * 10
    assert total.cost.mul == first + last == 443_008
    assert total.cost.add == 2 * 69_124_736 - total.cost.mul


def test_no_operator_is_left_out() -> None:
    for name in operators.OPERATORS:
        layer = operators.get_operator(name).conv(4, 6, 3)
        profile = cost.count(layer, (4, 5, 5))
        assert [call.operator for call in profile.layers] == [name]
        assert profile.total.cost.add > 0


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)
        self.same = self.conv
        self.unused = nn.Linear(5, 5)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        once = self.conv(images)
        return once, self.same(once)


def test_a_shared_layer_costs_at_each_call_and_is_stored_once() -> None:
    profile = cost.count(Shared(), (2, 3, 3))
    assert [(layer.name, layer.call, layer.params) for layer in profile.layers] == [
        ("conv", 0, 6),
        ("conv", 1, 0),
    ]
    assert profile.total.cost.mul == 2 * 2 * 2 * 9
    assert profile.total.params == 6 + 30
    assert profile.uncalled == ("unused",)
    assert profile.uncounted == ()


def test_tied_weights_are_stored_once() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    profile = cost.count(model, (3,))
    assert [layer.params for layer in profile.layers] == [9, 0]
    assert profile.total.params == 9


def test_a_layer_with_a_parametrised_weight_is_one_layer() -> None:
    profile = cost.count(weight_norm(nn.Conv2d(3, 4, 3)), (3, 8, 8))
    assert [(layer.operator, layer.params) for layer in profile.layers] == [
        ("conv2d", 4 * 27 + 4 + 4)
    ]
    assert (profile.uncalled, profile.uncounted) == ((), ())


class Odd(nn.Module):
    """Everything that makes a forward pass without data impossible."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("calls", torch.zeros(()))
        self.calls: Tensor

    def forward(self, images: Tensor) -> dict[str, Any]:
        self.calls += 1
        features = self.linear(images + torch.rand(4))
        return {"n": 1, "logits": features * self.scale if float(features.sum()) > -1e9 else None}


def test_a_model_that_looks_at_values_is_run_and_left_as_it_was() -> None:
    model = Odd()
    state = torch.random.get_rng_state()
    profile = cost.count(model, (4,))
    assert profile.total.cost.mul == 8
    assert profile.total.params == 11
    assert profile.uncounted == ("",)
    assert profile.layers[-1].output_shape == (1, 2)
    assert float(model.calls) == 0
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_model_is_left_as_it_was() -> None:
    model = small()
    model[1].eval()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = copy.deepcopy(model.state_dict())
    parameters = list(model.parameters())
    cost.count(model, (3, 8, 8))
    assert [module.training for module in model] == [True, False, True, True, True, True]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(new is old for new, old in zip(model.parameters(), parameters, strict=True))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model)


class Functional(nn.Module):
    """Layers of which a function uses the weights."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1, bias=False)
        self.fc = nn.Linear(4, 4, bias=False)
        self.norm = nn.BatchNorm2d(3)
        self.function = function

    def forward(self, images: Tensor) -> Any:
        return self.function(images, self.fc.weight, self.conv.weight)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x, fc, conv: F.conv2d(x, conv), "conv2d"),
        (lambda x, fc, conv: F.conv_transpose2d(x, conv), "conv_transpose2d"),
        (lambda x, fc, conv: F.conv1d(x.flatten(2), conv.flatten(2)), "conv1d"),
        (lambda x, fc, conv: F.conv3d(x.unsqueeze(2), conv.unsqueeze(2)), "conv3d"),
        (lambda x, fc, conv: torch.conv2d(x, conv), "conv2d"),
        (lambda x, fc, conv: torch.ops.aten.mm(x[0, 0], fc), "mm"),
        (lambda x, fc, conv: F.linear(x, fc), "linear"),
        (lambda x, fc, conv: F.bilinear(x, x, fc.expand(2, 4, 4)), "bilinear"),
        (lambda x, fc, conv: x @ fc, "matmul"),
        (lambda x, fc, conv: x.matmul(fc), "matmul"),
        (lambda x, fc, conv: fc.__rmatmul__(x), "rmatmul"),
        (lambda x, fc, conv: torch.bmm(x[0], fc.expand(3, 4, 4)), "bmm"),
        (lambda x, fc, conv: torch.addmm(fc, x[0, 0], fc), "addmm"),
        (lambda x, fc, conv: torch.mv(x[0, 0], fc[0]), "mv"),
        (lambda x, fc, conv: torch.dot(x[0, 0, 0], fc[0]), "dot"),
        (lambda x, fc, conv: torch.einsum("nchw,vw->nchv", x, fc), "einsum"),
        (lambda x, fc, conv: torch.einsum("nchw,w->nchw", x, fc[0]), "einsum"),
        (lambda x, fc, conv: torch.tensordot(x, fc, dims=1), "tensordot"),
        (
            lambda x, fc, conv: F.scaled_dot_product_attention(x, x, x),
            "scaled_dot_product_attention",
        ),
        (lambda x, fc, conv: torch.cdist(x, fc, p=1), "cdist"),
        (lambda x, fc, conv: mulfree.functional.adder2d(x, conv), "adder2d"),
        (lambda x, fc, conv: mulfree.functional.adder_linear(x, fc), "adder2d"),
        (lambda x, fc, conv: torch.fft.rfft(x), "fft_rfft"),
    ],
)
def test_arithmetic_of_functions_is_listed(function: Callable[..., Any], name: str) -> None:
    profile = cost.count(nn.Sequential(OrderedDict(body=Functional(function))), (3, 4, 4))
    assert profile.functions == (cost.FunctionProfile(function=name, module="body", calls=1),)
    assert profile.uncounted == (f"{name} in body",)
    assert profile.uncalled == ("body.conv", "body.fc", "body.norm")
    assert profile.total.cost.mul == 0


def test_functions_of_the_model_itself_have_no_module() -> None:
    profile = cost.count(Functional(lambda x, fc, conv: F.linear(x @ fc, fc) @ fc), (3, 4, 4))
    assert profile.uncounted == ("matmul", "linear")
    assert [function.calls for function in profile.functions] == [2, 1]


@pytest.mark.parametrize(
    "function",
    [
        lambda x, fc, conv: F.interpolate(F.relu(x + 2 * x), scale_factor=2, mode="bilinear"),
        lambda x, fc, conv: F.avg_pool2d(F.softmax(x.transpose(1, 2), 1), 2),
        lambda x, fc, conv: F.batch_norm(x, conv[0, :, 0, 0], conv[0, :, 0, 0]),
    ],
)
def test_other_functions_are_not_listed(function: Callable[..., Any]) -> None:
    assert cost.count(Functional(function), (3, 4, 4)).uncounted == ()


def test_normalisation_by_a_function_is_listed_where_it_is_counted() -> None:
    model = nn.Sequential(Functional(lambda x, fc, conv: F.layer_norm(x, (4,))), nn.BatchNorm2d(3))
    profile = cost.count(model, (3, 4, 4), normalisation=True)
    assert profile.uncounted == ("layer_norm in 0",)


def test_layers_of_torch_are_listed_once() -> None:
    model = nn.Sequential(nn.Conv1d(3, 4, 1), nn.LSTM(8, 8))
    assert cost.count(model, (3, 8)).uncounted == ("0", "1")
    attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    profile = cost.count(attention, (3, 8))
    assert profile.uncounted == ("self_attn",)
    # Torch's attention reads the weight of its last layer.
    assert profile.uncalled == ("self_attn.out_proj",)
    assert profile.total.cost.mul == 2 * 3 * 8 * 16


def test_a_layer_of_which_only_the_forward_is_called_is_counted() -> None:
    model = Functional(lambda x, fc, conv: model.conv.forward(x))
    profile = cost.count(model, (3, 4, 4))
    assert (profile.total.cost.mul, profile.uncounted) == (9 * 16, ())
    assert profile.uncalled == ("fc", "norm")


def test_lists_of_parameters_are_never_called_and_not_listed() -> None:
    model = Functional(lambda x, fc, conv: x)
    model.extra = nn.ParameterList([nn.Parameter(torch.ones(3))])
    assert cost.count(model, (3, 4, 4)).uncalled == ("conv", "fc", "norm")


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel, AveragedModel])
def test_the_network_inside_of_a_wrapper_is_counted(wrap: Callable[[nn.Module], Any]) -> None:
    network = small()
    assert cost.count(wrap(network), (3, 8, 8)) == cost.count(network, (3, 8, 8))


def test_a_model_of_half_precision_is_fed_with_it() -> None:
    assert cost.count(nn.Linear(3, 2).half(), (3,)).total.cost.mul == 6


def test_a_model_without_parameters_costs_nothing() -> None:
    total = cost.count(nn.ReLU(), (3, 4, 4)).total
    assert (total.cost.mul, total.params, total.energy) == (0, 0, 0)


def test_names() -> None:
    assert cost.count(nn.Linear(3, 2), (3,)).model == "Linear"
    assert cost.count(nn.Linear(3, 2), (3,), name="mine").model == "mine"


@pytest.mark.parametrize("size", [(), (3, 0, 8), (3, 8.0, 8), "wide", 32])
def test_a_size_that_is_none(size: Any) -> None:
    with pytest.raises(ShapeError, match=r"count: `input_size` must be the positive sizes of one"):
        cost.count(small(), size)


def test_a_size_the_model_does_not_take_leaves_it_as_it_was() -> None:
    model = small()
    with pytest.raises(ShapeError, match=r"`input_size` must fit Sequential, got \(4, 8, 8\): .*4"):
        cost.count(model, (4, 8, 8))
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model)


def test_a_missing_backend_is_not_blamed_on_the_size() -> None:
    class Unavailable(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise BackendUnavailableError("kernels must be built")

    with pytest.raises(BackendUnavailableError, match="kernels must be built"):
        cost.count(Unavailable(), (3,))


def test_a_lazy_model() -> None:
    with pytest.raises(ConfigError, match=r"`model` must be initialised, got a lazy parameter w"):
        cost.count(nn.LazyLinear(3), (3,))


def test_something_that_is_no_model() -> None:
    with pytest.raises(ConfigError, match=r"`model` must be a torch.nn.Module, got int"):
        cost.count(3, (3,))  # type: ignore[arg-type]


@pytest.mark.parametrize(("option", "value"), [("convention", "papers"), ("dtype", "fp64")])
def test_unknown_options(option: str, value: str) -> None:
    arguments: dict[str, Any] = {option: value}
    with pytest.raises(MulfreeError, match=rf"`{option}` must be one of .*, got '{value}'; did"):
        cost.count(small(), (3, 8, 8), **arguments)


def test_the_binary_twin_of_an_adder_network_by_hand() -> None:
    profile = cost.count(small(), (3, 8, 8), binary=True)
    operators = [layer.operator for layer in profile.layers]
    assert operators == ["conv2d", None, "binary", "conv2d"]
    total = profile.total
    assert total.cost == OpCounts(mul=CONV + LINEAR, add=CONV + ADDER + LINEAR, xnor=ADDER)
    # One bit for each weight of the adder layer.
    assert total.weight_bytes == 4 * (112 + 8 + 970) + 216 // 8
    assert total.params == 112 + 8 + 216 + 970
    assert total.energy == pytest.approx((CONV + LINEAR) * 4.6 + ADDER * 0.9)


def test_the_binary_twin_of_a_convolutional_network_keeps_first_and_last_layer() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    profile = cost.count(model, (3, 2, 2), binary=True)
    assert [layer.operator for layer in profile.layers] == ["conv2d", "binary", "conv2d"]
    assert profile.total.cost == OpCounts(mul=4 * 20, add=4 * 36, xnor=4 * 16)


def test_the_papers_convention_binarises_every_layer() -> None:
    total = cost.count(small(), (3, 8, 8), binary=True, convention="paper").total
    taps = CONV + ADDER + LINEAR
    assert total.cost == OpCounts(add=taps, xnor=taps)


def test_traffic_moves_weights_inputs_and_outputs_of_layers_once() -> None:
    conv, norm, adder, linear = cost.count(small(), (3, 8, 8)).layers
    assert conv.traffic_bytes == 4 * (3 * 64 + 112 + 4 * 64)
    assert norm.traffic_bytes == 0
    assert adder.traffic_bytes == 4 * (4 * 64 + 216 + 96)
    assert linear.traffic_bytes == 4 * (96 + 970 + 10)
    assert [layer.accumulations for layer in (conv, norm, adder, linear)] == [
        CONV, 0, ADDER, LINEAR,
    ]  # fmt: skip
    total = cost.count(small(), (3, 8, 8), dtype="int8").total
    assert total.traffic_bytes == (3 * 64 + 112 + 4 * 64) + (4 * 64 + 216 + 96) + (96 + 980)


def test_a_shared_layer_reads_its_weights_at_each_call() -> None:
    profile = cost.count(Shared(), (2, 3, 3))
    assert [layer.traffic_bytes for layer in profile.layers] == [4 * (18 + 6 + 18)] * 2
