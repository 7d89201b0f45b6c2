from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.compile

pytest.importorskip("triton")

# In a process of its own: here Triton's functions may be those of its interpreter, which nothing
# can compile.
PROGRAM = """
import json
import torch
import triton
import triton.language as tl
from mulfree._triton import Launch
from benchmarks.gpu import compile_offline, rates, sass
from mulfree.bench.correctness import BenchmarkError

@triton.jit
def distance(x, w, y, count, stride, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    total = tl.zeros((SIZE,), tl.float32)
    for step in range(count):
        total += tl.abs(tl.load(x + step * stride + at) - tl.load(w + at))
    tl.store(y + at, total)

@triton.jit
def broken(x, SIZE: tl.constexpr):
    tl.store(x + tl.arange(0, SIZE), missing)

def launch(**sizes):
    tensors = {name: torch.empty(4096, device="meta") for name in "xwy"}
    return Launch(kernel=distance, grid=(1, 1, 1), arguments={**tensors, **sizes},
                  constants={"SIZE": 128}, warps=1)

found = {
    f"stride {stride}": compile_offline.describe(
        compile_offline.compile_launch(launch(count=7, stride=stride), 90), sass.forward_taps
    )
    for stride in (16, 3)
}
out = torch.empty(rates.BLOCK, dtype=torch.int32, device="meta")
found["rates"] = [
    {
        "name": rate.name,
        "capability": capability,
        "opcodes": rate.opcodes,
        **compile_offline.describe(
            compile_offline.compile_launch(rates.launch_of(rate, out), capability)
        ),
    }
    for rate in rates.RATES
    for capability in (compile_offline.CAPABILITIES if "vabsdiff4" in rate.name else [90])
]
try:
    compile_offline.compile_launch(
        Launch(kernel=broken, grid=(1, 1, 1), arguments={"x": out}, constants={"SIZE": 8}), 80
    )
except BenchmarkError as error:
    found["error"] = str(error)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    # Triton reads the source of a kernel from its file.
    folder = tmp_path_factory.mktemp("offline")
    program = folder / "program.py"
    program.write_text(PROGRAM)
    variables = {**os.environ, "TRITON_CACHE_DIR": str(folder / "cache")}
    variables.pop("TRITON_INTERPRET", None)
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, str(program)], env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_a_kernel_is_described(found: dict[str, Any]) -> None:
    kernel = found["stride 16"]
    assert (kernel["kernel"], kernel["capability"], kernel["warps"]) == ("distance", 90, 1)
    assert 0 < kernel["registers"] <= 64
    assert kernel["spill_bytes"] == kernel["spill_instructions"] == kernel["shared_bytes"] == 0
    # A block of one warp: the number of blocks is what limits it.
    assert kernel["occupancy"] == 0.5
    loop = kernel["hottest_loop"]
    # 128 taps of 32 threads, or several times that where the loop was unrolled.
    assert loop["taps"] % 4 == 0
    assert loop["arithmetic_per_tap"] == 2.0
    assert loop["instructions"] < kernel["instructions"]


def test_what_triton_specialises_on_is_specialised_on(found: dict[str, Any]) -> None:
    loads = [found[f"stride {stride}"]["hottest_loop"]["mix"] for stride in (16, 3)]
    # Rows that begin at a multiple of 16 are read four numbers at a time.
    assert ["LDG.E.128" in mix for mix in loads] == [True, False]
    assert "LDG.E" in loads[1]


def test_the_loops_of_the_rates_are_the_instructions_they_claim(found: dict[str, Any]) -> None:
    steps = 16 * 1024 // 128
    for rate in found["rates"]:
        mix = rate["hottest_loop"]["mix"]
        names: dict[str, int] = {}
        for opcode, count in mix.items():
            name = opcode.partition(".")[0]
            # A half float's sum is an FMA with a factor of 1 where that pipe is free.
            name = "HADD2 or HFMA2" if name in ("HADD2", "HFMA2") else name
            names[name] = names.get(name, 0) + count
        claimed: dict[str, int] = {}
        for name in rate["opcodes"]:
            name = "HADD2 or HFMA2" if name in ("HADD2", "HFMA2") else name
            claimed[name] = claimed.get(name, 0) + steps
        where = (rate["name"], rate["capability"], mix)
        assert {name: names.get(name) for name in claimed} == claimed, where
        # The rest counts the trips, and is next to nothing.
        assert rate["hottest_loop"]["instructions"] - sum(claimed.values()) <= 5, where
        # All blocks of a multiprocessor run at once.
        assert rate["registers"] <= 40
        assert rate["spill_bytes"] == 0


def test_a_kernel_that_does_not_compile(found: dict[str, Any]) -> None:
    assert found["error"].startswith("sass: broken does not compile for sm_80: at 2:")
    assert "missing is not defined" in found["error"]
    assert "\n" not in found["error"]
