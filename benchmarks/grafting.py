"""Few-shot grafting over draws of the images: `python benchmarks/grafting.py --output DIR`.

Every student is grafted onto one teacher with K images of every class, for several K and draws of
the images, and trained by kd with the same images and their labels for comparison. Every run has
the number of steps of its recipe: fewer images are repeated more often. The accuracy on the test
images after the last epoch is reported: nothing is chosen by it. A run that is there is not run
again, and one that was stopped goes on, so the same command finishes what was begun; other
processes may take other draws in the same folder.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mulfree.errors import MulfreeError
from mulfree.files import write_atomically
from mulfree.scaling.runs import trained
from mulfree.training import TrainConfig, read_config
from mulfree.training.methods import graft, kd

SCHEMA = "mulfree.grafting/1"
RECIPES = Path(__file__).parents[1] / "recipes/cifar10"
TEACHER = RECIPES / "resnet20_conv2d_15ep.yaml"
STUDENTS = [RECIPES / "resnet20_graft.yaml", RECIPES / "resnet20_graft_adders.yaml"]
METHODS = ("graft", "kd")
RESULTS, TABLE = "results.json", "table.md"


def main() -> None:
    """Train missing networks, and write table and results of all finished ones."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument(
        "--teacher", help="a trained network; by default the run OUTPUT/teacher, of its recipe"
    )
    parser.add_argument("--teacher-recipe", default=str(TEACHER))
    parser.add_argument("--students", nargs="+", default=list(map(str, STUDENTS)), metavar="RECIPE")
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 5, 10], help="values of K")
    parser.add_argument("--draws", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="seeds")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("options", nargs="*", help="options of `mulfree train`, after --")
    arguments = parser.parse_args()
    try:
        students = {
            Path(recipe).stem: read_config(["--config", recipe, *arguments.options])
            for recipe in arguments.students
        }
        for name, config in students.items():
            if not isinstance(config.method, graft.Config) or config.data.per_class is None:
                parser.error(f"`students` must be recipes of graft with data.per_class, got {name}")
        _run(students, arguments)
    except MulfreeError as error:
        parser.error(str(error))


def _run(students: Mapping[str, TrainConfig], arguments: argparse.Namespace) -> None:
    output: Path = arguments.output
    teacher = arguments.teacher
    if teacher is None:
        teacher = str(output / "teacher")
        _finished(read_config(["--config", arguments.teacher_recipe]), Path(teacher))
    runs: list[dict[str, Any]] = []
    for draw in arguments.draws:
        for shots in arguments.shots:
            for student, config in students.items():
                for method in arguments.methods:
                    directory = output / f"{student}-{method}-{shots}-draw{draw}"
                    print(f"{directory}", flush=True)
                    results = _finished(few(config, method, teacher, shots, draw), directory)
                    runs.append(_row(student, method, shots, draw, results))
                    _write(output, students, runs)
    print((output / TABLE).read_text(), end="")


def few(config: TrainConfig, method: str, teacher: str, shots: int, draw: int) -> TrainConfig:
    """Configuration of a run with other images than its recipe's, and as many steps.

    Args:
        config: The recipe, of graft.
        method: "graft" or "kd".
        teacher: The trained network.
        shots: Images of every class.
        draw: Seed of the images and of the run.
    """
    images, own = config.data, config.method
    assert images.per_class is not None
    assert isinstance(own, graft.Config)
    repeat = max(1, round(images.repeat * images.per_class / shots))
    methods = {"graft": replace(own, teacher=teacher), "kd": kd.Config(teacher=teacher)}
    return replace(
        config,
        data=replace(images, per_class=shots, repeat=repeat, subset_seed=draw),
        method=methods[method],
        trainer=replace(config.trainer, seed=draw),
    )


def _finished(config: TrainConfig, directory: Path) -> dict[str, Any]:
    results = trained(config, directory)
    if results is None:
        sys.exit(f"grafting: {directory} was stopped; run the same command")
    return results


def _row(
    student: str, method: str, shots: int, draw: int, results: Mapping[str, Any]
) -> dict[str, Any]:
    keys = ("test_accuracy", "test_teacher_accuracy", "test_agreement", "parameters", "steps")
    own = {"student": student, "method": method, "shots": shots, "draw": draw}
    return own | {key: results[key] for key in (*keys, "seconds", "environment")}


def _write(
    output: Path, students: Mapping[str, TrainConfig], runs: Sequence[Mapping[str, Any]]
) -> None:
    configs = {name: config.to_dict() for name, config in students.items()}
    content = {"schema": SCHEMA, "students": configs, "runs": list(runs)}
    write_atomically(output / RESULTS, json.dumps(content, indent=1).encode() + b"\n")
    write_atomically(output / TABLE, "".join(f"{line}\n" for line in table(runs)).encode())


def table(runs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Lines of Markdown: mean and standard deviation over the draws."""
    yield (
        "| student | parameters | images of a class | method | test accuracy | agreement with the "
        "teacher | teacher | draws |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    groups: dict[tuple[str, int, str], list[Mapping[str, Any]]] = {}
    for run in runs:
        groups.setdefault((run["student"], run["shots"], run["method"]), []).append(run)
    for (student, shots, method), rows in sorted(groups.items()):
        cells = [_spread([100 * row[f"test_{key}"] for row in rows]) for key in _SPREAD]
        yield (
            f"| {student} | {rows[0]['parameters']:,} | {shots} | {method} | {' | '.join(cells)} "
            f"| {100 * rows[0]['test_teacher_accuracy']:.2f} % | {len(rows)} |"
        )


_SPREAD = ("accuracy", "agreement")


def _spread(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f} %{spread}"


if __name__ == "__main__":
    main()
