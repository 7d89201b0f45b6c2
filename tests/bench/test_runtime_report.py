from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from mulfree.bench.runtime_report import plot, report


def timing(milliseconds: float, baseline: float | None) -> dict[str, float]:
    seconds = milliseconds / 1e3
    entry = {"median_s": seconds, "q1_s": seconds * 0.9, "q3_s": seconds * 1.1, "samples": 3.0}
    return entry if baseline is None else entry | {"ratio": milliseconds / baseline}


def entry(model: str, batch: int, threads: int, own: float, cnn: float) -> dict[str, Any]:
    return {
        "model": model,
        "batch": batch,
        "threads": threads,
        "timings": {"mulfree int8 adder2d": timing(own, cnn), "torch fp32": timing(cnn, None)},
        "images_per_s": {
            "mulfree int8 adder2d": batch / own * 1e3,
            "torch fp32": batch / cnn * 1e3,
        },
    }


def memory(added: int, peak: int) -> dict[str, int]:
    return {"before": 0, "added": added * 2**20, "peak": peak * 2**20}


RESULT: dict[str, Any] = {
    "times": [entry("resnet20", 1, 1, 0.2, 0.5), entry("resnet20", 32, 2, 10.0, 8.0)],
    "files": [
        {"model": "resnet20", "bytes": {"mulfree int8 adder2d": 294_488, "torch fp32": 1_107_512}}
    ],
    "memory": [
        {
            "model": "resnet20",
            "batch": 1,
            "memory": {"mulfree int8 adder2d": memory(8, 36), "torch fp32": memory(19, 239)},
        }
    ],
}

TEXT = """\
Median (quartiles) of a run
+----------+-------+---------+----------------------+-----------------+----------+---------------+
| model    | batch | threads | network              |      ms a batch | images/s | times as fast |
+----------+-------+---------+----------------------+-----------------+----------+---------------+
| resnet20 | 1     | 1       | mulfree int8 adder2d | 0.2 (0.18-0.22) |     5000 |          2.50 |
| resnet20 | 1     | 1       | torch fp32           | 0.5 (0.45-0.55) |     2000 |          1.00 |
| resnet20 | 32    | 2       | mulfree int8 adder2d |       10 (9-11) |     3200 |          0.80 |
| resnet20 | 32    | 2       | torch fp32           |     8 (7.2-8.8) |     4000 |          1.00 |
+----------+-------+---------+----------------------+-----------------+----------+---------------+

Size of the file, MB
+----------+----------------------+------------+
| model    | mulfree int8 adder2d | torch fp32 |
+----------+----------------------+------------+
| resnet20 |                 0.29 |       1.11 |
+----------+----------------------+------------+

Memory that loading and running adds to a process (whole process), MiB
+----------+-------+----------------------+------------+
| model    | batch | mulfree int8 adder2d | torch fp32 |
+----------+-------+----------------------+------------+
| resnet20 |     1 |               8 (36) |   19 (239) |
+----------+-------+----------------------+------------+
"""


def test_report() -> None:
    assert report(RESULT) == TEXT


def test_a_picture_with_a_panel_for_each_batch(tmp_path: Path) -> None:
    plot(RESULT, tmp_path / "two.png")
    plot(RESULT | {"times": RESULT["times"][:1]}, tmp_path / "one.png")
    sizes = []
    for name in ("two.png", "one.png"):
        with Image.open(tmp_path / name) as image:
            sizes.append(image.size)
    assert sizes[0][0] == sizes[1][0]
    assert sizes[0][1] > sizes[1][1]
