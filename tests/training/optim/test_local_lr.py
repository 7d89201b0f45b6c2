from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from mulfree import models
from mulfree.errors import ConfigError
from mulfree.nn import Adder2d, AdderLinear
from mulfree.operators import uses_adaptive_local_lr
from mulfree.training import AdaptiveLocalLR, OptimizerConfig, build_optimizer
from mulfree.training.optim.local_lr import GradientError

MAKERS: dict[str, Callable[[list[Tensor]], Optimizer]] = {
    "sgd": lambda p: SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda p: SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adamw": lambda p: AdamW(p, lr=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        Adder2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), AdderLinear(16, 5), nn.Linear(5, 3)
    )


def backward(model: nn.Module, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(7)
    images = torch.randn(6, 2, 4, 4, generator=generator)
    loss = model(images.to(next(model.parameters()).dtype)).square().mean()
    (scale * loss).backward()


def grads(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def parameter(values: list[float]) -> nn.Parameter:
    p = nn.Parameter(torch.zeros(len(values)))
    p.grad = torch.tensor(values)
    return p


def test_gradients_of_adder_weights_get_norm_eta_sqrt_k() -> None:
    model = network()
    backward(model)
    before = grads(model)
    AdaptiveLocalLR(SGD(model.parameters(), lr=0.0), eta=0.3).step()
    after = grads(model)
    for name in before:
        if name in ("0.weight", "3.weight"):
            g = before[name].double()
            expected = g * 0.3 * math.sqrt(g.numel()) / g.norm()
            torch.testing.assert_close(after[name].double(), expected, rtol=1e-6, atol=0)
            # The root mean square of the result is eta.
            assert after[name].square().mean().sqrt() == pytest.approx(0.3, rel=1e-6)
        else:
            assert torch.equal(after[name], before[name])


@pytest.mark.parametrize("maker", MAKERS)
def test_it_equals_rescaling_by_hand_before_any_optimiser(maker: str) -> None:
    # Some of these optimisers divide by small numbers, which enlarges the last bit of a float32.
    model, expected = network().double(), network().double()
    wrapped = AdaptiveLocalLR(MAKERS[maker](list(model.parameters())))
    bare = MAKERS[maker](list(expected.parameters()))
    for _ in range(3):
        for net, optimizer in ((model, wrapped), (expected, bare)):
            optimizer.zero_grad()
            backward(net)
        for layer in (expected[0], expected[3]):  # type: ignore[index]
            grad = layer.weight.grad
            grad.mul_(0.2 * math.sqrt(grad.numel()) / grad.norm())
        wrapped.step()
        bare.step()
    for a, b in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def test_every_evaluation_of_a_line_search_is_rescaled() -> None:
    p = nn.Parameter(torch.tensor([4.0, -3.0]))
    optimizer = AdaptiveLocalLR(torch.optim.LBFGS([p], lr=0.1, max_iter=3), eta=1.0, params=[p])
    norms = []

    def closure() -> Tensor:
        if p.grad is not None:
            norms.append(float(p.grad.norm()))
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 25.0  # type: ignore[arg-type]
    assert norms == pytest.approx([math.sqrt(2)] * len(norms))
    assert len(norms) == 2


def test_missing_zero_and_tiny_gradients() -> None:
    without, zero, tiny = parameter([1.0]), parameter([0.0, 0.0]), parameter([1e-13])
    without.grad = None
    params = [without, zero, tiny]
    AdaptiveLocalLR(SGD(params, lr=1.0), params=params).step()
    assert without.grad is None
    assert zero.tolist() == [0.0, 0.0]
    # The norm counts as 1e-12 at least.
    assert tiny.item() == pytest.approx(-0.02, rel=1e-5)


def test_sparse_gradients() -> None:
    table = nn.Embedding(4, 2, sparse=True)
    before = table.weight.detach().clone()
    table(torch.tensor([1, 1, 3])).sum().backward()
    AdaptiveLocalLR(SGD(table.parameters(), lr=1.0), params=[table.weight]).step()
    # Rows 1 and 3 have gradients (2, 2) and (1, 1): norm sqrt(10) over the four numbers there.
    factor = 0.2 * math.sqrt(8) / math.sqrt(10)
    expected = before.clone()
    expected[1] -= 2 * factor
    expected[3] -= factor
    torch.testing.assert_close(table.weight.detach(), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(dtype: torch.dtype) -> None:
    p = nn.Parameter(torch.zeros(4096, dtype=dtype))
    # In float16 the norm, 64 * 2000 = 128,000, would be infinite.
    p.grad = torch.full((4096,), 2000.0, dtype=dtype)
    AdaptiveLocalLR(SGD([p], lr=1.0), params=[p]).step()
    torch.testing.assert_close(p.detach(), torch.full_like(p, -0.2))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_an_error_and_changes_nothing(bad: float) -> None:
    good, broken = parameter([1.0]), parameter([1.0, bad, 1.0])
    optimizer = AdaptiveLocalLR(SGD([good, broken], lr=1.0), params=[good, broken])
    pattern = rf"`grad` must have a finite norm, got {bad} for an adder weight of shape \[3\]"
    with pytest.raises(GradientError, match=pattern):
        optimizer.step()
    assert good.tolist() == [0.0]
    assert good.grad is not None
    assert good.grad.tolist() == [1.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_shows_in_a_deferred_step(bad: float) -> None:
    # Also where kinds of numbers are apart and other norms are larger.
    params = [parameter([1.0, bad]), parameter([1e9]), nn.Parameter(torch.zeros(1).double())]
    params[2].grad = torch.ones(1).double()
    optimizer = AdaptiveLocalLR(SGD(params, lr=1.0), params=params, deferred=True)
    optimizer.step()
    assert optimizer.largest_norm is not None
    torch.testing.assert_close(float(optimizer.largest_norm), bad, equal_nan=True)
    assert params[0][1].isnan()
    params[0].grad = torch.ones(2)
    optimizer.step()
    assert float(optimizer.largest_norm) == pytest.approx(math.sqrt(2))


@pytest.mark.gpu
def test_a_step_is_captured_in_a_cuda_graph() -> None:
    model, expected = network().cuda(), network().cuda()
    optimizer = AdaptiveLocalLR(SGD(model.parameters(), lr=0.1, momentum=0.9))
    other = AdaptiveLocalLR(SGD(expected.parameters(), lr=0.1, momentum=0.9))

    def fill(net: nn.Module, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for p in net.parameters():
            value = torch.randn(p.shape, generator=generator).cuda()
            p.grad = value if p.grad is None else p.grad.copy_(value)

    fill(model, 0)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        optimizer.step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    for seed in range(3):
        fill(expected, seed)
        other.step()
        if seed:
            fill(model, seed)
            graph.replay()
    for a, b in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_it_stands_in_for_the_optimiser() -> None:
    model = network()
    inner = SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer = AdaptiveLocalLR(inner)
    assert isinstance(optimizer, Optimizer)
    assert optimizer.param_groups is inner.param_groups
    assert optimizer.state is inner.state
    assert optimizer.defaults is inner.defaults
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    backward(model)
    optimizer.step()
    scheduler.step()
    assert inner.param_groups[0]["lr"] == 0.05
    assert calls == ["before", "after"]
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())
    extra = nn.Parameter(torch.zeros(1))
    optimizer.add_param_group({"params": [extra]})
    assert len(inner.param_groups) == 2
    assert "lr: 0.05" in repr(optimizer)


@pytest.mark.parametrize("deferred", [False, True])
def test_a_gradient_scaler_skips_a_step_that_is_not_finite(deferred: bool) -> None:
    p = parameter([1.0, math.inf])
    optimizer = AdaptiveLocalLR(SGD([p], lr=1.0), params=[p], deferred=deferred)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(torch.zeros(()))
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert p.tolist() == [0.0, 0.0]
    assert scaler.get_scale() == 2.0


@pytest.mark.parametrize("how", ["state_dict", "pickle", "deepcopy"])
def test_state_survives(how: str) -> None:
    model = network()
    optimizer = AdaptiveLocalLR(SGD(model.parameters(), lr=0.1, momentum=0.9), eta=0.4)
    backward(model)
    optimizer.step()
    if how == "state_dict":
        other_model = copy.deepcopy(model)
        other = AdaptiveLocalLR(SGD(other_model.parameters(), lr=0.7, momentum=0.1))
        # torch does not copy the tensors of a state dict.
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    elif how == "pickle":
        other_model, other = pickle.loads(pickle.dumps((model, optimizer)))
    else:
        other_model, other = copy.deepcopy((model, optimizer))
    assert other.eta == 0.4
    for net, stepped in ((model, optimizer), (other_model, other)):
        stepped.zero_grad()
        backward(net)
        stepped.step()
    for a, b in zip(model.parameters(), other_model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_state_of_the_bare_optimiser_is_accepted() -> None:
    model = network()
    bare = SGD(model.parameters(), lr=0.3)
    wrapped = AdaptiveLocalLR(SGD(model.parameters(), lr=0.1), eta=0.5)
    wrapped.load_state_dict(bare.state_dict())
    assert wrapped.param_groups[0]["lr"] == 0.3
    assert wrapped.eta == 0.5


@pytest.mark.parametrize("eta", [0.0, -1.0, math.nan, math.inf])
def test_eta_must_be_positive(eta: float) -> None:
    with pytest.raises(ConfigError, match=r"AdaptiveLocalLR: `eta` must be (positive|finite), got"):
        AdaptiveLocalLR(SGD(network().parameters(), lr=0.1), eta=eta)


def test_it_wraps_optimisers_only() -> None:
    with pytest.raises(ConfigError, match=r"`optimizer` must be a torch.optim.Optimizer, got list"):
        AdaptiveLocalLR([])  # type: ignore[arg-type]


# --- from a configuration --------------------------------------------------------------------


def test_build_sgd_and_nag() -> None:
    for name, nesterov in (("sgd", False), ("nag", True)):
        config = OptimizerConfig(name=name, lr=0.3, weight_decay=0.2)  # type: ignore[arg-type]
        built = build_optimizer(network(), config)
        assert isinstance(built, AdaptiveLocalLR)
        assert isinstance(built.optimizer, SGD)
        assert built.eta == 0.2
        (group,) = built.param_groups
        assert (group["lr"], group["momentum"], group["nesterov"]) == (0.3, 0.9, nesterov)
        assert group["weight_decay"] == 0.2
        assert len(group["params"]) == 6


def test_build_adamw_without_decay_of_biases_and_norms() -> None:
    config = OptimizerConfig(name="adamw", momentum=0.8, beta2=0.99, decay="no_bias_norm")
    built = build_optimizer(network(), config)
    assert isinstance(built, AdaptiveLocalLR)
    assert isinstance(built.optimizer, AdamW)
    weights, rest = built.param_groups
    assert weights["betas"] == (0.8, 0.99)
    assert (weights["weight_decay"], rest["weight_decay"]) == (5e-4, 0.0)
    assert [p.ndim for p in weights["params"]] == [4, 2, 2]
    assert [p.ndim for p in rest["params"]] == [1, 1, 1]


def test_the_learning_rate_of_adder_weights_has_a_factor() -> None:
    built = build_optimizer(network(), OptimizerConfig(name="adamw", lr=0.01, adder_lr=20.0))
    rates = {name: group["lr"] for group in built.param_groups for name in group["param_names"]}
    names = [name for name, p in network().named_parameters() if uses_adaptive_local_lr(p)]
    assert names
    assert {name for name, rate in rates.items() if rate == pytest.approx(0.2)} == set(names)
    assert {rate for name, rate in rates.items() if name not in names} == {0.01}


def test_rmsprop_step_by_step() -> None:
    weight = nn.Parameter(torch.tensor([1.0]))
    module = nn.Module()
    module.register_parameter("weight", weight)
    config = OptimizerConfig(
        name="rmsprop", lr=0.1, alpha=0.75, momentum=0.5, eps=0.25, weight_decay=0.5
    )
    optimizer = build_optimizer(module, config)
    weight.grad = torch.tensor([1.5])
    optimizer.step()
    # Gradient with decay 2, mean square 1, update 2 / (1 + 0.25).
    assert weight.item() == pytest.approx(1 - 0.1 * 1.6)
    weight.grad = torch.tensor([2.0 - 0.5 * 0.84])
    optimizer.step()
    # Mean square 0.75 + 0.25 * 4; the buffer is half the update before plus the new one.
    update = 0.5 * 1.6 + 2 / (math.sqrt(1.75) + 0.25)
    assert weight.item() == pytest.approx(0.84 - 0.1 * update)


def test_build_leaves_out_what_does_not_apply() -> None:
    bare = build_optimizer(nn.Linear(2, 2, bias=False), OptimizerConfig(decay="no_bias_norm"))
    assert isinstance(bare, SGD)
    assert len(bare.param_groups) == 1
    assert isinstance(build_optimizer(network(), OptimizerConfig(local_lr_eta=0.0)), SGD)
    frozen = network()
    frozen[0].requires_grad_(False)  # type: ignore[index]
    (group,) = build_optimizer(frozen, OptimizerConfig()).param_groups
    assert len(group["params"]) == 5


def convolutions() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1))


REPLACED = r"`optimizer` must be made after convert, got one with 3 parameters of layers that conve"


def test_an_optimiser_made_before_convert_is_refused() -> None:
    model = convolutions()
    before = SGD(model.parameters(), lr=0.1)
    models.convert(model, keep=())
    with pytest.raises(ConfigError, match=REPLACED):
        AdaptiveLocalLR(before)
    with pytest.raises(ConfigError, match=REPLACED):
        AdaptiveLocalLR(SGD(model.parameters(), lr=0.1), params=before.param_groups[0]["params"])
    after = AdaptiveLocalLR(SGD(model.parameters(), lr=0.1))
    old = before.param_groups[0]["params"][0]
    with pytest.raises(ConfigError, match=REPLACED.replace("3", "1")):
        after.add_param_group({"params": [old]})
    assert len(after.param_groups) == 1


def test_a_conversion_behind_the_back_of_the_optimiser_is_refused_at_its_step() -> None:
    model = convolutions()
    optimizer = AdaptiveLocalLR(SGD(model.parameters(), lr=0.1))
    optimizer.step()
    models.convert(model, keep=())
    norm = model.get_parameter("1.weight")
    norm.grad = torch.ones_like(norm)
    with pytest.raises(ConfigError, match=REPLACED):
        optimizer.step()
    with pytest.raises(ConfigError, match=REPLACED):
        optimizer.step(lambda: 0.0)
    assert norm.tolist() == [1.0] * 4


def test_what_a_conversion_kept_may_be_in_an_older_optimiser() -> None:
    model = convolutions()
    optimizer = SGD(model[0].parameters(), lr=0.1)
    models.convert(model, keep=("0",))
    AdaptiveLocalLR(optimizer).step()
    # Layers of the operator keep their weights in a second conversion.
    optimizer = SGD(model.parameters(), lr=0.1)
    models.convert(model, keep=("0",), gradient="sign")
    AdaptiveLocalLR(optimizer).step()
    models.convert(model, "conv2d", keep=())
    with pytest.raises(ConfigError, match=r"got one with 2 parameters of layers that convert repl"):
        AdaptiveLocalLR(optimizer)
