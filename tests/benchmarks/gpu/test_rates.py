from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton")

from benchmarks.gpu.rates import RATES, measure_rates

from benchmarks.gpu import rates

CARD = SimpleNamespace(major=8, minor=0, multi_processor_count=2)


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A card on which every loop takes two milliseconds; the names of what was timed."""
    names: list[str] = []

    def interleave(candidates: dict[str, object], **options: object) -> dict[str, list[float]]:
        names.extend(candidates)
        return {name: [0.002] for name in candidates}

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: CARD)
    monkeypatch.setattr(rates, "interleave", interleave)
    monkeypatch.setattr(rates, "sm_clock_hz", lambda device: 1e9)
    return names


def test_rates_are_taps_a_second_and_lanes_a_clock(timed: list[str]) -> None:
    entries = {entry["name"]: entry for entry in measure_rates(torch.device("cpu"))}
    assert list(entries) == timed
    # 12 blocks of 1024 lanes on either multiprocessor, 16 steps a trip, 1000 trips.
    steps_per_s = 2 * 12 * 1024 * 16 * 1000 / 0.002
    plain = entries["forward fp32: |x - w|, add"]
    assert plain["taps_per_s"] == pytest.approx(steps_per_s)
    assert plain["instructions_per_clock"] == pytest.approx(steps_per_s * 2 / 2 / 1e9)
    assert entries["forward int8: vabsdiff4"]["taps_per_s"] == pytest.approx(8 * steps_per_s)


def test_only_what_the_card_can_do_is_timed(timed: list[str]) -> None:
    measure_rates(torch.device("cpu"))
    assert timed == [rate.name for rate in RATES if rate.capability <= 80]
    assert not any("bf16" in name for name in timed)


def test_without_a_clock_there_are_no_lanes_a_clock(
    timed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rates, "sm_clock_hz", lambda device: None)
    entries = measure_rates(torch.device("cpu"))
    assert {entry["instructions_per_clock"] for entry in entries} == {None}


@pytest.mark.gpu
def test_the_gpu_does_not_exceed_its_issue_slots() -> None:
    entries = measure_rates(torch.device("cuda"), rounds=2)
    fused = next(entry for entry in entries if entry["name"] == "convolution fp32: fma")
    assert 32 < fused["instructions_per_clock"] < 140
