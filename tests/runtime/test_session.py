from __future__ import annotations

import copy
import io
import os
import pickle
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from tests.runtime.graphs import array, heavy, lined_up, pictures, random_graph, tiny, tiny_parts

from mulfree.errors import (
    ArtifactError,
    BackendUnavailableError,
    ConfigError,
    DTypeError,
    OutOfMemoryError,
    ShapeError,
)
from mulfree.nodes import Node, Value
from mulfree.nodes.concat import Concat
from mulfree.nodes.max_pool import MaxPool
from mulfree.nodes.mean import Mean
from mulfree.nodes.repeat import Repeat
from mulfree.runtime import Graph, Session, artifact, reference, save
from mulfree.runtime import session as session_module
from mulfree.runtime.graph import Input
from mulfree.runtime.session import default_threads

PICTURE = np.arange(9, dtype=np.uint8).reshape(1, 3, 3)
BY_HAND = [[33.0, -89.0]]


def test_tiny_by_hand(tmp_path: Path) -> None:
    save(tiny(), tmp_path / "tiny")
    for session in (
        Session(tiny()),
        Session(tmp_path / "tiny"),
        Session(str(tmp_path / "tiny"), threads=2),
        Session(tiny(), backend="reference"),
    ):
        assert session.run(PICTURE).tolist() == BY_HAND
        assert session.run(np.stack([PICTURE] * 3)).tolist() == BY_HAND * 3


@pytest.mark.parametrize("seed", range(10))
def test_native_equals_the_reference(seed: int) -> None:
    """Every logit of 60 graphs a seed, over 200 nodes of random geometry, each a batch of 3."""
    rng = np.random.default_rng(seed)
    for number in range(60):
        graph = random_graph(rng)
        session = Session(graph, threads=1 + number % 3)
        for _ in range(2):
            given = pictures(rng, graph, 1 + number % 3)
            np.testing.assert_array_equal(session.run(given), reference.run(graph, given))


def test_threads_do_not_change_the_result() -> None:
    rng = np.random.default_rng(7)
    graph = random_graph(rng, 6)
    given = pictures(rng, graph, 5)
    expected = Session(graph, threads=1).run(given)
    for threads in (2, 3):
        np.testing.assert_array_equal(Session(graph, threads=threads).run(given), expected)


def test_python_threads_take_turns() -> None:
    rng = np.random.default_rng(8)
    graph = random_graph(rng, 4)
    session = Session(graph, threads=1)
    batches = [rng.normal(size=(n, *graph.input_value.shape)).astype("f4") for n in (1, 2, 3, 4)]
    expected = [reference.run(graph, batch) for batch in batches]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(50):
            if not np.array_equal(session.run(batches[number]), expected[number]):
                wrong.append(number)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_shapes_of_input_and_output(backend: Any) -> None:
    session = Session(tiny(), backend=backend)
    assert session.run(PICTURE[None][:0]).shape == (0, 2)
    assert session.run(PICTURE).shape == (1, 2)
    out = np.full((2, 2), np.nan, np.float32)
    assert session.run(np.stack([PICTURE] * 2), out=out) is out
    assert out.tolist() == BY_HAND * 2
    # Not contiguous: every other row of a larger picture.
    larger = np.repeat(PICTURE, 2, axis=1)
    assert session.run(larger[:, ::2]).tolist() == BY_HAND
    frozen = PICTURE.copy()
    frozen.flags.writeable = False
    assert session.run(frozen).tolist() == BY_HAND


def test_floats_are_the_normalised_picture() -> None:
    # Steps of 0.5 around the zero 2: the real number (q - 2) / 2 becomes q.
    floats = ((PICTURE.astype(np.float32) - 2) / 2).astype(np.float32)
    session = Session(tiny())
    for _ in range(2):
        assert session.run(floats).tolist() == BY_HAND
    assert session.run(np.stack([floats] * 3)[:, :, ::1]).tolist() == BY_HAND * 3
    assert session.run(np.asfortranarray(np.stack([floats] * 2))).tolist() == BY_HAND * 2


@pytest.mark.parametrize("shape", [(3, 3), (2, 3, 3), (1, 1, 4, 3), (1, 1, 1, 3, 3)])
def test_wrong_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ShapeError, match=r"^Session.run: `array` must have shape \[N, 1, 3, 3\], g"
    ):
        Session(tiny()).run(np.zeros(shape, np.uint8))


def test_wrong_dtype() -> None:
    with pytest.raises(
        DTypeError, match=r"^Session.run: `array` must be a uint8 or float32 array, got float64$"
    ):
        Session(tiny()).run(PICTURE / 2)


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        (np.zeros((2, 2), "f4"), ShapeError, r"contiguous of shape \[1, 2\], got \[2, 2\]"),
        (np.zeros((1, 4), "f4")[:, ::2], ShapeError, r"contiguous of shape \[1, 2\], got \[1, 2\]"),
        (np.zeros((1, 2)), DTypeError, "a writable float32 array, got float64"),
        ([[0.0, 0.0]], DTypeError, "a writable float32 array, got list"),
    ],
)
def test_wrong_output(out: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match="^Session.run: `out` must be " + message):
        Session(tiny()).run(PICTURE, out=out)


def test_read_only_output() -> None:
    out = np.zeros((1, 2), np.float32)
    out.flags.writeable = False
    with pytest.raises(DTypeError, match="must be a writable float32 array, got float32"):
        Session(tiny()).run(PICTURE, out=out)


def test_a_graph_that_is_not_valid(tmp_path: Path) -> None:
    (tmp_path / "wrong").write_bytes(b"wrong")
    with pytest.raises(ArtifactError, match=r"^runtime.load: `path` must have more than"):
        Session(tmp_path / "wrong")


@pytest.mark.parametrize("threads", [0, -1, 1025, 1.0, True, "2"])
def test_wrong_threads(threads: Any) -> None:
    with pytest.raises(ConfigError, match=r"^Session: `threads` must be an int in 1..1024, got "):
        Session(tiny(), threads=threads)


def test_wrong_backend() -> None:
    with pytest.raises(
        ConfigError, match=r"`backend` must be one of native, reference, got 'nativ"
    ):
        Session(tiny(), backend=cast(Any, "nativ"))


def test_an_instruction_set_that_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MULFREE_ISA", "avx1024")
    with pytest.raises(BackendUnavailableError, match="avx1024"):
        Session(tiny())


@pytest.mark.parametrize(
    ("variable", "expected"),
    [("1", 1), ("3", 3), ("2,4", 2), (" 2 ", 2), ("64", 4), ("", 4), ("0", 4), ("many", 4)],
)
def test_default_threads(variable: str, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert default_threads() == expected
    assert Session(tiny()).threads == expected


def test_default_threads_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 5000)
    assert default_threads() == 1024
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert default_threads() == 1


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_profile(backend: Any) -> None:
    rows = Session(tiny(), backend=backend).profile(np.stack([PICTURE] * 2), runs=3)
    assert [(row.name, row.op) for row in rows] == [
        ("input", "input"),
        ("adder", "adder2d"),
        ("mean", "mean"),
        ("fc", "linear"),
    ]
    assert [(row.counts.mul, row.counts.add) for row in rows] == [(0, 0), (4, 72), (0, 10), (6, 6)]
    assert all(row.seconds >= 0 and row.kernel for row in rows)
    assert sum(row.share for row in rows) == pytest.approx(1)


def test_profile_of_floats() -> None:
    rows = Session(tiny()).profile(PICTURE.astype(np.float32))
    assert len(rows) == 4


def test_profile_needs_a_picture() -> None:
    with pytest.raises(
        ShapeError, match=r"^Session.profile: `array` must hold an image, got \[0, "
    ):
        Session(tiny()).profile(PICTURE[None][:0])
    with pytest.raises(ConfigError, match=r"^Session.profile: `runs` must be at least 1, got 0"):
        Session(tiny()).profile(PICTURE, runs=0)


def test_a_run_allocates_nothing() -> None:
    """Beyond the output, that is: with `out` the process keeps its size."""
    import tracemalloc

    graph = _large()
    session = Session(graph, threads=1)
    given = np.zeros((4, *graph.input_value.shape), np.uint8)
    for batch in (given, given.astype(np.float32)):
        out = session.run(batch)
        tracemalloc.start()
        session.run(batch, out=out)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < batch.nbytes / 4


def _large() -> Graph:
    parts = tiny_parts()
    x = Value(name="x", shape=(8, 64, 64), scale=0.5, zero_point=2)
    given = Input(
        value="x",
        table=np.zeros((8, 256), np.uint8),
        mean=(0.5,) * 8,
        std=(0.5,) * 8,
        resize=64,
    )
    adder, mean, fc = parts["nodes"]
    adder = replace(adder, weight=np.zeros((2, 1, 1, 8), np.uint8))
    mean = replace(mean, kernel=(64, 64))
    y = replace(parts["values"][1], shape=(2, 64, 64))
    fc = replace(fc, scale=array([0, 0], "float32"))
    return Graph(
        name="large", input=given, values=(x, y, parts["values"][2]), nodes=(adder, mean, fc)
    )


def test_importing_loads_numpy_only() -> None:
    code = (
        "import sys, mulfree.runtime as runtime\n"
        "import mulfree.images\n"
        "assert callable(runtime.Session)\n"
        "heavy = {'torch', 'safetensors', 'PIL', 'lightning', 'rich', 'onnx', 'yaml', 'scipy'}\n"
        "print(sorted(heavy & set(sys.modules)), 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[] True\n"


def test_sources(tmp_path: Path) -> None:
    content = artifact.to_bytes(tiny())
    (tmp_path / "tiny").write_bytes(content)
    sources = (content, bytearray(content), memoryview(content), io.BytesIO(content))
    for source in sources:
        assert Session(source).run(PICTURE).tolist() == BY_HAND
    with (tmp_path / "tiny").open("rb") as file:
        assert Session(file).run(PICTURE).tolist() == BY_HAND


@pytest.mark.parametrize("source", [5, None, ["x"], io.StringIO("text"), np.zeros(3)])
def test_not_a_source(source: Any) -> None:
    with pytest.raises(ConfigError, match=r"^Session: `source` must be a path, bytes, a file open"):
        Session(source)


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_copies(backend: Any, tmp_path: Path) -> None:
    save(tiny(), tmp_path / "tiny")
    session = Session(tmp_path / "tiny", threads=3, backend=backend, memory=10**6)
    session.run(PICTURE.astype(np.float32))
    (tmp_path / "tiny").unlink()
    for made in (pickle.loads(pickle.dumps(session)), copy.deepcopy(session), copy.copy(session)):
        assert (made.threads, made.backend, made.memory) == (3, backend, 10**6)
        assert made.run(PICTURE).tolist() == BY_HAND
        assert made._lock is not session._lock


def test_a_copy_of_a_session_that_runs() -> None:
    session = Session(tiny())
    with session._lock:
        assert copy.deepcopy(session).run(PICTURE).tolist() == BY_HAND


class _Tensor:
    """As a tensor of torch: an array that may refuse to be one."""

    def __init__(self, given: np.ndarray[Any, Any] | Exception) -> None:
        self.given = given

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        if isinstance(self.given, Exception):
            raise self.given
        return self.given


def test_tensors() -> None:
    assert Session(tiny()).run(cast(Any, _Tensor(PICTURE))).tolist() == BY_HAND
    message = "Can't call numpy() on Tensor that requires grad."
    for error in (RuntimeError(message), TypeError(message), ValueError(message)):
        with pytest.raises(
            DTypeError, match=r"tensor\.detach\(\)\.cpu\(\)\.numpy\(\)\), got _Tensor \(Can't call"
        ):
            Session(tiny()).run(cast(Any, _Tensor(error)))


def test_tensors_of_torch() -> None:
    torch = pytest.importorskip("torch")
    assert Session(tiny()).run(torch.from_numpy(PICTURE)).tolist() == BY_HAND
    with pytest.raises(DTypeError, match=r"got Tensor .*requires grad"):
        Session(tiny()).run(torch.zeros(1, 3, 3, requires_grad=True))
    with pytest.raises(DTypeError, match="got Tensor"):
        Session(tiny()).run(torch.zeros(1, 3, 3, dtype=torch.bfloat16))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([[0], [0, 1]], DTypeError, "got list$"),
        (None, DTypeError, "got NoneType$"),
        (np.ma.masked_array(PICTURE, PICTURE > 3), DTypeError, "got MaskedArray$"),
        (PICTURE.astype(object), DTypeError, "got object$"),
        (PICTURE.astype(">f4"), DTypeError, "got >f4$"),
        (PICTURE.astype(np.int8), DTypeError, "got int8$"),
        (np.uint8(3), ShapeError, r"got \[\]$"),
    ],
)
def test_what_is_no_picture(given: Any, error: type[Exception], message: str) -> None:
    for backend in ("native", "reference"):
        with pytest.raises(error, match="^Session.run: `array` must .*" + message):
            Session(tiny(), backend=cast(Any, backend)).run(given)


def test_arrays_in_any_order() -> None:
    batch = np.stack([PICTURE, PICTURE[:, ::-1], PICTURE])
    expected = Session(tiny()).run(batch.copy())
    wide = np.zeros((3, 1, 3, 6), np.uint8)
    wide[..., ::2] = batch

    class Own(np.ndarray[Any, Any]):
        pass

    for given in (np.asfortranarray(batch), wide[..., ::2], batch.view(Own), batch[::-1][::-1]):
        np.testing.assert_array_equal(Session(tiny()).run(given), expected)
        got = Session(tiny()).run(given)
        assert type(got) is np.ndarray


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_output_in_the_memory_of_the_input(dtype: Any) -> None:
    rng = np.random.default_rng(5)
    given = rng.integers(0, 256, (40, 1, 3, 3)).astype(dtype)
    expected = Session(tiny()).run(given)
    shared = np.zeros(40 * 9 * 4, np.uint8)
    held = shared[: given.nbytes].view(dtype).reshape(given.shape)
    held[:] = given
    out = shared[: 40 * 2 * 4].view(np.float32).reshape(40, 2)
    np.testing.assert_array_equal(Session(tiny()).run(held, out=out), expected)


def test_outputs_that_cannot_be_filled() -> None:
    unaligned = np.zeros(9, np.uint8)[1:].view(np.float32).reshape(1, 2)
    with pytest.raises(ShapeError, match=r"must be contiguous of shape \[1, 2\], got \[1, 2\]"):
        Session(tiny()).run(PICTURE, out=unaligned)
    with pytest.raises(DTypeError, match="must be a writable float32 array, got float32"):
        Session(tiny()).run(PICTURE, out=np.ma.masked_array(np.zeros((1, 2), np.float32)))


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_memory_for_one_image(backend: Any) -> None:
    graph = heavy(16, 4)
    # The values x and y, in native kernels with borders.
    with pytest.raises(
        ConfigError,
        match=r"^Session: `memory` must be at least \d{4} bytes for this network, got 2000$",
    ):
        Session(graph, backend=backend, memory=2000)
    session = Session(graph, backend=backend, memory=Session(graph).arena_bytes)
    given = np.zeros((1, *graph.input_value.shape), np.uint8)
    assert session.run(given).shape == (1, 4)


def test_a_small_file_that_asks_for_much_memory() -> None:
    """200 values of 64 MiB that all live until the end."""
    side = 8192
    values = [Value(name="x", shape=(1, 8, 8), scale=0.5, zero_point=0)]
    nodes: list[Node] = []
    for number in range(200):
        name = f"r{number}"
        values.append(Value(name=name, shape=(1, side, side), scale=0.5, zero_point=0))
        nodes.append(Repeat(name=name, input="x", output=name, factor=side // 8))
    total = Value(name="all", shape=(200, 1, 1), scale=0.5, zero_point=0)
    for number in range(200):
        name = f"m{number}"
        values.append(replace(total, name=name, shape=(1, 1, 1)))
        pool = {"kernel": (side, side), "stride": (1, 1), "padding": (0, 0)}
        one = np.zeros(1, np.uint8)
        nodes.append(MaxPool(name=name, input=f"r{number}", output=name, minimum=one, **pool))
    values.append(total)
    nodes.append(
        Concat(
            name="all",
            input="m0",
            others=tuple(f"m{number}" for number in range(1, 200)),
            output="all",
            order=np.arange(200, dtype=np.int32),
        )
    )
    graph = lined_up(values[0], *nodes, values=tuple(values[1:]))
    assert len(artifact.to_bytes(graph)) < 200_000
    with pytest.raises(
        ConfigError, match=r"^Session: `memory` must be at least 134\d{8} bytes for"
    ):
        Session(graph, threads=1)


def test_threads_share_images_where_memory_is_short() -> None:
    graph = heavy(64, 8)
    given = np.random.default_rng(0).integers(0, 256, (5, 8, 64, 64), dtype=np.uint8)
    expected = Session(graph, threads=1).run(given)
    for images in (1, 2, 3):
        memory = images * Session(graph).arena_bytes
        np.testing.assert_array_equal(Session(graph, threads=3, memory=memory).run(given), expected)


@pytest.mark.parametrize("name", ["threads", "memory"])
@pytest.mark.parametrize("value", [0, -1, 1.0, True, "1", 2**63, np.int64(2)])
def test_wrong_limits(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^Session: `{name}` must be an int in 1.."):
        Session(tiny(), **{name: value})


def test_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise MemoryError("std::bad_alloc")

    session = Session(tiny(), backend="reference")
    monkeypatch.setattr(reference, "run_all", fail)
    with pytest.raises(
        OutOfMemoryError, match=r"^Session.run: the network must fit into the memory .*bad_alloc"
    ):
        session.run(PICTURE)
    monkeypatch.setattr(session_module, "compiled", fail)
    with pytest.raises(OutOfMemoryError, match=r"^Session: the network must fit into the memory"):
        Session(tiny())


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_no_memory_for_the_logits(backend: Any) -> None:
    many = np.broadcast_to(np.zeros((1, 3, 3), np.uint8), (2**45, 1, 3, 3))
    with pytest.raises(OutOfMemoryError, match=r"^Session.run: the network must fit .*allocate"):
        Session(tiny(), backend=backend).run(many)


def naive_windows(
    x: np.ndarray[Any, Any], kernel: Any, stride: Any, padding: Any, fill: int
) -> Any:
    border = ((0, 0), (padding[0],) * 2, (padding[1],) * 2, (0, 0))
    padded = np.pad(x, border, constant_values=fill)
    view = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(1, 2))
    return view[:, :: stride[0], :: stride[1]]


@pytest.mark.parametrize("kernel", [(13, 13), (20, 1), (1, 19), (16, 9), (21, 23), (2, 3)])
@pytest.mark.parametrize(("stride", "half"), [((1, 1), False), ((2, 3), True), ((1, 2), True)])
def test_large_windows(kernel: Any, stride: Any, half: bool) -> None:
    """Running maxima and sums give what each window by itself gives."""
    rng = np.random.default_rng(kernel[0])
    x = Value(name="x", shape=(3, 21, 23), scale=0.5, zero_point=9)
    padding = (kernel[0] // 2, kernel[1] // 2) if half else (0, 0)
    given = rng.integers(0, 256, (2, 3, 21, 23), dtype=np.uint8)
    channels_last = given.transpose(0, 2, 3, 1)
    for minimum in ([0, 0, 0], [0, 1, 1]):
        largest = naive_windows(channels_last, kernel, stride, padding, 0).max(axis=(-1, -2))
        smallest = naive_windows(channels_last, kernel, stride, padding, 255).min(axis=(-1, -2))
        expected = np.where(np.array(minimum) == 1, smallest, largest)
        pool = MaxPool(
            name="pool",
            input="x",
            output="y",
            kernel=kernel,
            stride=stride,
            padding=padding,
            minimum=array(minimum, "uint8"),
        )
        y = replace(x, name="y", shape=(3, *expected.shape[1:3]))
        assert_integers(lined_up(x, pool, values=(y,)), given, expected)
    windows = naive_windows(channels_last, kernel, stride, (0, 0), 0)
    factor = 2**20 // (kernel[0] * kernel[1])
    mean = Mean(
        name="mean",
        input="x",
        output="y",
        kernel=kernel,
        stride=stride,
        multiplier=factor,
        offset=0,
        shift=20,
        clamp_min=0,
        clamp_max=255,
    )
    total = windows.sum(axis=(-1, -2), dtype=np.int64)
    expected = np.clip((total * factor + 2**19) >> 20, 0, 255)
    y = replace(x, name="y", shape=(3, *expected.shape[1:3]))
    assert_integers(lined_up(x, mean, values=(y,)), given, expected)


def assert_integers(graph: Graph, given: Any, expected: np.ndarray[Any, Any]) -> None:
    flat = expected.reshape(len(expected), -1)
    np.testing.assert_array_equal(reference.run(graph, given), flat)
    for threads in (1, 2):
        session = Session(graph, threads=threads)
        np.testing.assert_array_equal(session.run(given), flat)
        assert [row.name for row in session.profile(given, runs=1)] == [
            "input",
            graph.nodes[0].name,
            "fc",
        ]


class _StopError(Exception):
    pass


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("method", ["run", "profile"])
def test_signals_are_handled_during_a_long_run(threads: int, method: str) -> None:
    """The run ends with what the handler raises, and the next one is right."""
    graph = heavy(64, 16)
    session = Session(graph, threads=threads)
    rng = np.random.default_rng(1)
    given = rng.integers(0, 256, (2, 16, 64, 64), dtype=np.uint8)
    # Seconds, all the same picture.
    many = np.ascontiguousarray(np.broadcast_to(given[0], (1000, 16, 64, 64)))

    def handle(number: int, frame: object) -> None:
        raise _StopError

    before = signal.signal(signal.SIGALRM, handle)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        with pytest.raises(_StopError):
            session.run(many) if method == "run" else session.profile(many, runs=1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    np.testing.assert_array_equal(session.run(given), reference.run(graph, given))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_signal_handler_runs_the_session_that_it_interrupts(dtype: Any) -> None:
    graph = heavy(64, 16)
    session = Session(graph, threads=2)
    rng = np.random.default_rng(1)
    given = rng.integers(0, 256, (1, 16, 64, 64), dtype=np.uint8).astype(dtype)
    many = np.ascontiguousarray(np.broadcast_to(given, (400, 16, 64, 64)))
    expected = reference.run(graph, given)
    seen = []

    def handle(number: int, frame: object) -> None:
        seen.append(session._running)
        np.testing.assert_array_equal(session.run(given), expected)
        assert session.profile(given, runs=1)[0].name == "input"

    before = signal.signal(signal.SIGALRM, handle)
    try:
        while not any(seen):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            logits = session.run(many)
            np.testing.assert_array_equal(logits, np.repeat(expected, 400, axis=0))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not session._running


def run_script(script: str, argument: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[2]
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, argument],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


ENDS = """
import sys, threading
import numpy as np
from mulfree._native import core
from mulfree.runtime import Session
from tests.runtime.graphs import heavy

session = Session(heavy(64, 16), threads=2)
pictures = np.zeros((40, 16, 64, 64), np.uint8)
x = np.ones((40, 16, 32, 32), np.float32)
w = np.zeros((64, 16, 3, 3), np.float32)
out = np.empty((40, 64, 30, 30), np.float32)

def layer():
    core().adder2d_forward(x, w, out, (1, 1), (0, 0), (1, 1), 1, 1, "")

def work():
    while True:
        began.set()
        session.run(pictures) if sys.argv[1] == "session" else layer()

began = threading.Event()
threading.Thread(target=work, daemon=True).start()
began.wait()
"""


@pytest.mark.parametrize("what", ["session", "layer"])
def test_a_process_ends_while_daemon_threads_run(what: str) -> None:
    """Without a word: Python ends such threads in the middle of what they do."""
    done = run_script(ENDS, what)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


FORKS = """
import os, signal, sys, threading
import numpy as np
from mulfree._native import core
from mulfree.runtime import Session
from tests.runtime.graphs import heavy

signal.alarm(50)  # children inherit no alarm: each sets its own
graph = heavy(64, 8)
given = np.random.default_rng(0).integers(0, 256, (3, 8, 64, 64), dtype=np.uint8)
expected = Session(graph, threads=1).run(given)
session = Session(graph, threads=2)
x = np.ones((8, 16, 32, 32), np.float32)
w = np.zeros((16, 16, 3, 3), np.float32)

def layer():
    out = np.empty((8, 16, 30, 30), np.float32)
    core().adder2d_forward(x, w, out, (1, 1), (0, 0), (1, 1), 1, 2, "")
    return bool((out == -144).all())

def good():
    return all(np.array_equal(s.run(given), expected)
               for s in (session, Session(graph, threads=2), session)) and layer()

assert good()
busy = sys.argv[1] == "busy"
stop = threading.Event()

def work():
    while not stop.is_set():
        session.run(given)

if busy:
    thread = threading.Thread(target=work)
    thread.start()
    while not session._running:
        pass
for _ in range(5):
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        # A fork of a fork, too.
        grandchild = os.fork()
        if grandchild == 0:
            signal.alarm(10)
            os._exit(0 if good() else 3)
        fine = os.waitpid(grandchild, 0)[1] == 0 and good()
        os._exit(0 if fine else 3)
    status = os.waitpid(child, 0)[1]
    assert status == 0, status
child = os.fork()
if child == 0:
    print("child", flush=True)
    sys.exit()  # with all that an interpreter does at its end
assert os.waitpid(child, 0)[1] == 0
stop.set()
if busy:
    thread.join()
assert good()
print("fine")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("parent", ["idle", "busy"])
def test_forks(parent: str) -> None:
    done = run_script(FORKS, parent)
    assert (done.stdout, done.stderr) == ("child\nfine\n", "")
