"""The result of the runtime's benchmark as tables for the terminal, and as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mulfree.bench.report import milliseconds
from mulfree.cost.table import text_table
from mulfree.figures import panels, save

_COLOURS = {
    "mulfree int8 adder2d": "tab:red",
    "mulfree int8 conv2d": "tab:orange",
    "torch fp32": "tab:blue",
    "onnxruntime fp32": "tab:cyan",
    "onnxruntime int8": "tab:green",
}


def report(result: Mapping[str, Any]) -> str:
    """All of a result file as text; "times as fast" is against the fastest convolutional network.

    Its rivals there are torch's and ONNX Runtime's convolutional networks of the same architecture.
    """
    return "\n".join([_times(result), _files(result), _memory(result)])


def _times(result: Mapping[str, Any]) -> str:
    rows = []
    for entry in result["times"]:
        for name, timing in entry["timings"].items():
            rows.append(
                [
                    entry["model"],
                    str(entry["batch"]),
                    str(entry["threads"]),
                    name,
                    milliseconds(timing, digits=4),
                    f"{entry['images_per_s'][name]:.0f}",
                    f"{1 / timing.get('ratio', 1.0):.2f}",
                ]
            )
    columns = ("model", "batch", "threads", "network", "ms a batch", "images/s", "times as fast")
    return text_table("Median (quartiles) of a run", columns, rows, left=4)


def _files(result: Mapping[str, Any]) -> str:
    names = list(result["files"][0]["bytes"])
    rows = [
        [entry["model"], *(f"{entry['bytes'][name] / 1e6:.2f}" for name in names)]
        for entry in result["files"]
    ]
    return text_table("Size of the file, MB", ("model", *names), rows, left=1)


def _memory(result: Mapping[str, Any]) -> str:
    names = list(result["memory"][0]["memory"])
    rows = []
    for entry in result["memory"]:
        figures = (entry["memory"][name] for name in names)
        cells = [f"{f['added'] / 2**20:.0f} ({f['peak'] / 2**20:.0f})" for f in figures]
        rows.append([entry["model"], str(entry["batch"]), *cells])
    title = "Memory that loading and running adds to a process (whole process), MiB"
    return text_table(title, ("model", "batch", *names), rows, left=1)


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Speed of every network relative to the fastest convolutional one, as a PNG.

    One panel for each batch and number of threads; bars above 1 are faster.
    """
    times = result["times"]
    settings = list(dict.fromkeys((entry["batch"], entry["threads"]) for entry in times))
    models = list(dict.fromkeys(entry["model"] for entry in times))
    height = 2.2 + 0.8 / len(settings)
    figure, grid = panels(len(settings), 1, max(7.0, 1.5 * len(models)), height)
    for (axes,), (batch, threads) in zip(grid, settings, strict=True):
        entries = [
            entry for entry in times if (entry["batch"], entry["threads"]) == (batch, threads)
        ]
        names = list(entries[0]["timings"])
        width = 0.8 / len(names)
        for index, name in enumerate(names):
            speeds = [1 / entry["timings"][name].get("ratio", 1.0) for entry in entries]
            places = [models.index(entry["model"]) + index * width for entry in entries]
            axes.bar(places, speeds, width * 0.9, label=name, color=_COLOURS.get(name))
        axes.axhline(1.0, color="black", linewidth=0.8)
        middle = (len(names) - 1) * width / 2
        axes.set_xticks([place + middle for place in range(len(models))], models)
        axes.set_title(f"batch {batch}, {threads} thread{'s' * (threads > 1)}", fontsize=10)
        axes.set_ylabel("times as fast")
        axes.grid(axis="y", alpha=0.3)
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    save(figure, path)
