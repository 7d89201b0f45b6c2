from __future__ import annotations

from typing import Any

from mulfree.bench.suites import get_suite


def timing(milliseconds: float, ratio: float | None = None) -> dict[str, float]:
    seconds = milliseconds / 1e3
    entry = {"median_s": seconds, "q1_s": seconds * 0.9, "q3_s": seconds * 1.1, "samples": 3.0}
    if ratio is not None:
        entry |= {"ratio": ratio, "ratio_q1": ratio - 0.1, "ratio_q3": ratio + 0.1}
    return entry


RESULT: dict[str, Any] = {
    "operator": {
        "layers": [
            {
                "model": "resnet20",
                "geometry": "n128c16o16x32x32k3x3p11",
                "input": "relu",
                "pass": "forward_backward",
                "timings": {"adder2d": timing(20.0, 2.0), "conv2d": timing(10.0)},
                "gtaps_per_s": 45.67,
            }
        ],
        "summary": [
            {
                "model": "all",
                "input": "relu",
                "pass": "forward",
                "geometries": 17,
                "ratio": 2.345,
            }
        ],
    },
    "isa": [
        {
            "model": "resnet20",
            "geometry": "n128c16o16x32x32k3x3p11",
            "pass": "forward",
            "timings": {"avx512": timing(5.0), "avx2": timing(10.0, 2.0)},
            "gtaps_per_s": {"avx512": 60.0, "avx2": 30.0},
        }
    ],
    "step": {
        "model": "resnet20",
        "batch": 128,
        "timings": {"adder2d": timing(400.0, 1.9), "conv2d": timing(210.0)},
    },
    "memory": {
        "model": "resnet20",
        "batch": 128,
        "adder2d": {"before": 0, "peak": 500 * 2**20, "added": 210 * 2**20},
        "conv2d": {"before": 0, "peak": 490 * 2**20, "added": 200 * 2**20},
        "ratio": 1.05,
    },
}

TEXT = """\
Layers: median (quartiles), ms
+----------+-------------------------+-------+------------------+------------+-----------+------------------+--------+
| model    | geometry                | input | pass             |    adder2d |    conv2d |            ratio | Gtap/s |
+----------+-------------------------+-------+------------------+------------+-----------+------------------+--------+
| resnet20 | n128c16o16x32x32k3x3p11 | relu  | forward+backward | 20 (18-22) | 10 (9-11) | 2.00 (1.90-2.10) |   45.7 |
+----------+-------------------------+-------+------------------+------------+-----------+------------------+--------+

Geometric means of the ratios to conv2d
+-------+-------+---------+------------+-------+
| model | input | pass    | geometries | ratio |
+-------+-------+---------+------------+-------+
| all   | relu  | forward |         17 |  2.35 |
+-------+-------+---------+------------+-------+

Instruction sets: median (quartiles), ms
+----------+-------------------------+---------+--------+-------------+--------+
| model    | geometry                | pass    | isa    |        time | Gtap/s |
+----------+-------------------------+---------+--------+-------------+--------+
| resnet20 | n128c16o16x32x32k3x3p11 | forward | avx512 | 5 (4.5-5.5) |   60.0 |
| resnet20 | n128c16o16x32x32k3x3p11 | forward | avx2   |   10 (9-11) |   30.0 |
+----------+-------------------------+---------+--------+-------------+--------+

Training step of resnet20, batch 128: median (quartiles), ms
+----------+---------------+------------------+
| operator |          time |            ratio |
+----------+---------------+------------------+
| adder2d  | 400 (360-440) | 1.90 (1.80-2.00) |
| conv2d   | 210 (189-231) |                  |
+----------+---------------+------------------+

Peak memory of training steps of resnet20, batch 128, MiB
+----------+-------+---------+-------+
| operator | added | process | ratio |
+----------+-------+---------+-------+
| adder2d  | 210.0 |   500.0 | 1.050 |
| conv2d   | 200.0 |   490.0 |       |
+----------+-------+---------+-------+
"""  # noqa: E501


def test_reports() -> None:
    tables = [get_suite(name).report("adder2d", entry) for name, entry in RESULT.items()]
    assert "\n".join(tables) == TEXT
