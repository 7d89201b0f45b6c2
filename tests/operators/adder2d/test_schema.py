"""What torch makes of the operator: opcheck, compile, export, autocast, vmap, derivatives."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mulfree.errors import ConfigError, DTypeError, ShapeError
from mulfree.functional import adder2d
from mulfree.nn import Adder2d
from mulfree.operators.window import SAMPLES, ConvProblem

OPS = torch.ops.mulfree


def _network() -> nn.Module:
    return nn.Sequential(
        Adder2d(3, 8, 3, padding="same", bias=True),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        Adder2d(8, 4, 3, stride=2, padding=1, groups=2),
        nn.BatchNorm2d(4),
    )


def _step(network: Any, x: Tensor) -> dict[str, Tensor]:
    network.zero_grad()
    network(x).square().mean().backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("window", "last", "backend"),
    list(zip(SAMPLES, (False, True) * 3, (None, None, "reference") * 2, strict=False)),
    ids=str,
)
def test_opcheck(window: ConvProblem, last: bool, backend: str | None) -> None:
    layout = torch.channels_last if last else torch.contiguous_format
    x = torch.randn(window.input_shape, dtype=torch.float64).contiguous(memory_format=layout)
    w = torch.randn(window.weight_shape, dtype=torch.float64)
    g = torch.randn(window.output_shape, dtype=torch.float64)
    geometry = window.sliding
    rest = (*geometry, "adder", 1.0, backend)
    torch.library.opcheck(OPS.adder2d, (x.requires_grad_(), w.requires_grad_(), *rest))
    with torch.no_grad():
        torch.library.opcheck(OPS.adder2d_input_grad, (g, x.detach(), w.detach(), *rest))
        torch.library.opcheck(OPS.adder2d_weight_grad, (g, x.detach(), w.detach(), *rest))


@pytest.mark.parametrize("backend", [None, "reference"])
def test_sign_rule_is_the_derivative(backend: str | None) -> None:
    x = torch.randn(2, 4, 6, 5, dtype=torch.float64, requires_grad=True)
    w = torch.randn(6, 2, 3, 3, dtype=torch.float64, requires_grad=True)

    def function(x: Tensor, w: Tensor) -> Tensor:
        return adder2d(x, w, stride=(2, 1), padding=1, groups=2, gradient="sign", backend=backend)

    assert torch.autograd.gradcheck(function, (x, w))
    assert not torch.autograd.gradcheck(
        lambda x, w: adder2d(x, w, padding=1, groups=2), (x, w), raise_exception=False
    )


@pytest.mark.compile
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_in_one_graph(dynamic: bool) -> None:
    torch._dynamo.reset()
    network = _network()
    compiled = torch.compile(network, fullgraph=True, dynamic=dynamic)
    for size in (8, 10):
        x = torch.randn(2, 3, size, size)
        expected, result = _step(network, x), _step(compiled, x)
        for name, gradient in expected.items():
            torch.testing.assert_close(result[f"_orig_mod.{name}"], gradient)


def test_exports_with_a_dynamic_batch() -> None:
    network = _network().eval()
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(
        network, (torch.randn(4, 3, 8, 8),), dynamic_shapes={"input": {0: batch}}
    )
    assert [n.target for n in program.graph.nodes].count(OPS.adder2d.default) == 2
    x = torch.randn(7, 3, 8, 8)
    torch.testing.assert_close(program.module()(x), network(x))


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("in_dims", [(0, 0), (0, None), (None, 0), (1, 2)])
def test_vmap(in_dims: tuple[int | None, int | None], backend: str | None) -> None:
    size = 3
    x_dim, w_dim = in_dims
    x = torch.randn(size, 2, 4, 6, 6, dtype=torch.float64)
    w = torch.randn(size, 6, 2, 3, 3, dtype=torch.float64)
    x_mapped = x[0] if x_dim is None else x.movedim(0, x_dim)
    w_mapped = w[0] if w_dim is None else w.movedim(0, w_dim)

    def function(x: Tensor, w: Tensor) -> Tensor:
        return adder2d(x, w, padding=1, groups=2, backend=backend)

    expected = torch.stack(
        [function(x[0 if x_dim is None else i], w[0 if w_dim is None else i]) for i in range(size)]
    )
    result = torch.vmap(function, in_dims)(x_mapped, w_mapped)
    torch.testing.assert_close(result, expected)


def test_vmap_over_backward() -> None:
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64, requires_grad=True)
    w = torch.randn(6, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    y = adder2d(x, w, padding=1, groups=2)
    g = torch.randn(3, *y.shape, dtype=torch.float64)
    mapped = torch.autograd.grad(y, (x, w), g, is_grads_batched=True, retain_graph=True)
    for i, single in enumerate(g):
        for many, one in zip(
            mapped, torch.autograd.grad(y, (x, w), single, retain_graph=True), strict=True
        ):
            torch.testing.assert_close(many[i], one)


def test_autocast_is_as_for_a_convolution() -> None:
    adder, conv = Adder2d(3, 4, 3, bias=True), nn.Conv2d(3, 4, 3)
    x = torch.randn(2, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        y = adder(x)
        assert y.dtype == conv(x).dtype == torch.bfloat16
        assert adder(x.double().float()).dtype == torch.bfloat16
    y.float().sum().backward()
    assert adder.weight.grad is not None
    assert adder.weight.grad.dtype == torch.float32
    assert adder.bias is not None
    expected = adder2d(x.bfloat16(), adder.weight.bfloat16(), adder.bias.bfloat16())
    assert torch.equal(y, expected)


@pytest.mark.compile
def test_autocast_compiles_in_one_graph() -> None:
    torch._dynamo.reset()
    network, x = _network(), torch.randn(2, 3, 8, 8)
    compiled = torch.compile(network, fullgraph=True)
    exact = network(x)
    with torch.autocast("cpu", torch.bfloat16):
        eager, fused = network(x), compiled(x)
    # The compiler keeps intermediates in float32 that eager mode rounds.
    assert fused.dtype == eager.dtype
    assert (fused - exact).abs().max() <= 2 * (eager - exact).abs().max()


def test_shapes_alone_on_the_meta_device() -> None:
    layer = Adder2d(3, 4, 3, stride=2, bias=True, device="meta")
    assert layer(torch.empty(2, 3, 9, 9, device="meta")).shape == (2, 4, 4, 4)


def test_operator_called_directly_checks_dtypes() -> None:
    arguments: tuple[Any, ...] = ((1, 1), (0, 0), (1, 1), 1, "adder", 1.0, None)
    with pytest.raises(DTypeError, match="`weight` must have the floating-point dtype of `input`"):
        OPS.adder2d(torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 3, 3).double(), *arguments)


_REST: tuple[Any, ...] = ((1, 1), (0, 0), (1, 1), 1, "adder", 1.0, None)
_OPERANDS = (torch.zeros(2, 4, 4, 4), torch.zeros(2, 4, 6, 6), torch.zeros(4, 4, 3, 3))


@pytest.mark.parametrize("which", ["adder2d", "adder2d_input_grad", "adder2d_weight_grad"])
@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (1, torch.zeros(6, 6), r"`input` must have four dimensions, got shape \[6, 6\]"),
        (1, torch.zeros(2, 3, 6, 6), r"`input` must have C_in = 4 x 1 .* \[2, 3, 6, 6\]"),
        (1, torch.zeros(2, 4, 6, 6).to_sparse(), r"`input` must be a dense tensor, got .* sparse_"),
        (2, torch.zeros(4, 4, 3, 3).to_sparse(), r"`weight` must be a dense tensor, got"),
        (2, torch.zeros(4, 4, 0, 3), r"`weight` must have a window of at least 1x1"),
        (2, torch.zeros(4, 4, 7, 3), r"`input` must be at least as large as the window"),
        (2, torch.zeros(4, 4, 3, 3, device="meta"), r"`weight` must be on the device of `input`"),
        (3, (0, 1), r"`stride` must be .* >= 1, got \[0, 1\]"),
        (3, (2**62, 1), r"`stride` must be .* below 2\*\*31 .* got \[4611686018427387904, 1\]"),
        (4, (-1, 0), r"`padding` must be .* >= 0, got \[-1, 0\]"),
        (4, (2**30, 2**30), r"`output` must have at most 2\*\*40 values"),
        (5, (1, 0), r"`dilation` must be .* >= 1, got \[1, 0\]"),
        (6, 0, r"`groups` must be an integer .* >= 1, got 0"),
        (6, 3, r"`groups` must be a positive divisor of C_out \(=4\), got 3"),
        (8, 9.0, r"`norm` must be between 1 and 2, got 9.0"),
    ],
)
def test_operators_called_directly_check_everything(
    which: str, place: int, value: Any, message: str
) -> None:
    arguments = [*_OPERANDS, *_REST]
    arguments[place] = value
    with pytest.raises(ShapeError if place != 8 else ConfigError, match=f"^adder2d: {message}"):
        getattr(OPS, which)(*arguments[which == "adder2d" :])


@pytest.mark.parametrize("which", ["adder2d_input_grad", "adder2d_weight_grad"])
def test_gradients_called_directly_check_what_is_before_them(which: str) -> None:
    grad, input, weight = _OPERANDS
    operator = getattr(OPS, which)
    with pytest.raises(
        ShapeError, match=r"`grad` must have the shape of the output \[2, 4, 4, 4\]"
    ):
        operator(grad[:, :, :3], input, weight, *_REST)
    with pytest.raises(DTypeError, match=r"`grad` must have the .* dtype of `input` .* got .*64"):
        operator(grad.double(), input, weight, *_REST)


def test_importing_and_calling_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adder2d(torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 3, 3))
