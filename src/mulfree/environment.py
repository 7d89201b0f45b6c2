"""Environment of a measurement: versions, processor, GPU, kernels, threads, load, commit."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

import mulfree
from mulfree._native import core
from mulfree.errors import BackendUnavailableError

# Forces one instruction set; the native kernels read it at each call.
ISA_VARIABLE = "MULFREE_ISA"

PACKAGES = (
    "torch",
    "lightning",
    "jsonargparse",
    "numpy",
    "safetensors",
    "triton",
    "onnx",
    "onnxruntime",
    "optuna",
)


def environment() -> dict[str, Any]:
    """The facts to publish with a measurement, as JSON values."""
    return {
        "versions": versions(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "gpu": gpu(),
        "native": native(),
        "commit": commit(),
    }


def versions() -> dict[str, str | None]:
    """Versions of Python, mulfree and its dependencies; None if not installed."""
    found: dict[str, str | None] = {
        "python": platform.python_version(),
        "mulfree": mulfree.__version__,
    }
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def cpu_model() -> str:
    """Name of the processor."""
    description = Path("/proc/cpuinfo")
    if description.exists():
        for line in description.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    if sys.platform == "darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    return platform.processor() or platform.machine()


def gpu() -> dict[str, Any] | None:
    """The current CUDA device and its driver; None without one.

    Clocks are the device's maxima; None if unknown.
    """
    if not torch.cuda.is_available():
        return None
    device = torch.cuda.get_device_properties()
    smi = _nvidia_smi(f"GPU-{device.uuid}")
    return {
        "name": device.name,
        "devices": torch.cuda.device_count(),
        "capability": f"{device.major}.{device.minor}",
        "multiprocessors": device.multi_processor_count,
        "memory_bytes": device.total_memory,
        "driver": smi.get("driver_version"),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "sm_clock_mhz": _integer(smi.get("clocks.max.sm")),
        "memory_clock_mhz": _integer(smi.get("clocks.max.memory")),
    }


def _nvidia_smi(device: str) -> dict[str, str]:
    """Fields that `nvidia-smi` reports for a device; empty if it is not installed."""
    fields = ("driver_version", "clocks.max.sm", "clocks.max.memory")
    line = _output(
        "nvidia-smi",
        f"--id={device}",
        f"--query-gpu={','.join(fields)}",
        "--format=csv,noheader,nounits",
    )
    values = (line or "").split(", ")
    return dict(zip(fields, values, strict=True)) if len(values) == len(fields) else {}


def _integer(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


def native() -> dict[str, Any]:
    """State of the native kernels: built or not, instruction sets, the one in use."""
    try:
        isas = list(core().supported_isas())
    except (BackendUnavailableError, ValueError) as error:
        return {"available": False, "isas": [], "isa": None, "reason": str(error)}
    chosen = os.environ.get(ISA_VARIABLE) or isas[0]
    reason = None if chosen in isas else f"{ISA_VARIABLE}={chosen} does not run here"
    return {"available": True, "isas": isas, "isa": chosen, "reason": reason}


@contextlib.contextmanager
def variables(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the duration of the context."""
    saved = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in saved.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def commit() -> str | None:
    """Commit of the working copy that holds mulfree, with "+" if changed; None outside of one.

    Git must track the file: an installed package may lie in a folder of another repository.
    """
    package = Path(mulfree.__file__)
    git = ("git", "-C", str(package.parent))
    if _output(*git, "ls-files", "--error-unmatch", package.name) is None:
        return None
    revision = _output(*git, "rev-parse", "HEAD")
    if revision is None:
        return None
    changed = _output(*git, "status", "--porcelain", "--untracked-files=no", "--", ".")
    return f"{revision}+" if changed else revision


def _output(*command: str) -> str | None:
    """Output of a command; None if it fails or does not exist."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
