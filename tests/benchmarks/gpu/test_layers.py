from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.gpu import layers
from mulfree import functional
from mulfree.bench.correctness import BenchmarkError
from mulfree.bench.layers import BenchLayer
from mulfree.bench.passes import ALL_PASSES
from mulfree.operators import Operator, get_operator
from mulfree.operators.window import ConvProblem

LAYER = BenchLayer(model="toy", problem=ConvProblem(batch=1, size=(4, 4)), occurrences=3)
TAPS = 4 * 16 * 27
NAMES = ["adder2d", "adder2d channels_last", "conv2d", "conv2d channels_last"]


@pytest.fixture
def adder() -> Operator:
    reference = partial(functional.adder2d, backend="reference")
    return replace(get_operator("adder2d"), function=reference)


def time_layer(operator: Operator, **changes: Any) -> list[dict[str, Any]]:
    settings: dict[str, Any] = {
        "passes": ("forward",),
        "precisions": ("fp32",),
        "device": torch.device("cpu"),
        "rounds": 1,
        "limit": 1e6,
    }
    return layers.time_layer(operator, LAYER, **(settings | changes))


def test_every_pass_in_every_format(adder: Operator) -> None:
    entries = time_layer(adder, passes=ALL_PASSES, precisions=("fp32", "bf16"))
    assert [(entry["pass"], entry["precision"]) for entry in entries] == [
        (direction, precision) for direction in ALL_PASSES for precision in ("fp32", "bf16")
    ]
    for entry in entries:
        medians = {name: spread["median"] for name, spread in entry["timings"].items()}
        assert list(medians) == NAMES
        own, base = (min(medians[name] for name in names) for names in (NAMES[:2], NAMES[2:]))
        assert medians[entry["best"]["adder2d"]] == own
        assert entry["ratio"] == own / base
        reductions = 3 if entry["pass"] == "forward_backward" else 1
        assert entry["taps_per_s"] == pytest.approx(reductions * TAPS / own)
        share = entry["taps_per_s"] / 1e6 if entry["pass"] == "forward" else None
        assert entry["limit_share"] == share
        assert not entry["replayed"]


def test_what_cannot_be_captured_is_called_and_without_a_limit_there_is_no_share(
    adder: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(make: Any, device: torch.device) -> Any:
        raise RuntimeError("capture")

    monkeypatch.setattr(layers, "captured", refuse)
    (entry,) = time_layer(adder, limit=None)
    assert list(entry["timings"]) == NAMES
    assert (entry["replayed"], entry["limit_share"]) == (False, None)


def test_a_format_that_is_wrong_is_not_timed(adder: Operator) -> None:
    def wrong(input: Tensor, *rest: Any) -> Tensor:
        return adder.function(input, *rest) + (4.0 if input.dtype == torch.bfloat16 else 0.0)

    operator = replace(adder, function=wrong)
    assert time_layer(operator)
    with pytest.raises(BenchmarkError, match="in bf16 is not timed: error of its output"):
        time_layer(operator, precisions=("fp32", "bf16"))


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Please use the new API settings")
def test_on_a_gpu_graphs_are_replayed() -> None:
    entries = time_layer(
        get_operator("adder2d"), passes=ALL_PASSES, device=torch.device("cuda"), rounds=2
    )
    assert [entry["replayed"] for entry in entries] == [True] * 4
