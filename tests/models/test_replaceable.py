from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm

from mulfree import models
from mulfree.errors import ConfigError
from mulfree.models import ConversionWarning
from mulfree.models.replaceable import losses
from mulfree.nn import Adder2d, AdderLinear


def kinds(model: nn.Module) -> list[type[nn.Module]]:
    return [type(layer) for layer in model.children()]


def with_a_buffer_as_weight(conv: nn.Conv2d) -> None:
    weight = conv.weight.detach()
    del conv.weight
    conv.register_buffer("weight", weight)


LOSSES: list[tuple[Callable[[nn.Conv2d], object], str]] = [
    (lambda conv: conv.register_buffer("mask", torch.ones(3)), "buffer mask"),
    (lambda conv: conv.register_parameter("gain", nn.Parameter(torch.ones(3))), "parameter gain"),
    (lambda conv: conv.add_module("act", nn.ReLU()), "child act"),
    (lambda conv: setattr(conv, "note", "mine"), "attribute note"),
    (lambda conv: setattr(conv, "forward", lambda input: 2 * input), "replaced forward"),
    (lambda conv: setattr(conv, "_conv_forward", None), "attribute _conv_forward"),
    (lambda conv: setattr(conv, "_compiled_call_impl", print), "attribute _compiled_call_impl"),
    (lambda conv: setattr(conv, "transposed", True), "attribute transposed"),
    (
        lambda conv: conv.register_state_dict_post_hook(lambda *_: None),
        "hooks in _state_dict_hooks",
    ),
    (lambda conv: conv.register_state_dict_pre_hook(print), "hooks in _state_dict_pre_hooks"),
    (
        lambda conv: conv.register_load_state_dict_pre_hook(print),
        "hooks in _load_state_dict_pre_hooks",
    ),
    (
        lambda conv: conv.register_load_state_dict_post_hook(print),
        "hooks in _load_state_dict_post_hooks",
    ),
    (
        lambda conv: conv.register_full_backward_pre_hook(print),
        "hooks in _backward_pre_hooks",
    ),
    (lambda conv: conv.requires_grad_(False), "requires_grad=False of weight"),
    (lambda conv: conv.weight.register_hook(lambda gradient: 2 * gradient), "hooks of weight"),
    (
        lambda conv: conv.weight.register_post_accumulate_grad_hook(print),
        "hooks of weight",
    ),
    (lambda conv: setattr(conv.weight, "lr_scale", 0.1), "attribute lr_scale of weight"),
    (with_a_buffer_as_weight, "buffer weight"),
]


@pytest.mark.parametrize(("change", "lost"), LOSSES)
def test_dropped_parts_of_a_layer_are_warned_of(
    change: Callable[[nn.Conv2d], object], lost: str
) -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3))
    assert isinstance(model[0], nn.Conv2d)
    change(model[0])
    assert losses(model[0]) == [lost]
    with pytest.warns(ConversionWarning) as caught:
        models.convert(model, keep=())
    assert [str(each.message) for each in caught] == [f"convert: drops of 0: {lost}"]
    assert caught[0].filename == __file__
    assert kinds(model)[0] is Adder2d


def test_layers_that_lose_the_same_share_a_line() -> None:
    model = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(8)), nn.Linear(3, 3))
    for index in range(7):
        vars(model[index]).update(mine=1, too=1)
    with pytest.warns(ConversionWarning) as caught:
        models.convert(model, keep=())
    assert [str(each.message) for each in caught] == [
        "convert: drops of 0, 1, 2, 3, 4 and 2 more: attribute mine, attribute too"
    ]


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, (3, 1), stride=2, padding=1, dilation=2, groups=2, bias=False),
        nn.Conv2d(4, 6, 3, padding="same"),
        nn.Linear(3, 2),
        Adder2d(4, 6, 3, padding="same", groups=2, gradient="sign", norm=1.5),
        AdderLinear(3, 2, bias=True),
        nn.Conv2d(3, 3, 1).eval().double(),
        nn.Conv2d(3, 3, 1, device="meta"),
    ],
)
def test_a_plain_layer_loses_nothing(layer: nn.Module) -> None:
    assert losses(layer) == []


def test_a_layer_that_was_used_or_changed_loses_nothing() -> None:
    conv = nn.Conv2d(3, 3, 1)
    conv.padding = conv.stride = (2, 2)
    conv(torch.zeros(1, 3, 4, 4)).sum().backward()
    assert losses(conv) == []


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


@pytest.mark.parametrize(
    "parametrized",
    [
        lambda layer: weight_norm(layer),
        lambda layer: spectral_norm(layer),
        lambda layer: orthogonal(layer),
        lambda layer: parametrize.register_parametrization(layer, "weight", Doubled()),
        lambda layer: parametrize.register_parametrization(layer, "bias", Doubled()),
    ],
)
@pytest.mark.parametrize("layer", [nn.Conv2d, Adder2d])
def test_parametrized_layers_are_refused_unless_kept(
    layer: type[nn.Module], parametrized: Callable[[nn.Module], nn.Module]
) -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), parametrized(layer(3, 3, 1, bias=True)))
    before = dict(model.named_modules())
    operator = "adder2d" if layer is nn.Conv2d else "conv2d"
    with pytest.raises(ConfigError, match=r"no parametrizations .*, got one on 1; remove or keep"):
        models.convert(model, operator, keep=())
    assert dict(model.named_modules()) == before
    assert kinds(models.convert(model, operator, keep=("1",)))[1] is type(before["1"])


class Mine(nn.Conv2d):
    pass


class MineLinear(nn.Linear):
    pass


@pytest.mark.parametrize(
    ("other", "listed"),
    [
        (Mine(3, 3, 1), r"1 \(Mine\)"),
        (MineLinear(3, 3), r"1 \(MineLinear\)"),
        (nn.Conv1d(3, 3, 1), r"1 \(Conv1d\)"),
        (nn.ConvTranspose2d(3, 3, 1), r"1 \(ConvTranspose2d\)"),
        (weight_norm(Mine(3, 3, 1)), r"1 \(ParametrizedMine\)"),
        (torch.jit.script(nn.Conv2d(3, 3, 1)), r"1 \(RecursiveScriptModule\)"),
        (nn.Sequential(Mine(3, 3, 1), Mine(3, 3, 1)), r"1.0 \(Mine\), 1.1 \(Mine\)"),
    ],
)
def test_layers_that_stay_as_they_are_share_a_line(other: nn.Module, listed: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), other)
    with pytest.warns(ConversionWarning, match=rf"^convert: leaves {listed} as they are, ") as all_:
        models.convert(model, keep=())
    assert len(all_) == 1
    assert kinds(model)[0] is Adder2d
    models.convert(model, "adder2d", keep=("0", "1"), gradient="sign")  # Named, so meant.
    assert kinds(models.convert(model, "conv2d", keep=()))[0] is nn.Conv2d  # These multiply anyway.


def test_linear_layers_that_were_not_asked_for_are_not_listed() -> None:
    models.convert(nn.Sequential(nn.Conv2d(3, 3, 1), MineLinear(3, 3)), keep=(), linear=False)


ACTIVATIONS: list[nn.Module] = [
    nn.ReLU(),
    nn.ReLU6(),
    nn.Hardtanh(),
    nn.GELU(),
    nn.SiLU(),
    nn.Sigmoid(),
    nn.Tanh(),
    nn.ELU(),
    nn.Hardswish(),
]
ZEROED = r"is constant; add batch norm after {}$"


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_activation_behind_an_adder_layer_in_a_sequence(activation: nn.Module) -> None:
    between = (nn.MaxPool2d(2), nn.Dropout(), nn.Identity(), nn.ZeroPad2d(1))
    model = nn.Sequential(nn.Conv2d(3, 3, 1), *between, activation, nn.Flatten(), nn.Linear(9, 2))
    with pytest.warns(ConversionWarning, match=ZEROED.format("0")) as caught:
        models.convert(model, keep=("last",))
    assert len(caught) == 1


@pytest.mark.parametrize(
    "behind",
    [
        [nn.BatchNorm2d(3), nn.ReLU()],
        [nn.MaxPool2d(2), nn.BatchNorm2d(3), nn.ReLU()],
        [nn.GroupNorm(1, 3), nn.ReLU()],
        [nn.InstanceNorm2d(3), nn.ReLU()],
        [nn.LocalResponseNorm(3), nn.ReLU()],
        [nn.LeakyReLU()],
        [nn.Softmax(1)],
        [],
    ],
)
def test_nothing_is_warned_of_in_other_sequences(behind: list[nn.Module]) -> None:
    models.convert(nn.Sequential(nn.Conv2d(3, 3, 1), *behind), keep=())


def test_convolutions_need_no_normalisation() -> None:
    model = nn.Sequential(Adder2d(3, 3, 1), nn.ReLU())
    models.convert(model, "conv2d", keep=(), input_size=(3, 4, 4))


def test_a_warning_that_is_an_error_leaves_the_model_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Conv2d(3, 3, 1))
    before = dict(model.named_modules())
    for size in (None, (3, 4, 4)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(ConversionWarning):
                models.convert(model, keep=(), input_size=size)
        assert dict(model.named_modules()) == before
        assert not any(hasattr(p, "mulfree_replaced") for p in model.parameters())


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (None, r"have a weight in the layers to .*, got None in 0; kee"),
        (
            torch.ones(3, 3, 1, 1, dtype=torch.int8),
            r"floating-point type in .*, got torch.int8 in 0; keep",
        ),
        *(
            (
                torch.ones(shape),
                rf"a weight of \[3, 3, 1, 1\] in 0, .* got \[{shape[0]}, {shape[1]}, ",
            )
            for shape in ((3, 1, 1, 1), (2, 3, 1, 1), (3, 3, 3, 3))
        ),
    ],
)
def test_a_weight_that_does_not_fit_its_layer(weight: Tensor | None, message: str) -> None:
    layer: Any = nn.Conv2d(3, 3, 1)
    layer.weight = None if weight is None else nn.Parameter(weight, requires_grad=False)
    with pytest.raises(ConfigError, match=message):
        models.convert(nn.Sequential(layer), keep=())


def test_a_layer_whose_bias_was_deleted() -> None:
    layer = nn.Conv2d(3, 3, 1)
    del layer.bias
    model: Any = models.convert(nn.Sequential(layer), keep=())
    assert type(model[0]) is Adder2d
    assert model[0].bias is None


def test_distributed_wrappers_come_after_the_conversion(monkeypatch: pytest.MonkeyPatch) -> None:
    parallel = pytest.importorskip("torch.nn.parallel.distributed").DistributedDataParallel
    model = parallel.__new__(parallel)
    nn.Module.__init__(model)
    model.module = nn.Sequential(nn.Conv2d(3, 3, 1))
    with pytest.raises(ConfigError, match=r"before it is distributed, got a DistributedDataParall"):
        models.convert(model, keep=())
    models.convert(model)  # Nothing to change.
    layer: Any = nn.Conv2d(3, 3, 1)
    layer.weight.device_mesh = None
    sharded = nn.Sequential(layer)
    with pytest.raises(ConfigError, match=r"distributed, got a sharded parameter in 0$"):
        models.convert(sharded, keep=())


@pytest.mark.parametrize("value", [3, None, "resnet20", nn.Conv2d])
def test_something_that_is_no_model(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"convert: `model` must be a torch.nn.Module, got "):
        models.convert(value)
