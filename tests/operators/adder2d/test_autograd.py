"""Derivatives of the operator: backward mode at every level, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap

from mulfree.errors import MulfreeError
from mulfree.functional import adder2d, adder_linear
from mulfree.nn import Adder2d, AdderLinear

RULES = ("adder", "sign", "l1.5")
FORWARD_MODE = (
    r"^adder2d: derivatives must be taken in backward mode .* got a tensor with a tangent"
)
SECOND = r"^adder2d: `create_graph` must be False, got a second derivative"


def _operands() -> tuple[Tensor, Tensor]:
    return torch.randn(2, 3, 5, 5), torch.randn(4, 3, 3, 3)


def _sum(x: Tensor, w: Tensor, gradient: str = "adder") -> Tensor:
    return adder2d(x, w, padding=1, gradient=gradient).square().sum()


def _second(transform: Callable[..., Callable[..., Tensor]]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, w: transform(lambda x: _sum(x, w))(x)


@pytest.mark.parametrize("gradient", RULES)
@pytest.mark.parametrize("argument", [0, 1], ids=["input", "weight"])
def test_tangent_is_refused_by_every_rule(argument: int, gradient: str) -> None:
    operands = _operands()

    def function(changed: Tensor) -> Tensor:
        x, w = (changed if i == argument else operands[i] for i in (0, 1))
        return _sum(x, w, gradient)

    primal = operands[argument]
    with pytest.raises(MulfreeError, match=FORWARD_MODE):
        jvp(function, (primal,), (torch.ones_like(primal),))


_FORWARD_MODE: dict[str, Callable[[Tensor, Tensor], object]] = {
    "jacfwd": _second(jacfwd),
    "hessian": _second(hessian),
    "linearize": lambda x, w: linearize(lambda x: _sum(x, w), x),
    "vmap of jvp": lambda x, w: vmap(jvp, (None, 0, 0))(
        partial(_sum, w=w), (x[:, None],), (x[:, None],)
    ),
    "jvp of vmap": lambda x, w: jvp(vmap(partial(_sum, w=w)), (x[:, None],), (x[:, None],)),
    "jvp of grad": lambda x, w: jvp(grad(_sum), (x, w), (x, w)),
    "vectorised": lambda x, w: torch.autograd.functional.jacobian(
        lambda x: _sum(x, w), x, strategy="forward-mode", vectorize=True
    ),
    "linear": lambda x, w: jvp(lambda x: adder_linear(x, w.flatten(1)[:, :5]), (x,), (x,)),
    "layer": lambda x, w: jvp(Adder2d(3, 2, 3), (x,), (x,)),
    "linear layer": lambda x, w: jvp(AdderLinear(5, 2), (x,), (x,)),
}


@pytest.mark.parametrize("transform", _FORWARD_MODE.values(), ids=_FORWARD_MODE)
def test_forward_mode_is_one_line(transform: Callable[[Tensor, Tensor], object]) -> None:
    with pytest.raises(MulfreeError, match=FORWARD_MODE):
        transform(*_operands())


@pytest.mark.parametrize("wanted", [False, True], ids=["plain", "requires_grad"])
@pytest.mark.parametrize("name", ["weight", "bias"])
def test_dual_parameters_of_a_layer(name: str, wanted: bool) -> None:
    layer = Adder2d(3, 2, 3, bias=True).requires_grad_(wanted)
    x, _ = _operands()
    with forward_ad.dual_level():
        parameter = dict(layer.named_parameters())[name]
        dual = forward_ad.make_dual(parameter, torch.full_like(parameter, 2.0))
        if name == "weight":
            with pytest.raises(MulfreeError, match=FORWARD_MODE):
                functional_call(layer, {name: dual}, x)
        else:
            # The bias is added, which has a derivative.
            tangent = forward_ad.unpack_dual(functional_call(layer, {name: dual}, x)).tangent
            assert tangent is not None
            assert (tangent == 2).all()


def test_gradient_operators_refuse_tangents() -> None:
    x, w = _operands()
    g = torch.randn(2, 4, 5, 5)
    rest = ((1, 1), (1, 1), (1, 1), 1, "adder", 1.0, None)
    for operator in (torch.ops.mulfree.adder2d_input_grad, torch.ops.mulfree.adder2d_weight_grad):
        with pytest.raises(MulfreeError, match=FORWARD_MODE):
            jvp(lambda g, op=operator: op(g, x, w, *rest), (g,), (g,))


def test_dual_level_without_tangents_changes_nothing() -> None:
    x, w = _operands()
    expected = _sum(x, w)
    with forward_ad.dual_level():
        assert torch.equal(_sum(x, w), expected)
        # As inside of a `torch.autograd.Function` that has a `jvp` of its own.
        with forward_ad._set_fwd_grad_enabled(False):
            assert torch.equal(_sum(forward_ad.make_dual(x, x), w), expected)


@pytest.mark.parametrize("gradient", RULES)
def test_transforms_in_backward_mode_are_the_rule(gradient: str) -> None:
    x, w = _operands()

    def function(x: Tensor, w: Tensor) -> Tensor:
        return _sum(x, w, gradient)

    leaves = x.clone().requires_grad_(), w.clone().requires_grad_()
    expected = torch.autograd.grad(function(*leaves), leaves)
    for result in (
        grad(function, (0, 1))(x, w),
        jacrev(function, (0, 1))(x, w),
        vjp(function, x, w)[1](torch.tensor(1.0)),
    ):
        for a, b in zip(result, expected, strict=True):
            torch.testing.assert_close(a, b)
    per_image = vmap(grad(lambda w, x: function(x[None], w)), (None, 0))(w, x)
    torch.testing.assert_close(per_image.sum(0), expected[1], rtol=1e-5, atol=1e-3)


def test_only_wanted_gradients_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = _operands()
    monkeypatch.setattr(torch.ops.mulfree, "adder2d_input_grad", None)
    w.requires_grad_()
    _sum(x, w).backward()
    assert w.grad is not None


@pytest.mark.parametrize("gradient", RULES)
def test_second_derivative_is_refused(gradient: str) -> None:
    x, w = (tensor.requires_grad_() for tensor in _operands())
    for first in torch.autograd.grad(_sum(x, w, gradient), (x, w), create_graph=True):
        with pytest.raises(MulfreeError, match=SECOND):
            first.sum().backward(retain_graph=True)


@pytest.mark.parametrize(
    "transform",
    [
        lambda x, w: jacrev(jacrev(lambda x: _sum(x, w)))(x),
        lambda x, w: grad(lambda x: grad(lambda x: _sum(x, w))(x).sum())(x),
        lambda x, w: torch.autograd.functional.hessian(lambda x: _sum(x, w), x),
        lambda x, w: torch.autograd.functional.hvp(lambda x: _sum(x, w), x, x),
        lambda x, w: torch.autograd.functional.jvp(lambda x: _sum(x, w), x, x),
        lambda x, w: torch.autograd.gradgradcheck(
            lambda x: _sum(x, w.double(), "sign"), x.double().requires_grad_()
        ),
    ],
    ids=["jacrev", "grad", "hessian", "hvp", "double backward trick", "gradgradcheck"],
)
def test_second_derivative_by_transforms_is_one_line(
    transform: Callable[[Tensor, Tensor], object],
) -> None:
    with pytest.raises(MulfreeError, match=SECOND):
        transform(*_operands())
