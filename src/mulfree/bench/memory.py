"""Peak memory: of the process as the operating system sees it, of a GPU as its allocator does."""

from __future__ import annotations

import gc
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def peak_memory(run: Callable[[], object]) -> dict[str, int]:
    """Resident memory before and at most during a call of `run`, in bytes.

    On Linux the kernel's high-water mark is reset before the call. Elsewhere it cannot be, and a
    peak that came earlier hides a lower one: measure in a fresh process.

    Returns:
        `before`, `peak` and their difference `added`.
    """
    gc.collect()
    before = _reset()
    run()
    # The kernel counts pages in batches: the mark can lie just below the start.
    peak = max(before, _high_water_mark())
    return {"before": before, "peak": peak, "added": peak - before}


def peak_device_memory(
    make: Callable[[], Callable[[], object]], device: torch.device
) -> dict[str, int]:
    """Memory that torch has allocated on a CUDA device, in bytes.

    `make` builds what is measured and its result is called twice: once so that libraries have
    chosen their algorithms, which may try others with more workspace, and once for the peak.

    Returns:
        `before` the call of `make`, `peak` of the second call and their difference `added`.
    """
    import torch  # not above: programs without torch measure themselves with the other function

    gc.collect()
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    run = make()
    run()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device)
    return {"before": before, "peak": peak, "added": max(0, peak - before)}


def _reset() -> int:
    """Resident memory now, to which the high-water mark is reset where that is possible."""
    if _CLEAR.exists():
        _CLEAR.write_text("5")
        return _status("VmRSS")
    return _high_water_mark()


def _high_water_mark() -> int:
    if _STATUS.exists():
        return _status("VmHWM")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(key: str) -> int:
    for line in _STATUS.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    raise KeyError(key)
