"""Performance targets of the GPU kernels, compared with measurements."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mulfree.cost.counting import BASELINE

Parts = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class PerformanceTarget:
    """A figure with a bound.

    Attributes:
        name: Description.
        bound: Limit of the figure.
        at_least: Whether the bound is the least that will do, or else the most.
        measured: Reads the worst case from the parts of a result; None where it is not in them.
        unit: Of the figure.
    """

    name: str
    bound: float
    at_least: bool
    measured: Callable[[Parts, str], float | None]
    unit: str = ""


def _share_of_limit(parts: Parts, operator: str) -> float | None:
    shares = [
        entry["limit_share"]
        for entry in _entries(parts, "forward")
        if entry["model"] in ("resnet18", "resnet50")
        and entry["window"]["kernel"] in ((3, 3), [3, 3])
        and entry["precision"] == "fp32"
        and entry["limit_share"] is not None
    ]
    return min(shares, default=None)


def _resnet20_step(parts: Parts, operator: str) -> float | None:
    seconds = best_step(parts, "resnet20", operator, ("fp32",), batch=256)
    return None if seconds is None else seconds * 1e3


def _resnet50_ratio(parts: Parts, operator: str) -> float | None:
    own = best_step(parts, "resnet50", operator, ("fp32",))
    base = best_step(parts, "resnet50", BASELINE, ("fp32",))
    return None if own is None or base is None else own / base


def _memory_ratio(parts: Parts, operator: str) -> float | None:
    return max((entry["ratio"] for entry in _entries(parts, "memory")), default=None)


TARGETS = (
    PerformanceTarget(
        name="forward of resnet18's and resnet50's 3x3 layers in fp32, share of the limit, worst",
        bound=0.7,
        at_least=True,
        measured=_share_of_limit,
    ),
    PerformanceTarget(
        name="training step of resnet20, batch 256, fp32",
        bound=6.0,
        at_least=False,
        measured=_resnet20_step,
        unit="ms",
    ),
    PerformanceTarget(
        name="training step of resnet50, fp32, over cuDNN's best without TF32",
        bound=3.0,
        at_least=False,
        measured=_resnet50_ratio,
    ),
    PerformanceTarget(
        name="peak memory of training over the convolution's, worst network",
        bound=1.15,
        at_least=False,
        measured=_memory_ratio,
    ),
)


def targets(parts: Parts, operator: str) -> list[dict[str, Any]]:
    """Every target with its figure, which is None where it was not measured, as JSON values."""
    rows = []
    for target in TARGETS:
        figure = target.measured(parts, operator)
        met = None
        if figure is not None:
            met = figure >= target.bound if target.at_least else figure <= target.bound
        rows.append(
            {
                "name": target.name,
                "bound": target.bound,
                "at_least": target.at_least,
                "unit": target.unit,
                "measured": figure,
                "met": met,
            }
        )
    return rows


def best_step(
    parts: Parts,
    model: str,
    operator: str,
    precisions: tuple[str, ...],
    *,
    batch: int | None = None,
) -> float | None:
    """Seconds of the fastest training step measured, whatever its mode and memory format."""
    seconds = [
        entry["timings"][entry["best"][operator]]["median_s"]
        for name in parts
        if "steps" in name
        for entry in _entries(parts, name)
        if entry["model"] == model
        and entry["precision"] in precisions
        and batch in (None, entry["batch"])
    ]
    return min(seconds, default=None)


def _entries(parts: Parts, name: str) -> Iterator[Mapping[str, Any]]:
    """The entries of a part that hold a measurement."""
    for entry in parts.get(name, {"entries": ()})["entries"]:
        if "error" not in entry:
            yield entry
