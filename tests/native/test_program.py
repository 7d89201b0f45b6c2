"""The native door: programs of nodes by kind and fields, run on every instruction set."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.native.integer_reference import linear
from tests.runtime.graphs import heavy, pictures, random_graph

from mulfree import nodes
from mulfree._native import core
from mulfree.runtime import Session, memory, reference

ISAS = core().int8_isas()
SHAPE = (4, 5, 6)
TABLE = np.zeros((4, 256), np.uint8)
CLAMP = {"shift": 1, "clamp_min": 0, "clamp_max": 255}
SCALARS = {"multiplier": 1, "offset": 0, **CLAMP}
WINDOW = {"kernel": (1, 1), "stride": (1, 1)}
LAYER = {
    "stride": (1, 1),
    "padding": (0, 0),
    "padding_excess": (0, 0),
    "groups": 1,
    "multiplier": np.zeros(4, np.int32),
    "offset": np.zeros(4, np.int64),
    "residual_multiplier": 0,
    **CLAMP,
}
FIELDS: dict[str, dict[str, Any]] = {
    "adder2d": {**LAYER, "weight": np.zeros((4, 1, 1, 4), np.uint8)},
    "conv2d": {**LAYER, "weight": np.zeros((4, 1, 1, 4), np.int8)},
    "max_pool": {**WINDOW, "padding": (0, 0), "minimum": np.zeros(4, np.uint8)},
    "mean": {**WINDOW, **SCALARS},
    "add": {**SCALARS, "other_multiplier": 1},
    "gate": SCALARS,
    "lut": {"table": TABLE},
    "pad": {"left": 0, "right": 0, "top": 0, "bottom": 0},
    "repeat": {"factor": 1},
    "concat": {"order": np.arange(4, dtype=np.int32)},
    "linear": {
        "weight": np.zeros((2, 120), np.int8),
        "scale": np.zeros(2, np.float32),
        "bias": np.zeros(2, np.float32),
    },
}
"""Of a node that reads and writes values of `SHAPE`."""
FURTHER = {"add": [0], "gate": [1]}
"""Further values that a node reads: 0 is of `SHAPE`, 1 has one number for each of its channels."""


def started(*shapes: tuple[int, int, int], table: NDArray[Any] = TABLE) -> Any:
    """A program with values of the shapes; the first is the input."""
    program = core().Program()
    ids = [program.value(*shape, 3) for shape in shapes]
    program.input(ids[0], table)
    return program


def append(program: Any, op: str, reads: Sequence[int], writes: int | None, **changes: Any) -> None:
    program.append(op, reads, writes, FIELDS[op] | changes)


def with_means(*shapes: tuple[int, int, int]) -> Any:
    """A program whose value 1 is the means of the input, and values of the shapes after it."""
    program = started(SHAPE, (4, 1, 1), *shapes)
    append(program, "mean", [0], 1, kernel=(5, 6))
    return program


def finish(program: Any, x: int, taps: int) -> None:
    """One output that is 0, and `compile`."""
    array = np.zeros(1, np.float32)
    weight = np.zeros((1, taps), np.int8)
    append(program, "linear", [x], None, weight=weight, scale=array, bias=array)
    program.compile(*memory.plan([memory.Block(*life) for life in program.lifetimes()]))


@pytest.mark.parametrize("isa", ISAS)
def test_random_networks(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MULFREE_ISA", isa)
    rng = np.random.default_rng(0)
    for number in range(40):
        graph = random_graph(rng)
        given = pictures(rng, graph, 3)
        expected = reference.run(graph, given)
        session = Session(graph, threads=1 + number % 3)
        # Twice: values of a run must not reach the next.
        for _ in range(2):
            np.testing.assert_array_equal(session.run(given), expected)


@pytest.mark.parametrize("isa", ISAS)
def test_a_network_worth_several_threads(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MULFREE_ISA", isa)
    graph = heavy(16, 32)
    given = np.random.default_rng(5).integers(0, 256, (5, 32, 16, 16), dtype=np.uint8)
    expected = reference.run(graph, given)
    for batch, threads in itertools.product((1, 2, 5), (1, 2, 3)):
        got = Session(graph, threads=threads).run(given[:batch])
        np.testing.assert_array_equal(got, expected[:batch])
    rows = Session(graph, threads=3).profile(given)
    assert len(rows) == 4
    assert all(row.seconds > 0 for row in rows)


def test_shift_alone_and_every_bound_of_the_fixed_point_step() -> None:
    """One pixel, one tap: y is the step's formula by Python's own integers."""
    factors = (1, -1, 1 << 20, -(1 << 31), (1 << 31) - 1, 0)
    for isa, shift, (low, high) in itertools.product(
        ISAS, (1, 2, 31, 32, 61, 62), ((0, 255), (7, 9))
    ):
        half = 1 << (shift - 1)
        chosen = [
            (multiplier, offset)
            for multiplier in factors
            for offset in (0, 100 << shift, -(1 << 60), (1 << 61) - (1 << 41), 3)
            if abs(offset) + 255 * abs(multiplier) + half < 1 << 62
        ]
        count = len(chosen)
        program = core().Program(isa)
        x, y = program.value(1, 1, 1, 0), program.value(count, 1, 1, 0)
        program.input(x, TABLE[:1])
        append(
            program, "adder2d", [x], y, weight=np.zeros((count, 1, 1, 1), np.uint8),
            multiplier=np.array([c[0] for c in chosen], np.int32),
            offset=np.array([c[1] for c in chosen], np.int64),
            shift=shift, clamp_min=low, clamp_max=high,
        )  # fmt: skip
        eye, ones = np.eye(count, dtype=np.int8), np.ones(count, np.float32)
        append(program, "linear", [y], None, weight=eye, scale=ones, bias=0 * ones)
        program.compile(*memory.plan([memory.Block(*life) for life in program.lifetimes()]))
        for q in (0, 1, 254, 255):
            out = np.zeros((1, count), np.float32)
            program.run(np.full((1, 1, 1, 1), q, np.uint8), out, True, 1)
            expected = [max(low, min(high, (-q * m + b + half) >> shift)) for m, b in chosen]
            assert out[0].tolist() == expected


def test_several_nodes_that_end() -> None:
    """Each writes its part of an output row, in the order of the nodes."""
    rng = np.random.default_rng(0)
    program = started(SHAPE, table=rng.integers(0, 256, (4, 256), dtype=np.uint8))
    given = rng.integers(0, 256, (3, *SHAPE), dtype=np.uint8)
    expected = []
    for outputs in (2, 70, 1):
        weight = rng.integers(-128, 128, (outputs, 120), dtype=np.int8)
        scale, bias = rng.normal(size=(2, outputs)).astype(np.float32)
        append(program, "linear", [0], None, weight=weight, scale=scale, bias=bias)
        expected.append([linear(x.transpose(1, 2, 0), weight, scale, bias) for x in given])
    program.compile(*memory.plan([memory.Block(*life) for life in program.lifetimes()]))
    out = np.full((3, 73), np.nan, np.float32)
    program.run(given, out, True, 2)
    np.testing.assert_array_equal(out, np.concatenate(expected, axis=1))


def test_largest_layers_of_the_arena_share_memory() -> None:
    table = np.zeros((16, 256), np.uint8)
    program = started(*[(16, 32, 32)] * 6, table=table)
    for x in range(5):
        append(program, "lut", [x], x + 1, table=table)
    finish(program, 5, 16384)
    assert 2 * 16384 <= program.arena_bytes <= 2 * 16384 + 1024
    assert program.describe()[:3] == ["input", "lut", "lut"]


def pooled(op: str, side: int, window: int, stride: int) -> tuple[list[str], int]:
    """Kernels of a program that pools one map, and the bytes of its arena."""
    outputs = (side - window) // stride + 1
    program = started((1, side, side), (1, outputs, outputs), table=TABLE[:1])
    changes = {"minimum": np.zeros(1, np.uint8)} if op == "max_pool" else {}
    append(program, op, [0], 1, kernel=(window,) * 2, stride=(stride,) * 2, **changes)
    finish(program, 1, outputs * outputs)
    return program.describe(), program.arena_bytes


@pytest.mark.parametrize(
    ("op", "running"), [("max_pool", "max_pool: running maxima"), ("mean", "mean: running sums")]
)
def test_windows_that_overlap_much_take_turns_in_rows_and_columns(op: str, running: str) -> None:
    for side, window, stride in ((64, 3, 1), (64, 3, 2), (64, 64, 1), (63, 21, 21)):
        assert pooled(op, side, window, stride)[0][1] == op
    for side, window, stride in ((64, 15, 1), (256, 64, 2), (256, 100, 3)):
        assert pooled(op, side, window, stride)[0][1] == running


def test_running_maxima_take_the_memory_of_two_maps() -> None:
    _, size = pooled("max_pool", 256, 64, 1)
    assert size <= 3 * 256 * 256 + 1024


def test_every_kernel_is_of_a_node() -> None:
    folders = Path(nodes.__file__).parent.glob("*/kernel.cpp")
    assert core().node_kernels() == sorted(file.parent.name for file in folders)
    assert set(FIELDS) <= set(core().node_kernels()) <= set(nodes.NODES)
    with pytest.raises(ValueError, match=r"^append: `op` must have a native kernel, got none$"):
        started(SHAPE).append("none", [0], None, {})


@pytest.mark.parametrize("op", FIELDS)
def test_fields_are_checked(op: str) -> None:
    """A field that is missing, of another type or shape, or out of its range."""
    program = with_means(SHAPE)
    reads, writes = [0, *FURTHER.get(op, [])], None if op == "linear" else 2
    for name, value in FIELDS[op].items():
        wrong: dict[Any, str] = {None: "be a number, two numbers or a contiguous array, got "}
        if isinstance(value, int):
            wrong |= {(1, 1): r"be a number in \[.*\], got \(1, 1\)"}
            wrong |= {} if name == "offset" else {2**40: r"be a number in .*, got 1099511627776"}
        elif isinstance(value, tuple):
            low = -(2**31) - 1 if name == "padding_excess" else -1
            wrong |= {1: "be two numbers in .*, got 1", (low, 1): rf"be two numbers .*\({low}, 1\)"}
            wrong |= {(2**31, 1): r"be two numbers in .*, 2\*\*31\), got \(2147483648, 1\)"}
        else:
            wrong |= {1: r"be [uif]\d+\[.*\], got 1"}
            for array in (value[None], value[:0], value.astype(np.float64)):
                with pytest.raises(ValueError, match=rf"^{op}: `{name}` must be [uif]\d+\[.*, got"):
                    append(program, op, reads, writes, **{name: array})
        for other, message in wrong.items():
            with pytest.raises(ValueError, match=f"^{op}: `{name}` must {message}"):
                append(program, op, reads, writes, **{name: other})
        fields = {key: value for key, value in FIELDS[op].items() if key != name}
        with pytest.raises(ValueError, match=f"^{op}: `{name}` must be given, got no such field"):
            program.append(op, reads, writes, fields)
    append(program, op, reads, writes)


@pytest.mark.parametrize("op", FIELDS)
def test_values_are_checked(op: str) -> None:
    """Values that are none, not written yet, written already, or of another shape."""
    program = with_means(SHAPE, (4, 5, 7), (3, 5, 6))
    ends, reads = op == "linear", [0, *FURTHER.get(op, [])]
    for wrong in (-1, 2, 5):
        with pytest.raises(ValueError, match=f"^{op}: `reads` must be values that .*, got {wrong}"):
            append(program, op, [*reads[1:], wrong], None if ends else 2)
    with pytest.raises(ValueError, match=rf"^{op}: `reads` must be more than \d, got \d"):
        append(program, op, reads[:-1], None if ends else 2)
    if ends:
        with pytest.raises(
            ValueError, match=r"^linear: `writes` must be None for a node that ends, got a value$"
        ):
            append(program, op, reads, 2)
        return
    for wrong in (-1, 0, 5):
        with pytest.raises(ValueError, match=f"^{op}: `writes` must be a value that no .*{wrong}"):
            append(program, op, reads, wrong)
    with pytest.raises(ValueError, match=f"^{op}: `writes` must be a value, got None"):
        append(program, op, reads, None)
    for wrong in (3, 4):
        with pytest.raises(ValueError, match=rf"^{op}: `writes` must have shape \[4, 5, 6\], got "):
            append(program, op, reads, wrong)


@pytest.mark.parametrize("op", ["adder2d", "conv2d", "add", "concat"])
def test_shapes_of_further_values(op: str) -> None:
    with pytest.raises(ValueError, match=rf"^{op}: `reads\[1\]` must have shape \[4, 5, 6\], got "):
        append(with_means(SHAPE), op, [0, 1], 2)


def test_the_shape_of_a_gate() -> None:
    line = r"^gate: `reads\[1\]` must have shape \[4, 1, 1\], got \[4, 5, 6\]$"
    with pytest.raises(ValueError, match=line):
        append(with_means(SHAPE), "gate", [0, 0], 2)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("multiplier", [1, -2, 2**13, 2**15, 2**31 - 1, -(2**31)])
def test_gates_at_the_bounds_of_their_sums(isa: str, multiplier: int) -> None:
    """Sums below 2**31 take another loop; the formula by Python's own integers."""
    shift = max(1, abs(multiplier).bit_length() + 8)
    for offset in (0, 2**30, 2**31 - 1 - 2**shift, 100 << shift, -(2**60)):
        program = core().Program(isa)
        x, g, y = (program.value(3, side, side, zero) for side, zero in ((3, 7), (1, 200), (3, 0)))
        program.input(x, np.arange(256, dtype=np.uint8)[None].repeat(3, 0))
        append(
            program, "max_pool", [x], g,
            kernel=(3, 3), minimum=np.array([0, 1, 0], np.uint8),
        )  # fmt: skip
        append(program, "gate", [x, g], y, multiplier=multiplier, offset=offset, shift=shift)
        eye, ones = np.eye(27, dtype=np.int8), np.ones(27, np.float32)
        append(program, "linear", [y], None, weight=eye, scale=ones, bias=0 * ones)
        program.compile(*memory.plan([memory.Block(*life) for life in program.lifetimes()]))
        given = np.random.default_rng(0).integers(0, 256, (1, 3, 3, 3), dtype=np.uint8)
        given[0, 0, 0, 0], given[0, 1, 0, 0], given[0, 2] = 255, 0, 0
        out = np.zeros((1, 27), np.float32)
        program.run(given, out, True, 1)
        gates = int(given[0, 0].max()), int(given[0, 1].min()), 0
        pixels = given[0].reshape(3, 9).T.tolist()
        for q, gate, got in zip(itertools.chain(*pixels), gates * 9, out[0], strict=True):
            v = (q - 7) * (gate - 200) * multiplier + offset + 2 ** (shift - 1)
            assert got == max(0, min(255, v >> shift))


@pytest.mark.parametrize(
    ("op", "changes", "message"),
    [
        ("adder2d", {"stride": (2, 2)}, r"`writes` must have shape \[4, 3, 3\], got \[4, 5, 6\]"),
        ("adder2d", {"padding_excess": (0, 1)}, r"`writes` must have shape \[4, 5, 7\], got"),
        ("conv2d", {"padding_excess": (-1, 0)}, r"`padding_excess` must leave paddings from 0 to"),
        ("adder2d", {"groups": 5}, "`groups` must be positive and divide the 4 input and 4 output"),
        ("adder2d", {"clamp_min": 9, "clamp_max": 8}, r"`clamp_max` must be a number in \[9, 255"),
        ("max_pool", {"padding": (1, 0)}, r"`padding` must be at most half of the kernel"),
        ("max_pool", {"kernel": (9, 9)}, r"`writes` must have shape \[4, 0, 0\], got"),
        ("mean", {"kernel": (2, 1)}, r"`writes` must have shape \[4, 4, 6\], got"),
        ("pad", {"left": 1}, r"`writes` must have shape \[4, 5, 7\], got"),
        ("repeat", {"factor": 2}, r"`writes` must have shape \[4, 10, 12\], got"),
        ("concat", {"order": np.zeros(4, np.int32)}, "`order` must be a permutation, got 0"),
        ("concat", {"order": np.full(4, -1, np.int32)}, "`order` must be a permutation, got -1"),
        ("concat", {"order": np.full(4, 4, np.int32)}, "`order` must be a permutation, got 4"),
    ],
)
def test_fields_that_do_not_fit(op: str, changes: dict[str, Any], message: str) -> None:
    program = started(SHAPE, SHAPE)
    with pytest.raises(ValueError, match=f"^{op}: {message}"):
        append(program, op, [0], 1, **changes)
    append(program, op, [0], 1)


def test_wrong_values_and_inputs() -> None:
    program = core().Program()
    for shape in ((0, 1, 1), (1, -1, 1), (2**20, 2**10, 2), (2**62, 2**62, 2**62)):
        with pytest.raises(ValueError, match="must be positive with a product below"):
            program.value(*shape, 0)
    with pytest.raises(ValueError, match=r"value: `zero` must be in \[0, 255\], got -1"):
        program.value(1, 1, 1, -1)
    x = program.value(*SHAPE, 0)
    with pytest.raises(ValueError, match="input: `y` must be a value that no node has written"):
        program.input(1, TABLE)
    with pytest.raises(ValueError, match=r"input: `table` must have shape \(4, 256\), got \(1, "):
        program.input(x, TABLE[:1])
    program.input(x, TABLE)
    with pytest.raises(ValueError, match="input: `program` must have no input yet"):
        program.input(x, TABLE)
    with pytest.raises(ValueError, match="Program: `isa` must be one of"):
        core().Program("sse9")


def test_a_border_that_does_not_fit() -> None:
    window: dict[str, Any] = {"weight": np.zeros((1, 1, 1, 1), np.uint8)}
    window |= {"multiplier": np.zeros(1, np.int32), "offset": np.zeros(1, np.int64)}
    program = started((1, 1, 2**20), (1, 1, 1), (1, 1, 2), table=TABLE[:1])
    # Each padding is possible; a border wide enough for both is not.
    append(program, "adder2d", [0], 1, **window, stride=(2**20, 2**20), padding=(1000, 0))
    append(program, "adder2d", [0], 2, **window, stride=(1, 2**30), padding=(0, 2**29))
    with pytest.raises(ValueError, match="lifetimes: `padding` must leave every value with its"):
        finish(program, 2, 2)


def test_wrong_plans() -> None:
    program = started(SHAPE, SHAPE)
    with pytest.raises(ValueError, match="lifetimes: `program` must have an output, got none"):
        program.lifetimes()
    append(program, "lut", [0], 1)
    append(program, "linear", [1], None)
    assert program.lifetimes() == [(184, 0, 1), (184, 1, 2), (72, 2, 2)]
    for offsets, size, message in (
        ([0, 192], 500, "be as many as the lifetimes, got 2"),
        ([0, 192, 384], 455, "be multiples of 64 inside the arena, got 384"),
        ([-64, 192, 0], 500, "be multiples of 64 inside the arena, got -64"),
        ([0, 190, 384], 500, "be multiples of 64 inside the arena, got 190"),
        ([0, 0, 0], -(2**63), "be multiples of 64 inside the arena, got 0"),
        ([0, 128, 384], 500, r"keep blocks that are in use at once apart, got \(0, 128\)"),
        ([0, 192, 320], 500, r"keep blocks that are in use at once apart, got \(192, 320\)"),
    ):
        with pytest.raises(ValueError, match=f"compile: `offsets` must {message}"):
            program.compile(offsets, size)
    program.compile([0, 192, 0], 376)
    assert program.arena_bytes == 376


def test_wrong_runs() -> None:
    program = started(SHAPE)
    images, out = np.zeros((2, *SHAPE), np.uint8), np.zeros((2, 1), np.float32)
    for method in ("run", "profile"):
        with pytest.raises(ValueError, match=f"{method}: `program` must be compiled"):
            getattr(program, method)(images, out, True, 1)
    with pytest.raises(ValueError, match="describe: `program` must be compiled"):
        program.describe()
    finish(program, 0, 120)
    for function, call in {
        "value": lambda: program.value(1, 1, 1, 0),
        "lut": lambda: append(program, "lut", [0], 0),
        "lifetimes": program.lifetimes,
    }.items():
        with pytest.raises(ValueError, match=f"{function}: `program` must not be compiled yet"):
            call()
    needed = program.arena_bytes
    for method in ("run", "profile"):
        run = getattr(program, method)
        with pytest.raises(ValueError, match=rf"{method}: `input` must have shape \[N, 4, 5, 6\]"):
            run(np.zeros((2, 4, 6, 5), np.uint8), out, True, 1)
        with pytest.raises(ValueError, match=rf"{method}: `output` must have shape \(2, 1\)"):
            run(images, out[:1], True, 1)
        with pytest.raises(ValueError, match=f"{method}: `threads` must be positive, got 0"):
            run(images, out, True, 0)
        line = f"{method}: `memory` must be at least {needed} bytes, got {needed - 1}"
        with pytest.raises(ValueError, match=line):
            run(images, out, True, 1, needed - 1)
        run(images, out, True, 1, needed)
        with pytest.raises(TypeError, match="incompatible function arguments"):
            run(images.astype(np.float32), out, True, 1)
    program.run(images[:0], out[:0], True, 2)
