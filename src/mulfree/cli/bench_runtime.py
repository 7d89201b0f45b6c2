"""`mulfree bench runtime`: networks of the runtime against convolutional ones elsewhere."""

from __future__ import annotations

import json
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

from mulfree import models
from mulfree.bench.candidates import make_candidates
from mulfree.bench.runtime_report import plot, report
from mulfree.bench.runtimes import bench_networks, check, memory_of
from mulfree.cli.arguments import Parser, file_path, positive, sizes
from mulfree.cli.output import print_text
from mulfree.cli.progress import progress
from mulfree.cost.counting import BASELINE
from mulfree.environment import environment
from mulfree.errors import BackendUnavailableError, ConfigError, choices_message
from mulfree.export import to_onnx
from mulfree.files import check_writable, write_atomically
from mulfree.operators import OPERATORS

SCHEMA = "mulfree.bench-runtime/1"

_MODELS = ("resnet18", "resnet34", "resnet50", "resnet20", "resnet32", "vgg_small")
_BATCHES, _THREADS = (1, 32), (1, 2)
_QUICK_MODELS, _QUICK_BATCHES, _QUICK_THREADS = ("resnet20",), (1,), (1,)

# Samples of each: a batch is long enough for a steady time.
_ROUNDS, _BATCH_ROUNDS, _QUICK_ROUNDS = 21, 7, 5

_LARGE_SIDE, _LARGE_CLASSES, _SMALL_CLASSES = 224, 1000, 10

_EPILOG = """\
Each network has random weights, is quantised to 8 bits, and runs as
  mulfree int8 adder2d, conv2d   in this package's runtime, from pixels
  torch fp32                     PyTorch, channels_last, inference_mode
  onnxruntime fp32, int8         ONNX Runtime; int8 is its static quantisation (QDQ, per channel)
taking turns in one run. "times as fast" compares with the fastest of the last three, which are
convolutional. Before it is timed, a network of the runtime must equal the reference bit for bit.
Memory is that of a process that does nothing else."""


def main(argv: list[str]) -> int:
    """Runs the suite with the words after its name."""
    parser = Parser("mulfree bench runtime", "Time whole networks without torch.", _EPILOG)
    parser.add_argument(
        "--models", type=_names, metavar="NAME,...", help=f"default: {','.join(_MODELS)}"
    )
    parser.add_argument("--batches", type=sizes, metavar="N,...", help="default: 1,32")
    parser.add_argument("--threads", type=sizes, metavar="N,...", help="default: 1,2")
    parser.add_argument("--operator", default="adder2d", help="default: adder2d")
    parser.add_argument(
        "--input-size", type=sizes, metavar="C,H,W", help="default: what a model is made for"
    )
    parser.add_argument(
        "--rounds",
        type=positive,
        metavar="N",
        help=f"samples of each (default: {_ROUNDS}, of batches {_BATCH_ROUNDS})",
    )
    parser.add_argument(
        "--quick", action="store_true", help=f"ResNet-20, one image, {_QUICK_ROUNDS} rounds"
    )
    parser.add_argument(
        "--output", type=file_path, metavar="FILE", help="write the result as JSON too"
    )
    parser.add_argument("--plot", type=file_path, metavar="FILE", help="write a picture, PNG")
    options = parser.parse_args(argv)
    _check(options)

    result = _measure(options)
    if options.output is not None:
        write_atomically(options.output, json.dumps(result, indent=1).encode() + b"\n")
    if options.plot is not None:
        plot(result, options.plot)
    print_text(report(result).rstrip("\n"))
    return 0


def _names(text: str) -> tuple[str, ...]:
    """Words separated by commas."""
    return tuple(text.split(","))


def _check(options: Namespace) -> None:
    known = models.list_models()
    for name in options.models or ():
        if name not in known:
            raise ConfigError(choices_message("bench", "--models", name, known))
    operators = [name for name in OPERATORS if name != BASELINE]
    if options.operator not in operators:
        raise ConfigError(choices_message("bench", "--operator", options.operator, operators))
    if options.input_size is not None and len(options.input_size) != 3:
        raise ConfigError(
            f"bench: `--input-size` must be three sizes C,H,W, got {options.input_size}"
        )
    for path in (options.output, options.plot):
        if path is not None:
            check_writable(path)
    try:
        import onnxruntime as onnxruntime
    except ModuleNotFoundError as error:
        raise BackendUnavailableError(
            "bench: `runtime` needs onnxruntime: pip install mulfree[onnx]"
        ) from error


def _measure(options: Namespace) -> dict[str, Any]:
    quick = options.quick
    names = options.models or (_QUICK_MODELS if quick else _MODELS)
    batches = options.batches or (_QUICK_BATCHES if quick else _BATCHES)
    threads = options.threads or (_QUICK_THREADS if quick else _THREADS)
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "environment": environment() | {"onnx": _versions()},
        "settings": {
            "models": list(names),
            "batches": list(batches),
            "threads": list(threads),
            "operator": options.operator,
            "baseline": BASELINE,
            "quick": quick,
        },
        "times": [],
        "files": [],
        "memory": [],
    }
    parts = len(names) * (1 + len(batches) * (len(threads) + 1))
    with progress(parts) as advance, tempfile.TemporaryDirectory() as folder:
        for name in names:
            side = models.image_size(name)
            size = options.input_size or (3, side, side)
            large = side >= _LARGE_SIDE
            advance(f"{name}: quantise and check")
            candidates = make_candidates(
                name,
                options.operator,
                Path(folder),
                input_size=size,
                num_classes=_LARGE_CLASSES if large else _SMALL_CLASSES,
                to_onnx=to_onnx,
            )
            check(candidates, size)
            result["files"].append(
                {"model": name, "bytes": {c.name: c.path.stat().st_size for c in candidates}}
            )
            for batch in batches:
                advance(f"{name}: memory, batch {batch}")
                memory = {
                    c.name: memory_of(c, batch=batch, threads=threads[0], input_size=size)
                    for c in candidates
                }
                result["memory"].append({"model": name, "batch": batch, "memory": memory})
                for count in threads:
                    advance(f"{name}: batch {batch}, threads {count}")
                    entry = bench_networks(
                        candidates,
                        batch=batch,
                        threads=count,
                        input_size=size,
                        rounds=_rounds(options, batch),
                    )
                    result["times"].append({"model": name, **entry})
    result["environment"]["load_average_after"] = environment()["load_average"]
    return result


def _rounds(options: Namespace, batch: int) -> int:
    if options.rounds is not None:
        return int(options.rounds)
    if options.quick:
        return _QUICK_ROUNDS
    return _ROUNDS if batch == 1 else _BATCH_ROUNDS


def _versions() -> dict[str, str]:
    import onnx
    import onnxruntime

    return {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
