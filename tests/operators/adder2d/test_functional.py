from __future__ import annotations

import itertools
from math import inf, nan

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import assume, given, settings
from tests import oracle
from tests.operators.adder2d.problems import (
    assert_not_finite_as_defined,
    assert_right,
    geometries,
    operands,
    run,
)
from torch import Tensor

from mulfree.errors import BackendUnavailableError, ConfigError, DTypeError, ShapeError
from mulfree.functional import adder2d, adder_linear
from mulfree.operators.window import SAMPLES, ConvProblem

BACKENDS = ("native", "reference")


@pytest.mark.parametrize("window", geometries(), ids=str)
def test_float32_against_definition(window: ConvProblem) -> None:
    x, w, g = operands(window, torch.float32)
    for gradient in ("adder", "sign"):
        results = run(x, w, g, window, gradient=gradient)
        assert_right(results, x, w, g, window, gradient)


@pytest.mark.parametrize("gradient", ["adder", "sign", "l2", "l1.5", "l1"])
@pytest.mark.parametrize("norm", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("window", SAMPLES, ids=str)
def test_float64_against_definition(window: ConvProblem, gradient: str, norm: float) -> None:
    x, w, g = operands(window)
    y, dx, dw = run(x, w, g, window, gradient=gradient, norm=norm)
    torch.testing.assert_close(y, oracle.forward(x, w, window, norm))
    expected = oracle.gradients(x, w, g, window, gradient)
    torch.testing.assert_close(dx, expected[0])
    torch.testing.assert_close(dw, expected[1])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_accumulates_in_float32(dtype: torch.dtype, backend: str) -> None:
    window = ConvProblem(in_channels=64, out_channels=8)
    x, w, g = operands(window, dtype)
    results = run(x, w, g, window, backend=backend)
    wide = run(x.double(), w.double(), g.double(), window)
    for result, exact in zip(results, wide, strict=True):
        assert result.dtype == dtype
        # One rounding to the stored precision, on top of an error that float32 hides.
        bound = torch.finfo(dtype).eps * exact.abs() + 1e-4 * exact.abs().max()
        assert ((result.double() - exact).abs() <= bound).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_values_by_hand(backend: str) -> None:
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    w = torch.tensor([[[[1.0, 0.0], [0.5, -1.0]]]])
    bias = torch.tensor([10.0])
    y = adder2d(x, w, bias, backend=backend)
    assert y.tolist() == [[[[10 - (0 + 2 + 2.5 + 5)]]]]
    padded = adder2d(x, w, padding=1, backend=backend)
    # Top left window: three padded zeros against 1, 0, 0.5, and pixel 1 against -1.
    assert padded[0, 0, 0, 0].item() == -(1 + 0 + 0.5 + 2)


@pytest.mark.parametrize("padding", ["same", "valid", 1, (2, 0)])
@pytest.mark.parametrize("kernel", [(3, 3), (4, 2)])
def test_padding_as_in_convolution(
    padding: str | int | tuple[int, int], kernel: tuple[int, int]
) -> None:
    x, w = torch.randn(2, 3, 9, 7), torch.randn(4, 3, *kernel)
    if padding == "same":
        # torch warns that an even window makes a padded copy; ours does too, silently.
        total = [k - 1 for k in kernel]
        sides = (total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2)
        expected = adder2d(torch.nn.functional.pad(x, sides), w)
        assert expected.shape[2:] == x.shape[2:]
    else:
        expected = adder2d(x, w, padding=0 if padding == "valid" else padding)  # type: ignore[arg-type]
    assert torch.equal(adder2d(x, w, padding=padding), expected)  # type: ignore[arg-type]


def test_image_without_batch() -> None:
    x, w = torch.randn(3, 8, 8), torch.randn(4, 3, 3, 3)
    assert torch.equal(adder2d(x, w, padding=1), adder2d(x[None], w, padding=1)[0])


@pytest.mark.parametrize("backend", BACKENDS)
def test_layouts(backend: str) -> None:
    window = ConvProblem(in_channels=5, out_channels=6, size=(9, 8))
    x, w, g = operands(window, torch.float32)
    plain = run(x, w, g, window, backend=backend)
    last = torch.channels_last
    y, dx, dw = run(x.to(memory_format=last), w.to(memory_format=last), g, window, backend=backend)
    assert y.is_contiguous(memory_format=last)
    assert dx.is_contiguous(memory_format=last)
    strided = run(
        x.transpose(2, 3).contiguous().transpose(2, 3),
        torch.cat((w, w), 1)[:, :5],
        g.expand(2, *g.shape)[1],
        window,
        backend=backend,
    )
    for a, b, c in zip(plain, (y, dx, dw), strided, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


@pytest.mark.parametrize("gradient", ["adder", "sign", "l2"])
@pytest.mark.parametrize("channels", [16, 15])
@pytest.mark.parametrize("size", [(7, 7), (9, 1)])
def test_depthwise_in_channels_last(size: tuple[int, int], channels: int, gradient: str) -> None:
    window = ConvProblem(
        in_channels=channels, out_channels=channels, groups=channels, size=size, stride=(2, 1)
    )
    x, w, g = operands(window, torch.float32)
    last = torch.channels_last
    results = run(x.to(memory_format=last), w, g, window, gradient=gradient)
    assert_right(results, x, w, g, window, gradient)
    assert results[0].is_contiguous(memory_format=last)
    assert results[1].is_contiguous(memory_format=last)
    assert results[2].is_contiguous()


@pytest.mark.parametrize("value", [nan, inf, -inf])
def test_not_finite_values_of_depthwise_layers_in_channels_last(value: float) -> None:
    window = ConvProblem(in_channels=16, out_channels=16, groups=16, size=(6, 7), stride=(2, 2))
    for gradient, place in itertools.product(("adder", "sign"), (0, 1, 2)):
        tensors = list(operands(window, torch.float32))
        tensors[place].view(-1)[-1] = value
        x, w, g = tensors
        images = x.contiguous(memory_format=torch.channels_last)
        results = run(images, w, g, window, gradient=gradient)
        assert_not_finite_as_defined(results, x, w, g, window, gradient)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (2, 0, 8, 8)])
def test_nothing_to_sum(shape: tuple[int, ...], backend: str) -> None:
    x = torch.randn(shape, requires_grad=True)
    w = torch.randn(4, shape[1], 3, 3, requires_grad=True)
    y = adder2d(x, w, padding=1, backend=backend)
    y.sum().backward()
    assert y.shape == (shape[0], 4, 8, 8)
    assert y.abs().sum() == 0
    for tensor in (x, w):
        assert tensor.grad is not None
        assert tensor.grad.shape == tensor.shape
        assert tensor.grad.abs().sum() == 0


@settings(max_examples=60, deadline=None)
@given(
    c=st.integers(1, 20),
    o=st.integers(1, 20),
    h=st.integers(1, 12),
    w=st.integers(1, 12),
    k=st.integers(1, 4),
    s=st.integers(1, 3),
    shift=st.sampled_from([0.5, -3.0, 1000.0, -4096.0]),
    seed=st.integers(0, 2**31),
)
def test_properties(
    c: int, o: int, h: int, w: int, k: int, s: int, shift: float, seed: int
) -> None:
    assume(h >= k and w >= k)
    torch.manual_seed(seed)
    x, f = torch.randn(2, c, h, w), torch.randn(o, c, k, k)
    y = adder2d(x, f, stride=s)

    order = torch.randperm(c)
    torch.testing.assert_close(adder2d(x[:, order], f[:, order], stride=s), y)
    assert (y <= 0).all()

    # Numbers that a shift does not round, so that only the kernel's own rounding is left.
    x, f = (x * 64).round() / 64, (f * 64).round() / 64
    y, moved = adder2d(x, f, stride=s), adder2d(x + shift, f + shift, stride=s)
    bound = 4 * (c * k * k) ** 0.5 * torch.finfo(torch.float32).eps * y.abs().max()
    assert (y - moved).abs().max() <= bound

    patch = x[:1, :, :k, :k]
    assert adder2d(patch, patch).abs().max() == 0
    assert adder2d(patch.abs(), patch.abs()).abs().max() == 0


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("gradient", ["adder", "sign", "l2", "l1.5", "l1"])
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str
)
def test_not_finite_values_go_where_the_definition_sends_them(
    dtype: torch.dtype, gradient: str, backend: str | None
) -> None:
    # The last column is met by no window, the groups and padding keep values from each other.
    window = ConvProblem(
        in_channels=4, out_channels=6, groups=2, size=(6, 8), stride=(2, 3), padding=(1, 0)
    )
    for place, value in itertools.product((0, 1, 2), (nan, inf, -inf)):
        for at in (0, -1):
            tensors = list(operands(window, dtype))
            tensors[place].view(-1)[at] = value
            x, w, g = tensors
            results = run(x, w, g, window, gradient=gradient, backend=backend)
            assert_not_finite_as_defined(results, x, w, g, window, gradient)


def test_same_result_for_any_number_of_threads() -> None:
    window = ConvProblem(batch=3, in_channels=20, out_channels=24, size=(13, 17))
    before = torch.get_num_threads()
    try:
        for positive in (False, True):
            x, w, g = operands(window, torch.float32)
            x = x.abs() if positive else x
            runs = []
            for threads in (1, 2, 3, 7):
                torch.set_num_threads(threads)
                runs.append(run(x, w, g, window))
            for other in runs[1:]:
                assert all(torch.equal(a, b) for a, b in zip(other, runs[0], strict=True))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("backend", BACKENDS)
def test_linear_is_a_window_of_one_pixel(backend: str) -> None:
    x, w, b = torch.randn(4, 5, 7), torch.randn(3, 7), torch.randn(3)
    expected = b - (x[:, :, None] - w).abs().sum(-1)
    torch.testing.assert_close(adder_linear(x, w, b, backend=backend), expected)
    torch.testing.assert_close(adder_linear(x[0, 0], w, backend=backend), expected[0, 0] - b)


_X, _W = torch.zeros(2, 3, 8, 8), torch.zeros(4, 3, 3, 3)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((_X[0, 0], _W), {}, ShapeError, r"`input` must have shape \(N, .*, got \[8, 8\]"),
        ((_X, _W[0]), {}, ShapeError, r"`weight` must have shape .* got \[3, 3, 3\]"),
        ((_X[:, :2], _W), {}, ShapeError, r"3 channels, got shape \[2, 2, 8, 8\]"),
        ((_X, _W, torch.zeros(3)), {}, ShapeError, r"`bias` must have shape \[4\], got \[3\]"),
        ((_X, _W.double()), {}, DTypeError, r"`weight` must have the dtype .* got torch.float64"),
        ((_X.int(), _W.int()), {}, DTypeError, r"`input` must be float64, .* got torch.int32"),
        ((_X, _W.to("meta")), {}, ShapeError, r"`weight` must be on the device .* got meta"),
        ((_X, _W), {"stride": 0}, ShapeError, r"`stride` must be .* >= 1, got 0"),
        ((_X, _W), {"padding": -1}, ShapeError, r"`padding` must be .* >= 0, got -1"),
        ((_X, _W), {"dilation": (1, 0)}, ShapeError, r"`dilation` must be .* got \(1, 0\)"),
        ((_X, _W), {"dilation": 4}, ShapeError, r"at least as large as the window, got"),
        ((_X, _W), {"groups": 3}, ShapeError, r"`groups` must be a positive divisor .* got 3"),
        ((_X, _W[:, :, :0]), {}, ShapeError, r"a window of at least 1x1, got \[4, 3, 0, 3\]"),
        ((_X, _W), {"gradient": "hard"}, ConfigError, r"`gradient` must be adder, .* got 'hard'"),
        ((_X, _W), {"norm": 0.5}, ConfigError, r"`norm` must be between 1 and 2, got 0.5"),
        ((_X, _W), {"groups": 2**63}, ShapeError, r"`groups` must be an integer .* got 9223372036"),
        ((_X, _W), {"norm": float("nan")}, ConfigError, r"`norm` must be between 1 and 2, got nan"),
        ((_X, _W), {"backend": 1}, BackendUnavailableError, r"`backend` must be one of .* got 1"),
        ((_X[:, None], _W), {}, ShapeError, r"`input` must have shape .* \[2, 1, 3, 8, 8\]"),
        (
            (_X, _W),
            {"padding": 2**30},
            ShapeError,
            r"`output` must have at most 2\*\*40 values, got shape \[2, 4, 2147483654, 214748",
        ),
        (
            (_X, _W),
            {"padding": 2**30, "dilation": 2**30},
            ShapeError,
            r"`dilation` and `padding` must leave windows that fit into memory, got padding",
        ),
        (
            (_X, _W),
            {"backend": "native", "norm": 2.0},
            BackendUnavailableError,
            r"`backend` must be one that can run here, got 'native': it runs on CPUs",
        ),
    ],
)
def test_refusals(
    arguments: tuple[Tensor, ...], options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^adder2d: .*{message}"):
        adder2d(*arguments, **options)  # type: ignore[arg-type]


def test_views_are_read_as_they_are() -> None:
    x, w = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3)
    views = (
        torch._neg_view(x),
        torch.complex(x, x).conj().imag,
        x[:1, :1].expand(2, 3, 8, 8),
        torch.as_strided(x, (2, 3, 8, 8), (1, 1, 1, 1)),
        x.transpose(2, 3),
    )
    for view in views:
        for backend in BACKENDS:
            copy = torch.tensor(view.tolist())
            assert torch.equal(adder2d(view, w, backend=backend), adder2d(copy, w, backend=backend))


def test_instruction_set_that_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MULFREE_ISA", "avx1024")
    with pytest.raises(BackendUnavailableError, match=r"`MULFREE_ISA` must be one of .*scalar"):
        adder2d(_X, _W)


def test_linear_refusals() -> None:
    with pytest.raises(
        ShapeError, match=r"^adder_linear: `input` must have 7 features .* \[3, 6\]"
    ):
        adder_linear(torch.zeros(3, 6), torch.zeros(4, 7))
    with pytest.raises(ShapeError, match=r"^adder_linear: `weight` must have shape \(out_features"):
        adder_linear(torch.zeros(3, 6), torch.zeros(6))
    with pytest.raises(
        ShapeError, match=r"^adder_linear: `input` must have at least one dimension"
    ):
        adder_linear(torch.tensor(1.0), torch.zeros(4, 7))
