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
from mulfree.quantization import network as checks
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


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script: nn.Module = torch.jit.trace(small().eval(), X)
    return script


def locked() -> nn.Module:
    model = small()
    vars(model)["lock"] = threading.Lock()
    return model


REFUSED: list[tuple[str, Any]] = [
    ("be a torch.nn.Module, got 'NoneType'", None),
    ("be a torch.nn.Module, got 'type'", nn.Conv2d),
    (
        "parameters of real numbers, got one without a shape .* at 0.weight",
        nn.Sequential(nn.LazyConv2d(4, 3)),
    ),
    ("got one on the meta device at 0.weight", small().to("meta")),
    ("got torch.complex64, torch.strided at weight", nn.Conv2d(2, 4, 3, dtype=torch.complex64)),
    (r"be the network itself, got a compiled Script", scripted()),
    (r"can be copied, got Sequential \(TypeError: cannot p", locked()),
]


@pytest.mark.parametrize(("message", "model"), REFUSED, ids=[message for message, _ in REFUSED])
def test_refused(message: str, model: Any) -> None:
    with pytest.raises(ConfigError, match=r"^quantize: `model` must .*" + message):
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


def hooked(path: str, hook: Any) -> nn.Module:
    model = small()
    model.get_submodule(path).register_forward_hook(hook)
    return model


def huge() -> nn.Module:
    model = small()
    for name in ("weight", "bias"):
        nn.init.constant_(model.get_parameter(f"3.2.{name}"), 3e38)
    return model


def view_changed(net: Any, x: Tensor) -> Any:
    y = net.layer(x)
    torch.relu_(y.view(y.shape))
    return net.head(y)


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(144, 0)),
            r"layers with weights, got \[0, 144\] at 2.weight",
        ),
        (huge, "compute finite numbers of `batches`, got inf as a logit"),
        (lambda: hooked("0", lambda m, x, y: 2 * y), "without hooks, .* got logits that differ by"),
        (lambda: hooked("", lambda m, x, y: 2 * y), r"got logits that differ by [0-9]"),
        (
            lambda: hooked("0", lambda m, x, y: 1 / 0),
            r"images \[3, 2, 8, 8\].*\(ZeroDivisionError: division",
        ),
        (
            lambda: Net(lambda n, x: n.h(n.c(x)).view(2, -1), c=nn.Conv2d(2, 4, 3), h=head(4)),
            r"take images \[3, 2, 8, 8\].*\(RuntimeError: shape",
        ),
        (
            lambda: Net(view_changed, layer=nn.Conv2d(2, 4, 3), head=head(4)),
            "without hooks, views changed in place",
        ),
    ],
)
def test_refused_after_fusing(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^quantize: `model` must .*{message}"):
        checked(make())


def test_one_logit_an_image() -> None:
    model = Net(lambda n, x: n.fc(x.flatten(1)).squeeze(-1), fc=nn.Linear(128, 1))
    assert model(X).shape == (3,)
    checked(model)


class Rounded(nn.Module):
    """Logits with an error of some roundings in the precision of the images."""

    def __init__(self, net: nn.Module, error: float) -> None:
        super().__init__()
        self.net, self.error = net, error

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits * (1 + 8 * torch.finfo(logits.dtype).eps + self.error)


def test_logits_that_rounding_changes_are_compared_in_double_precision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checks, "_CLOSE", 1e-9)
    net = small().eval()
    fused = fuse(net, SHAPE)
    with torch.no_grad():
        assert not torch.equal(Rounded(net, 0.0)(X), net(X))
    check_operations(fused, Rounded(net, 0.0), net, X)
    with pytest.raises(ConfigError, match=r"got logits that differ by 1e-05 of the largest$"):
        check_operations(fused, Rounded(net, 1e-5), net, X)
