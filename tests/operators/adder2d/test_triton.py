"""The GPU kernels: on a GPU where there is one, in Triton's interpreter otherwise."""

from __future__ import annotations

import importlib.util
import warnings
from math import inf, nan

import pytest
import torch
from tests import oracle
from tests.operators.adder2d.problems import (
    assert_not_finite_as_defined,
    assert_right,
    geometries,
    operands,
    run,
)
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from mulfree._triton import interpreted, missing
from mulfree.errors import BackendUnavailableError, ShapeError
from mulfree.functional import adder2d, adder_linear
from mulfree.operators.adder2d import schema
from mulfree.operators.adder2d.gradient import GradientRule
from mulfree.operators.window import SAMPLES, ConvProblem, Sliding

pytestmark = pytest.mark.interpreter

triton = pytest.importorskip("mulfree.operators.adder2d.triton", exc_type=ImportError)

DEVICES = [
    pytest.param(
        "cpu", marks=pytest.mark.skipif(not interpreted(), reason="a GPU runs the kernels")
    ),
    pytest.param("cuda", marks=pytest.mark.gpu),
]
on_devices = pytest.mark.parametrize("device", DEVICES)
HALVES = (torch.float16, torch.bfloat16)
RULE = GradientRule(name="adder")

# Few and small for the interpreter, each with something of its own: remainders of tiles and of
# terms, phases of a stride, dilation, groups, channels of their own, a batch of single pixels.
SMALL = (
    ConvProblem(batch=1, in_channels=9, out_channels=5, size=(5, 6)),
    ConvProblem(batch=2, in_channels=3, out_channels=4, size=(5, 4), stride=(2, 2)),
    ConvProblem(batch=1, in_channels=3, out_channels=3, size=(7, 6), kernel=(3, 2), stride=(3, 2)),
    ConvProblem(
        batch=1, in_channels=2, out_channels=3, size=(7, 7), stride=(2, 2), dilation=(2, 3)
    ),
    ConvProblem(
        batch=5, in_channels=17, out_channels=33, size=(1, 1), kernel=(1, 1), padding=(0, 0)
    ),
    ConvProblem(batch=1, in_channels=4, out_channels=6, size=(4, 5), groups=2),
    ConvProblem(batch=2, in_channels=5, out_channels=5, size=(5, 4), stride=(2, 1), groups=5),
    ConvProblem(batch=1, in_channels=3, out_channels=9, size=(4, 4), kernel=(2, 2), groups=3),
)


def _operands(
    window: ConvProblem, dtype: torch.dtype, device: str
) -> tuple[Tensor, Tensor, Tensor]:
    x, w, g = operands(window, dtype)
    return x.to(device), w.to(device), g.to(device)


@pytest.fixture(autouse=True)
def _whole_precision() -> None:
    torch.backends.cudnn.allow_tf32 = False


@on_devices
@pytest.mark.parametrize("window", SMALL, ids=str)
def test_float32_against_definition(window: ConvProblem, device: str) -> None:
    x, w, g = _operands(window, torch.float32, device)
    for gradient in ("adder", "sign"):
        results = run(x, w, g, window, gradient=gradient, backend="triton")
        assert_right(results, x, w, g, window, gradient)


# Every geometry is compiled for, which takes a second or so.
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("window", [*SAMPLES, *geometries()[:30]], ids=str)
def test_many_geometries(window: ConvProblem, dtype: torch.dtype) -> None:
    x, w, g = _operands(window, dtype, "cuda")
    assert_right(run(x, w, g, window), x, w, g, window, "adder")


# SMALL[6] has kernels of its own; powers and rules are shared with the others.
@on_devices
@pytest.mark.parametrize(
    ("window", "norm", "gradient"),
    [
        (SMALL[1], 2.0, "l2"),
        (SMALL[1], 1.5, "l1.5"),
        (SMALL[1], 1.0, "l1"),
        (SMALL[6], 1.5, "l1.5"),
    ],
    ids=str,
)
def test_every_norm_and_rule(window: ConvProblem, norm: float, gradient: str, device: str) -> None:
    x, w, g = _operands(window, torch.float32, device)
    # Equal operands, whose difference has neither a sign nor a logarithm.
    x[0, 0], w[0, 0] = 1.0, 1.0
    results = run(x, w, g, window, gradient=gradient, norm=norm, backend="triton")
    assert_right(results, x, w, g, window, gradient, norm)


# Terms of a sum in one step that are halves: full, an odd number of channels, a remainder.
@on_devices
@pytest.mark.parametrize(
    ("channels", "dtype"),
    [(32, torch.float16), (32, torch.bfloat16), (7, torch.float16), (20, torch.bfloat16)],
)
def test_half_precision(channels: int, dtype: torch.dtype, device: str) -> None:
    window = ConvProblem(batch=2, in_channels=channels, out_channels=5, size=(3, 3), kernel=(3, 2))
    x, w, g = _operands(window, dtype, device)
    results = run(x, w, g, window, backend="triton")
    assert all(result.dtype == dtype for result in results)
    assert_right(results, x, w, g, window, "adder")


@on_devices
def test_packed_sums_are_rounded_to_nearest(device: str) -> None:
    # 2049 needs 12 bits: as a difference of float16 it is 2048, and so is every odd one's half way.
    x = torch.tensor([2048.0, 1.0, 3.0, 0.0], dtype=torch.float16, device=device)
    w = torch.tensor([-1.0, 0.5, -3.0, 0.0], dtype=torch.float16, device=device)
    y = adder_linear(x, w[None], backend="triton")
    # Terms 0 and 2, then 1 and 3, are added up together: (2048 + 6) + (0.5 + 0).
    assert y.item() == -2054.0


@on_devices
def test_layouts(device: str) -> None:
    window = ConvProblem(batch=2, in_channels=5, out_channels=6, size=(4, 5))
    last = torch.channels_last
    x, w, g = _operands(window, torch.float32, device)
    plain = run(x, w, g, window, backend="triton")
    assert all(result.is_contiguous() for result in plain)
    y, dx, dw = run(x.to(memory_format=last), w.to(memory_format=last), g, window, backend="triton")
    assert y.is_contiguous(memory_format=last)
    assert dx.is_contiguous(memory_format=last)
    strided = run(
        x.transpose(2, 3).contiguous().transpose(2, 3),
        torch.cat((w, w), 1)[:, :5],
        g.expand(2, *g.shape)[1],
        window,
        backend="triton",
    )
    for a, b, c in zip(plain[:2], (y, dx), strided[:2], strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
    torch.testing.assert_close(plain[2], dw)
    torch.testing.assert_close(plain[2], strided[2])


@on_devices
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_tile_gives_the_same_bits(
    dtype: torch.dtype, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of a sum depends on the operands alone, so choosing a tile cannot change it."""
    window = ConvProblem(batch=1, in_channels=8, out_channels=9, size=(3, 4), kernel=(1, 2))
    x, w, g = _operands(window, dtype, device)
    outcomes = []
    for tile in triton._TILES:
        monkeypatch.setattr(triton, "_choose", lambda *_, tile=tile: tile)
        outcomes.append(run(x, w, g, window, backend="triton", gradient="sign"))
    assert len(outcomes) == len(triton._TILES) > 4
    for outcome in outcomes[1:]:
        for a, b in zip(outcomes[0], outcome, strict=True):
            assert torch.equal(a, b)


# The interpreter runs one program after the other.
@pytest.mark.gpu
@pytest.mark.parametrize("gradient", ["adder", "sign"])
def test_two_runs_give_the_same_bits(gradient: str) -> None:
    window = ConvProblem(batch=2, in_channels=8, out_channels=8, size=(57, 33))
    x, w, g = _operands(window, torch.float32, "cuda")
    torch.use_deterministic_algorithms(True)
    try:
        first, second = (
            run(x, w, g, window, gradient=gradient, backend="triton") for _ in range(2)
        )
    finally:
        torch.use_deterministic_algorithms(False)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


@on_devices
@pytest.mark.parametrize("groups", [1, 4])
def test_a_large_batch_is_taken_in_parts(
    groups: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    window = ConvProblem(batch=9, in_channels=4, out_channels=4, size=(3, 4), groups=groups)
    x, w, g = _operands(window, torch.float32, device)
    whole = run(x, w, g, window, gradient="sign", backend="triton")
    # Four images at a time.
    monkeypatch.setattr(triton, "_MAX_INDEX", 50)
    monkeypatch.setattr(triton, "_SHARE", 16)
    for which, tensors in (("forward", (x, w)), ("weight_grad", (g, x, w))):
        made = triton.launches(which, tensors, window.sliding, GradientRule(name="sign"))
        assert len(made) == 3
    parts = run(x, w, g, window, gradient="sign", backend="triton")
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])
    torch.testing.assert_close(whole[2], parts[2])


def test_too_large_an_image() -> None:
    x, w = (torch.empty(shape, device="meta") for shape in ((1, 2, 2**16, 2**15), (1, 2, 1, 1)))
    with pytest.raises(ShapeError, match=r"at most 2147418112 values on a GPU, got shape \[1, 2"):
        triton.launches("forward", (x, w), Sliding(), RULE)


@on_devices
def test_nothing_is_hidden_or_invented(device: str) -> None:
    x, w = torch.rand(1, 2, 5, 5, device=device), torch.randn(3, 2, 3, 3, device=device)
    moved = adder2d(x + 4096, w + 4096, backend="triton")
    exact = adder2d((x + 4096).double(), (w + 4096).double(), backend="reference")
    assert (moved - exact).abs().max() < 1e-5
    assert adder2d(w, w, backend="triton").diagonal().abs().max() == 0
    x[0, 1, 0, 0] = float("nan")
    x.requires_grad_()
    y = adder2d(x, w, backend="triton")
    assert y[0, :, 0, 0].isnan().all()
    assert y[0, :, 1:, 1:].isfinite().all()
    y[0, :, 1:, 1:].sum().backward()
    assert x.grad is not None
    assert x.grad[0, 0].isfinite().all()


@on_devices
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of the interpreter
@pytest.mark.parametrize(
    ("groups", "gradient"), [(1, "adder"), (1, "sign"), (1, "l1.5"), (2, "adder")]
)
def test_not_finite_values_go_where_the_definition_sends_them(
    groups: int, gradient: str, device: str
) -> None:
    # One row and two columns are met by no window. Small, and few values: the interpreter is slow.
    window = ConvProblem(
        batch=1, in_channels=2, out_channels=2, size=(5, 4), kernel=(2, 2), stride=(3, 3),
        padding=(0, 0), groups=groups,
    )  # fmt: skip
    for place, value, at in ((0, inf, -1), (1, nan, 0), (1, inf, -1)):
        tensors = _operands(window, torch.float32, device)
        tensors[place].view(-1)[at] = value
        x, w, g = tensors
        y, dx, dw = run(x, w, g, window, gradient=gradient, backend="triton")
        if gradient != "sign":
            # A matrix product, or a remainder of positions: an infinity may become a NaN.
            defined = oracle.gradients(x.cpu(), w.cpu(), g.cpu(), window, gradient)[1]
            assert torch.equal(dw.cpu().isfinite(), defined.isfinite())
            dw = defined
        assert_not_finite_as_defined((y, dx, dw), x, w, g, window, gradient)


@on_devices
@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4)])
def test_nothing_to_sum(shape: tuple[int, ...], device: str) -> None:
    x = torch.randn(shape, device=device, requires_grad=True)
    w = torch.randn(4, shape[1], 3, 3, device=device)
    y = adder2d(x, w, padding=1, backend="triton")
    assert y.shape == (shape[0], 4, 4, 4)
    assert y.abs().sum() == 0


@on_devices
def test_opcheck(device: str) -> None:
    window = ConvProblem(batch=1, in_channels=2, out_channels=3, size=(4, 3))
    x, w, g = _operands(window, torch.float32, device)
    rest = (*window.sliding, "adder", 1.0, "triton")
    ops = torch.ops.mulfree
    for last in (False, True):
        if last:
            x = x.detach().contiguous(memory_format=torch.channels_last)
        torch.library.opcheck(ops.adder2d, (x.requires_grad_(), w.requires_grad_(), *rest))
        with torch.no_grad():
            torch.library.opcheck(ops.adder2d_input_grad, (g, x.detach(), w.detach(), *rest))
            torch.library.opcheck(ops.adder2d_weight_grad, (g, x.detach(), w.detach(), *rest))


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiles_in_one_graph(mode: str, dtype: torch.dtype) -> None:
    torch._dynamo.reset()
    w = torch.randn(8, 4, 3, 3, device="cuda", requires_grad=True)

    def function(x: Tensor, w: Tensor) -> Tensor:
        with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
            return adder2d(x, w, padding=1).relu().float()

    compiled = torch.compile(function, fullgraph=True, mode=mode)
    for seed in range(4):
        torch.manual_seed(seed)
        x = torch.randn(2, 4, 8, 8, device="cuda")
        results: list[tuple[Tensor, ...]] = []
        for run_ in (function, compiled):
            w.grad = None
            y = run_(x, w + 1)
            y.square().sum().backward()
            assert w.grad is not None
            results.append((y.detach().clone(), w.grad.clone()))
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.gpu
def test_no_more_memory_than_the_output() -> None:
    x = torch.randn(8, 64, 56, 56, device="cuda").contiguous(memory_format=torch.channels_last)
    w = torch.randn(64, 64, 3, 3, device="cuda")
    adder2d(x, w, padding=1)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    y = adder2d(x, w, padding=1)
    added = torch.cuda.max_memory_allocated() - before
    assert added <= y.nbytes + 2 * w.nbytes + 2**20


def test_launches_need_no_device() -> None:
    window = ConvProblem(in_channels=16, out_channels=32, stride=(2, 2))
    x, w, g = (
        torch.empty(shape, device="meta")
        for shape in (window.input_shape, window.weight_shape, window.output_shape)
    )
    (launch,) = triton.launches("forward", (x, w), window.sliding, RULE)
    assert launch.arguments["positions"] == 2 * 4 * 4
    assert launch.constants["EVEN"]
    (launch,) = triton.launches("input_grad", (g, x, w), window.sliding, RULE)
    # One tile for each of the four phases of the stride.
    assert launch.grid == (4, 2, 1)
    assert launch.constants["RULE"] == "clamp"
    assert triton.launches("weight_grad", (g, x, w), window.sliding, RULE) == []
    (launch,) = triton.launches("weight_grad", (g, x, w), window.sliding, GradientRule(name="sign"))
    assert launch.constants["RULE"] == "sign"


def test_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = torch.randn(1, 1, 3, 3), torch.randn(1, 1, 1, 1)
    with pytest.raises(BackendUnavailableError, match="got 'triton': the GPU kernels take float32"):
        adder2d(x.double(), w.double(), backend="triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(BackendUnavailableError, match="got 'triton': Triton kernels run on a GPU"):
        adder2d(x, w, backend="triton")
    cuda = torch.device("cuda")
    assert missing(torch.device("mps")) == "Triton kernels run on CUDA devices, not on mps"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    assert missing(cuda) is None
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Turing")
    assert missing(cuda) == "the GPU kernels need compute capability 8.0, Turing has 7.5"
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert missing(cuda) == "the GPU kernels need triton: pip install mulfree[gpu]"


def test_a_gpu_without_triton_runs_the_reference_with_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The fallback is slow, so nobody should use it without knowing."""
    with FakeTensorMode():
        x, w = torch.empty(1, 1, 3, 3, device="cuda"), torch.empty(1, 1, 1, 1, device="cuda")
        monkeypatch.setattr(schema, "triton_missing", lambda _: "it is away")
        with pytest.warns(
            RuntimeWarning, match="slow reference implementation, because it is away"
        ):
            adder2d(x, w)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            adder2d(x.double(), w.double())
            monkeypatch.setattr(schema, "triton_missing", lambda _: None)
            adder2d(x.bfloat16(), w.bfloat16())
