from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton")

from benchmarks.gpu import rates


def test_rates_are_taps_a_second_and_lanes_a_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    card = SimpleNamespace(major=8, minor=0, multi_processor_count=2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    monkeypatch.setattr(rates, "interleave", lambda loops, **_: {name: [0.002] for name in loops})
    monkeypatch.setattr(rates, "sm_clock_hz", lambda device: 1e9)
    entries = {entry["name"]: entry for entry in rates.measure_rates(torch.device("cpu"))}
    # Loops that need a newer card are left out.
    assert list(entries) == [rate.name for rate in rates.RATES if rate.capability <= 80]
    assert not any("bf16" in name for name in entries)
    # 12 blocks of 1024 lanes on either multiprocessor, 16 steps a trip, 1000 trips.
    steps_per_s = 2 * 12 * 1024 * 16 * 1000 / 0.002
    plain = entries["forward fp32: |x - w|, add"]
    assert plain["taps_per_s"] == pytest.approx(steps_per_s)
    assert plain["instructions_per_clock"] == pytest.approx(steps_per_s * 2 / 2 / 1e9)
    assert entries["forward int8: vabsdiff4"]["taps_per_s"] == pytest.approx(8 * steps_per_s)
    monkeypatch.setattr(rates, "sm_clock_hz", lambda device: None)
    unclocked = rates.measure_rates(torch.device("cpu"))
    assert {entry["instructions_per_clock"] for entry in unclocked} == {None}


@pytest.mark.gpu
def test_the_gpu_does_not_exceed_its_issue_slots() -> None:
    entries = rates.measure_rates(torch.device("cuda"), rounds=2)
    fused = next(entry for entry in entries if entry["name"] == "convolution fp32: fma")
    assert 32 < fused["instructions_per_clock"] < 140
