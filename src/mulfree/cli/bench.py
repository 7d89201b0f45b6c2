"""`mulfree bench`: time an operator and a training step against the convolution."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Optimizer

from mulfree import models
from mulfree._native import core
from mulfree.bench.correctness import BenchmarkError
from mulfree.bench.operators import (
    BenchLayer,
    bench_isas,
    bench_layer,
    layers_of,
    summarise,
)
from mulfree.bench.report import report
from mulfree.bench.steps import MIN_BATCH, How, bench_step, step_memory
from mulfree.cli.arguments import Parser, file_path, positive, sizes, threads
from mulfree.cli.output import print_text
from mulfree.cli.progress import progress
from mulfree.cost.counting import BASELINE
from mulfree.environment import ISA_VARIABLE, environment, variables
from mulfree.errors import BackendUnavailableError, ConfigError, choices_message
from mulfree.files import check_writable, write_atomically
from mulfree.operators import OPERATORS, get_operator
from mulfree.training import AdaptiveLocalLR

SCHEMA = "mulfree.bench/1"

SUITES = ("operator", "isa", "step", "memory")

# Networks, and images in a batch, whose layers the operator is timed on.
_NETWORKS = {"resnet20": 128, "resnet18": 8}
_STEP_NETWORK = "resnet20"
_QUICK_BATCH = 8
_ROUNDS, _QUICK_ROUNDS = 15, 3

# The convolution is held to the instruction set that the operator is held to.
_ONEDNN_ISA = {"avx2": "AVX2", "scalar": "SSE41"}

_EPILOG = """\
operator  forward, and forward with backward, on the layers of ResNet-20 (batch 128) and
          ResNet-18 (batch 8), on inputs as after a rectifier and on signed ones
isa       the same passes by each instruction set of this processor, layers of ResNet-20
step      a whole training step of ResNet-20, batch 128, against the convolutional network's
memory    peak memory of training steps, on a CPU each network in a process of its own
runtime   whole networks without torch against other libraries; not part of all, and with options
          of its own: mulfree bench runtime -h

Every geometry is first checked against the definition in float64; a wrong kernel is not timed.
Ratios are to the convolution of the same geometry, timed in turns with the operator.
With --device cuda the convolution is cuDNN's, without TF32, and isa is left out; number formats,
compiled steps and the device's own limits are measured by benchmarks/gpu.sh."""


def main(argv: list[str]) -> int:
    """Run the verb."""
    if argv[:1] == ["runtime"]:
        # Only this suite needs ONNX Runtime.
        from mulfree.cli import bench_runtime

        return bench_runtime.main(argv[1:])
    parser = Parser("mulfree bench", "Time an operator against the convolution.", _EPILOG)
    parser.add_argument(
        "suite", nargs="?", choices=(*SUITES, "all"), default="all", help="default: all"
    )
    parser.add_argument("--operator", default="adder2d", help="default: adder2d")
    parser.add_argument("--model", metavar="NAME", help="network, instead of those named below")
    parser.add_argument("--batch", type=positive, metavar="N", help="images in a batch")
    parser.add_argument("--input-size", type=sizes, metavar="C,H,W", help="shape of one image")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="where (default: cpu)"
    )
    parser.add_argument("--threads", type=threads, metavar="N", help="default: torch's")
    parser.add_argument("--isa", help="force one instruction set, on the convolution too")
    parser.add_argument(
        "--rounds", type=positive, metavar="N", help=f"samples of each (default: {_ROUNDS})"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"ResNet-20, batch {_QUICK_BATCH}, {_QUICK_ROUNDS} rounds",
    )
    parser.add_argument(
        "--output", type=file_path, metavar="FILE", help="write the result as JSON too"
    )
    options = parser.parse_args(argv)
    _check(options)

    with _machine(options.threads, options.isa):
        result = _measure(options)
    if options.output is not None:
        write_atomically(options.output, json.dumps(result, indent=1).encode() + b"\n")
    print_text(report(result).rstrip("\n"))
    return 0


def sgd(network: nn.Module) -> Optimizer:
    """The papers' optimiser, with a rate so small that random labels cannot make it diverge."""
    optimizer = SGD(network.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4)
    return AdaptiveLocalLR(optimizer)


def measure_memory(arguments: str) -> str:
    """What the process of its own does for `memory`: JSON in, JSON out."""
    settings = json.loads(arguments)
    torch.set_num_threads(settings.pop("threads"))
    return json.dumps(step_memory(**settings, make_optimizer=sgd))


def _check(options: Namespace) -> None:
    operators = [name for name in OPERATORS if name != BASELINE]
    if options.operator not in operators:
        raise ConfigError(choices_message("bench", "--operator", options.operator, operators))
    if options.model is not None and options.model not in models.list_models():
        raise ConfigError(choices_message("bench", "--model", options.model, models.list_models()))
    if options.device == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailableError("bench: `--device` must be cpu where torch finds no CUDA GPU")
    if options.device == "cuda" and (options.isa is not None or options.suite == "isa"):
        raise ConfigError("bench: `--device` must be cpu for instruction sets, got cuda")
    isas = core().supported_isas() if options.isa is not None else []
    if options.isa is not None and options.isa not in isas:
        raise ConfigError(choices_message("bench", "--isa", options.isa, isas))
    if options.isa is not None and options.suite == "isa":
        raise ConfigError("bench: `--isa` must be left out of the comparison of instruction sets")
    if (options.batch or MIN_BATCH) < MIN_BATCH and options.suite not in ("operator", "isa"):
        raise ConfigError(
            f"bench: `--batch` must be at least {MIN_BATCH} for training steps, got {options.batch}"
        )
    if options.output is not None:
        check_writable(options.output)


@contextlib.contextmanager
def _machine(threads: int | None, isa: str | None) -> Iterator[None]:
    """Threads and instruction set as asked for, and as they were afterwards."""
    held = {} if isa is None else {ISA_VARIABLE: isa}
    if isa in _ONEDNN_ISA:
        held["ONEDNN_MAX_CPU_ISA"] = _ONEDNN_ISA[isa]
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        with variables(held):
            yield
    finally:
        torch.set_num_threads(before)


def _measure(options: Namespace) -> dict[str, Any]:
    chosen = SUITES if options.suite == "all" else (options.suite,)
    device = torch.device(options.device)
    with_isas = options.isa is None and device.type == "cpu"
    suites = [suite for suite in chosen if suite != "isa" or with_isas]
    operator = get_operator(options.operator)
    rounds = options.rounds or (_QUICK_ROUNDS if options.quick else _ROUNDS)
    step_network = options.model or _STEP_NETWORK
    step = {
        "model": step_network,
        "operator": options.operator,
        "batch": _batch(options, step_network),
        "input_size": _size(options, step_network),
    }
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "environment": environment(),
        "settings": {
            "operator": options.operator,
            "baseline": BASELINE,
            "suites": suites,
            "rounds": rounds,
            "device": device.type,
            "threads": torch.get_num_threads(),
            "isa": options.isa,
            "quick": options.quick,
        },
    }
    layers = _layers(options) if {"operator", "isa"} & set(suites) else []
    of_first = [layer for layer in layers if layer.model == layers[0].model]
    steps = {"operator": len(layers), "isa": len(of_first), "step": 1, "memory": 2}
    with progress(sum(steps[suite] for suite in suites)) as advance:
        if "memory" in suites:
            result["memory"] = _compare_memory(step, device, advance)
        if "operator" in suites:
            entries = []
            for layer in layers:
                advance(f"{layer.model} {layer.window}")
                entries += bench_layer(operator, layer, rounds=rounds, device=device)
            result["operator"] = {"summary": summarise(entries), "layers": entries}
        if "isa" in suites:
            result["isa"] = []
            for layer in of_first:
                advance(f"{layer.window} by instruction set")
                result["isa"] += bench_isas(
                    operator, layer, core().supported_isas(), rounds=min(rounds, _QUICK_ROUNDS)
                )
        if "step" in suites:
            advance(f"training step of {step_network}")
            result["step"] = bench_step(
                **step, rounds=rounds, make_optimizer=sgd, how=How(device=device)
            )
    result["environment"]["load_average_after"] = environment()["load_average"]
    return result


def _layers(options: Namespace) -> list[BenchLayer]:
    networks = [_STEP_NETWORK] if options.quick else list(_NETWORKS)
    layers = []
    for network in [options.model] if options.model is not None else networks:
        layers += layers_of(
            network,
            options.operator,
            batch=_batch(options, network),
            input_size=_size(options, network),
        )
    return layers


def _batch(options: Namespace, network: str) -> int:
    if options.batch is not None:
        return int(options.batch)
    return _QUICK_BATCH if options.quick else _NETWORKS.get(network, _QUICK_BATCH)


def _size(options: Namespace, network: str) -> tuple[int, ...]:
    side = models.image_size(network)
    return options.input_size or (3, side, side)


def _compare_memory(
    step: dict[str, Any], device: torch.device, advance: Callable[[str], None]
) -> dict[str, Any]:
    entry: dict[str, Any] = {"model": step["model"], "batch": step["batch"]}
    for operator in (step["operator"], BASELINE):
        advance(f"memory of {step['model']} {operator}")
        entry[operator] = _memory_of({**step, "operator": operator}, device)
    entry["ratio"] = entry[step["operator"]]["added"] / max(1, entry[BASELINE]["added"])
    return entry


def _memory_of(step: dict[str, Any], device: torch.device) -> dict[str, int]:
    if device.type == "cuda":
        # Its allocator counts for itself; the operating system only knows of whole processes.
        return step_memory(**step, make_optimizer=sgd, how=How(device=device))
    program = "import sys; from mulfree.cli import bench; print(bench.measure_memory(sys.argv[1]))"
    settings = json.dumps({**step, "threads": torch.get_num_threads()})
    done = subprocess.run(
        [sys.executable, "-c", program, settings], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()[-1:] or [f"status {done.returncode}"]
        raise BenchmarkError(f"bench: memory of {step['operator']} was not measured: {reason[0]}")
    memory: dict[str, int] = json.loads(done.stdout)
    return memory
