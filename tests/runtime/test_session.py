from __future__ import annotations

import contextlib
import copy
import io
import math
import os
import pickle
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, cast

import numpy as np
import pytest
import torch
from tests.runtime.graphs import array, heavy, lined_up, random_graph, tiny

from mulfree.errors import (
    BackendUnavailableError,
    ConfigError,
    DTypeError,
    OutOfMemoryError,
    ShapeError,
)
from mulfree.nodes import Value
from mulfree.nodes.max_pool import MaxPool
from mulfree.nodes.mean import Mean
from mulfree.runtime import Session, artifact, programs, reference, save
from mulfree.runtime.session import default_threads

PICTURE = np.arange(9, dtype=np.uint8).reshape(1, 3, 3)
BY_HAND = [[33.0, -89.0]]


def test_sources(tmp_path: Path) -> None:
    path, content = tmp_path / "tiny", artifact.to_bytes(tiny())
    path.write_bytes(content)
    buffers = (content, bytearray(content), memoryview(content), io.BytesIO(content))
    for source in (tiny(), path, str(path), *buffers):
        assert Session(source).run(PICTURE).tolist() == BY_HAND
    with path.open("rb") as file:
        assert Session(file, threads=2).run(PICTURE).tolist() == BY_HAND


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_shapes_of_input_and_output(backend: Any) -> None:
    session = Session(tiny(), backend=backend)
    assert session.run(PICTURE[None][:0]).shape == (0, 2)
    assert session.run(PICTURE).tolist() == BY_HAND
    out = np.full((2, 2), np.nan, np.float32)
    assert session.run(np.stack([PICTURE] * 2), out=out) is out
    assert out.tolist() == BY_HAND * 2


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_arrays_in_any_order(backend: Any) -> None:
    class Own(np.ndarray[Any, Any]):
        pass

    # Steps of 0.5 around the zero 2: the real number (q - 2) / 2 becomes q.
    floats = ((PICTURE.astype(np.float32) - 2) / 2).astype(np.float32)
    session = Session(tiny(), backend=backend)
    for picture in (PICTURE, floats):
        batch = np.stack([picture, np.zeros_like(picture), picture])
        expected = session.run(batch)
        assert expected[[0, 2]].tolist() == BY_HAND * 2
        wide = np.zeros((3, 1, 3, 6), batch.dtype)
        wide[..., ::2] = batch
        frozen = batch.copy()
        frozen.flags.writeable = False
        fortran = np.asfortranarray(batch)
        for given in (fortran, wide[..., ::2], batch.view(Own), batch[::-1][::-1], frozen):
            got = session.run(given)
            assert type(got) is np.ndarray
            np.testing.assert_array_equal(got, expected)


class _Unreadable:
    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NoReturn:
        raise ValueError("no numbers")


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        *(
            (np.zeros(shape, np.uint8), ShapeError, r"have shape \[N, 1, 3, 3\], got \[")
            for shape in ((), (1, 3), (2, 3, 3), (1, 1, 4, 3), (1, 1, 1, 3, 3))
        ),
        *(
            (PICTURE.astype(dtype), DTypeError, f"be a uint8 or float32 array, got {dtype}$")
            for dtype in ("int8", "float64", "float16", "bool", ">f4", "object")
        ),
        ([[0], [0, 1]], DTypeError, "got list$"),
        (np.ma.masked_array(PICTURE, PICTURE > 3), DTypeError, "got MaskedArray$"),
        (torch.zeros(1, 3, 3, requires_grad=True), DTypeError, r"\.numpy\(\)\), got Tensor \(Can"),
        (torch.zeros(1, 3, 3, dtype=torch.bfloat16), DTypeError, "got Tensor"),
        (_Unreadable(), DTypeError, r"got _Unreadable \(no numbers\)$"),
    ],
)
def test_wrong_inputs(given: Any, error: type[Exception], message: str, backend: Any) -> None:
    with pytest.raises(error, match="^Session.run: `array` must .*" + message):
        Session(tiny(), backend=backend).run(given)


def test_tensors_of_torch() -> None:
    assert Session(tiny()).run(cast(Any, torch.from_numpy(PICTURE))).tolist() == BY_HAND


READ_ONLY = np.zeros((1, 2), np.float32)
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        (np.zeros((2, 2), "f4"), ShapeError, r"contiguous of shape \[1, 2\], got \[2, 2\]"),
        (np.zeros((1, 4), "f4")[:, ::2], ShapeError, r"contiguous of shape \[1, 2\], got \[1, 2\]"),
        (np.zeros(9, np.uint8)[1:].view("f4").reshape(1, 2), ShapeError, "contiguous of shape"),
        (np.zeros((1, 2)), DTypeError, "a writable float32 array, got float64"),
        ([[0.0, 0.0]], DTypeError, "a writable float32 array, got list"),
        (READ_ONLY, DTypeError, "a writable float32 array, got float32"),
        (np.ma.masked_array([[0.0, 0.0]], dtype="f4"), DTypeError, "a writable float32 array, got"),
    ],
)
def test_wrong_outputs(out: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match="^Session.run: `out` must be " + message):
        Session(tiny()).run(PICTURE, out=out)


@pytest.mark.parametrize(("name", "high"), [("threads", 1024), ("memory", 2**62)])
@pytest.mark.parametrize("value", [0, -1, 1.0, True, "1", 2**63, np.int64(2)])
def test_wrong_limits(name: str, high: int, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^Session: `{name}` must be an int in 1..{high}, got "):
        Session(tiny(), **{name: value})


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_memory_for_one_image(backend: Any) -> None:
    assert Session(tiny(), backend=backend).memory == 2**31
    graph = heavy(16, 4)
    # The values x and y, in native kernels with borders.
    line = r"^Session: `memory` must be at least \d{4} bytes for this network, got 2000$"
    with pytest.raises(ConfigError, match=line):
        Session(graph, backend=backend, memory=2000)
    session = Session(graph, backend=backend, memory=Session(graph).arena_bytes)
    given = np.zeros((1, *graph.input_value.shape), np.uint8)
    assert session.run(given).shape == (1, 4)


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


def test_wrong_backend() -> None:
    line = r"`backend` must be one of native, reference, got 'nativ"
    with pytest.raises(ConfigError, match=line):
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


def test_profile_needs_a_picture() -> None:
    line = r"^Session.profile: `array` must hold an image, got \[0, "
    with pytest.raises(ShapeError, match=line):
        Session(tiny()).profile(PICTURE[None][:0])
    with pytest.raises(ConfigError, match=r"^Session.profile: `runs` must be at least 1, got 0"):
        Session(tiny()).profile(PICTURE, runs=0)


def test_a_run_allocates_nothing() -> None:
    """Beyond the output, that is: with `out` the process keeps its size."""
    graph = heavy(64, 8)
    session = Session(graph, threads=1)
    given = np.zeros((4, *graph.input_value.shape), np.uint8)
    for batch in (given, given.astype(np.float32)):
        out = session.run(batch)
        tracemalloc.start()
        session.run(batch, out=out)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < batch.nbytes / 4


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
    with session._lock:
        assert copy.deepcopy(session).run(PICTURE).tolist() == BY_HAND


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_output_in_the_memory_of_the_input(dtype: Any) -> None:
    rng = np.random.default_rng(5)
    given = rng.integers(0, 256, (40, 1, 3, 3)).astype(dtype)
    expected = Session(tiny()).run(given)
    shared = np.zeros(40 * 9 * 4, np.uint8)
    held = shared[: given.nbytes].view(dtype).reshape(given.shape)
    held[:] = given
    # The first logits lie in a later image.
    out = shared[40 : 40 + 40 * 2 * 4].view(np.float32).reshape(40, 2)
    np.testing.assert_array_equal(Session(tiny()).run(held, out=out), expected)


def test_threads_share_images_where_memory_is_short() -> None:
    graph = heavy(64, 8)
    given = np.random.default_rng(0).integers(0, 256, (5, 8, 64, 64), dtype=np.uint8)
    expected = Session(graph, threads=1).run(given)
    for images in (1, 2, 3):
        memory = images * Session(graph).arena_bytes
        np.testing.assert_array_equal(Session(graph, threads=3, memory=memory).run(given), expected)


def test_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise MemoryError("std::bad_alloc")

    session = Session(tiny(), backend="reference")
    monkeypatch.setattr(reference, "run_all", fail)
    line = r"^Session.run: the network must fit into the memory .*bad_alloc"
    with pytest.raises(OutOfMemoryError, match=line):
        session.run(PICTURE)
    monkeypatch.setattr(programs, "compiled", fail)
    with pytest.raises(OutOfMemoryError, match=r"^Session: the network must fit into the memory"):
        Session(tiny())


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_no_memory_for_the_logits(backend: Any) -> None:
    many = np.broadcast_to(np.zeros((1, 3, 3), np.uint8), (2**45, 1, 3, 3))
    with pytest.raises(OutOfMemoryError, match=r"^Session.run: the network must fit .*allocate"):
        Session(tiny(), backend=backend).run(many)


@pytest.mark.parametrize("kernel", [(13, 13), (20, 1), (1, 19), (16, 9), (21, 23), (2, 3)])
@pytest.mark.parametrize(("stride", "half"), [((1, 1), False), ((2, 3), True), ((1, 2), True)])
def test_large_windows(kernel: Any, stride: Any, half: bool) -> None:
    """Running maxima and sums of the kernels equal the definition."""
    x = Value(name="x", shape=(3, 21, 23), scale=0.5, zero_point=9)
    given = np.random.default_rng(kernel[0]).integers(0, 256, (2, *x.shape), dtype=np.uint8)
    padding = (kernel[0] // 2, kernel[1] // 2) if half else (0, 0)
    common: dict[str, Any] = {"name": "n", "input": "x", "output": "y"}
    common |= {"kernel": kernel, "stride": stride}
    factors = {"multiplier": 2**20 // math.prod(kernel), "offset": 0, "shift": 20}
    for node in (
        MaxPool(**common, padding=padding, minimum=array([0, 1, 1], "uint8")),
        Mean(**common, **factors, clamp_min=0, clamp_max=255),
    ):
        y = replace(x, name="y", shape=node.output_shape({"x": x}))
        graph = lined_up(x, node, values=(y,))
        expected = reference.run(graph, given)
        for threads in (1, 2):
            np.testing.assert_array_equal(Session(graph, threads=threads).run(given), expected)


class _StopError(Exception):
    pass


@contextlib.contextmanager
def alarms(handle: Callable[[int, Any], None]) -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, handle)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


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

    with alarms(handle):
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        with pytest.raises(_StopError):
            session.run(many) if method == "run" else session.profile(many, runs=1)
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

    with alarms(handle):
        while not any(seen):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            logits = session.run(many)
            np.testing.assert_array_equal(logits, np.repeat(expected, 400, axis=0))
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
