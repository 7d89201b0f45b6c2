from __future__ import annotations

import threading
import warnings
from typing import Any

import pytest
import torch
from tests.quantization.test_fusion import Net, head
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from mulfree.errors import ConfigError
from mulfree.quantization.fusion import fuse
from mulfree.quantization.network import check_operations, check_weights, copied, plain

SHAPE = (2, 8, 8)
X = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0))


def small() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), head(4))


def checked(model: nn.Module) -> nn.Module:
    """What is quantised of a network, which computes what that does."""
    network = copied(model)
    simple = plain(network)
    fused = fuse(simple, SHAPE)
    check_weights(fused, simple)
    check_operations(fused, network, simple, X)
    return simple


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_copies(before: torch.dtype, after: torch.dtype) -> None:
    model = small().to(before).train()
    model[0].requires_grad_(False)
    network = copied(model)
    assert not any(module.training for module in network.modules())
    assert {parameter.dtype for parameter in network.parameters()} == {after}
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert model.training
    assert [p.requires_grad for p in model.parameters()] == [False, False, *[True] * 4]
    assert {parameter.dtype for parameter in model.parameters()} == {before}


def old_weight_norm(layer: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weight_norm(layer)


@pytest.mark.parametrize(
    "change",
    [
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        old_weight_norm,
        spectral_norm,
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    ],
    ids=["weight_norm", "spectral_norm", "old_weight_norm", "old_spectral_norm", "prune"],
)
def test_weights_that_are_worked_out(change: Any) -> None:
    model = small()
    layer: Any = model[0]
    change(layer)
    # Weights with a graph of gradients behind them.
    model(X).sum().backward()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(1.5)
    kind, names = type(layer), set(model.state_dict())
    found: Any = checked(model).get_submodule("0")
    model.eval()(X)
    torch.testing.assert_close(found.weight.detach(), layer.weight.detach())
    assert type(layer) is kind
    assert set(model.state_dict()) == names


def test_normalisation_over_processes() -> None:
    model = small()
    model[1] = nn.SyncBatchNorm(4)
    assert type(checked(model).get_submodule("1")) is nn.BatchNorm2d
    assert type(model[1]) is nn.SyncBatchNorm


def test_hooks_that_change_nothing() -> None:
    model, seen = small(), []
    model[0].register_forward_hook(lambda module, args, output: seen.append(output.shape))
    simple = checked(model)
    assert len(model[0]._forward_hooks) == 1
    count = len(seen)
    simple(X)
    assert len(seen) == count == 1


REFUSED: list[tuple[str, Any]] = [
    ("be a torch.nn.Module, got 'NoneType'", None),
    ("be a torch.nn.Module, got 'type'", nn.Conv2d),
    (
        "parameters of real numbers, got one without a shape .* at 0.weight",
        nn.Sequential(nn.LazyConv2d(4, 3)),
    ),
    ("got one on the meta device at 0.weight", small().to("meta")),
    ("got torch.complex64, torch.strided at weight", nn.Conv2d(2, 4, 3, dtype=torch.complex64)),
]


@pytest.mark.parametrize(("message", "model"), REFUSED, ids=[message for message, _ in REFUSED])
def test_refused(message: str, model: Any) -> None:
    with pytest.raises(ConfigError, match=r"^quantize: `model` must .*" + message):
        copied(model)


def test_compiled_scripts_are_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.trace(small().eval(), X)
    with pytest.raises(ConfigError, match=r"must be the network itself, got a compiled Script"):
        copied(script)


def test_what_cannot_be_copied_is_refused() -> None:
    model = small()
    vars(model)["lock"] = threading.Lock()
    with pytest.raises(ConfigError, match=r"can be copied, got Sequential \(TypeError: cannot p"):
        copied(model)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "path",
    [
        *("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"),
        *("3.2.weight", "3.2.bias"),
    ],
)
def test_weights_that_are_not_finite(path: str, number: float) -> None:
    model = small()
    tensor = {**dict(model.named_parameters()), **dict(model.named_buffers())}[path]
    with torch.no_grad():
        tensor.view(-1)[1] = number
    with pytest.raises(ConfigError, match=f"must have finite weights, got {number} at {path}$"):
        checked(model)


@pytest.mark.parametrize(("variance", "eps"), [(-1.0, 1e-5), (0.0, 0.0)])
def test_variances(variance: float, eps: float) -> None:
    model = small()
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_var is not None
    norm.running_var[2], norm.eps = variance, eps
    message = rf"positive with eps, got {variance} and {eps} at 1.running_var"
    with pytest.raises(ConfigError, match=message):
        checked(model)


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_layers_without_weights() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(144, 0))
    with pytest.raises(ConfigError, match=r"layers with weights, got \[0, 144\] at 2.weight"):
        checked(model)


def test_results_that_are_not_finite() -> None:
    model = small()
    with torch.no_grad():
        model.get_parameter("3.2.bias").fill_(3e38)
        model.get_parameter("3.2.weight").fill_(3e38)
    with pytest.raises(ConfigError, match=r"compute finite numbers of `batches`, got inf as a l"):
        checked(model)


@pytest.mark.parametrize("of_layer", [True, False])
def test_hooks_that_change_something(of_layer: bool) -> None:
    model = small()
    module = model[0] if of_layer else model
    module.register_forward_hook(lambda module, args, output: output * 2)
    with pytest.raises(ConfigError, match=r"without hooks, .* got logits that differ by [0-9]"):
        checked(model)


def test_hooks_that_fail() -> None:
    model = small()
    model[0].register_forward_hook(lambda module, args, output: 1 / 0)
    with pytest.raises(ConfigError, match=r"images \[3, 2, 8, 8\].*\(ZeroDivisionError: division"):
        checked(model)


def test_numbers_of_images_in_a_forward() -> None:
    model = Net(lambda n, x: n.head(n.layer(x)).view(2, -1), layer=nn.Conv2d(2, 4, 3), head=head(4))
    with pytest.raises(
        ConfigError, match=r"must take images \[3, 2, 8, 8\].*\(RuntimeError: shape"
    ):
        checked(model)


def test_one_logit_an_image() -> None:
    model = Net(lambda n, x: n.fc(x.flatten(1)).squeeze(-1), fc=nn.Linear(128, 1))
    assert model(X).shape == (3,)
    checked(model)


def test_changes_of_a_view() -> None:
    def forward(net: Any, x: Tensor) -> Any:
        y = net.layer(x)
        torch.relu_(y.view(y.shape))
        return net.head(y)

    with pytest.raises(ConfigError, match=r"views changed in place"):
        checked(Net(forward, layer=nn.Conv2d(2, 4, 3), head=head(4)))
