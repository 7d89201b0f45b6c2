"""`mulfree info`: versions, processor, kernels, and names of data sets and models."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mulfree import data, models
from mulfree.cli.arguments import Parser
from mulfree.cli.output import print_text
from mulfree.environment import environment
from mulfree.operators import OPERATORS
from mulfree.training.methods import METHODS

ROOT_VARIABLE = "MULFREE_DATA"

# A folder may hold many files; a few names show whether it is the right one.
_MAX_ENTRIES = 20


def main(argv: list[str]) -> int:
    """Run the command."""
    parser = Parser("mulfree info", "Show what is installed and what this computer offers.")
    parser.add_argument(
        "--format", choices=("table", "json"), default="table", help="default: table"
    )
    options = parser.parse_args(argv)
    facts = gather()
    if options.format == "json":
        print(json.dumps(facts, indent=2))
    else:
        print_text(_text(facts))
    return 0


def gather() -> dict[str, Any]:
    """All facts, as JSON values."""
    return {
        **environment(),
        "data": _data(),
        "operators": list(OPERATORS),
        "methods": list(METHODS),
        "models": models.list_models(),
    }


def _data() -> dict[str, Any]:
    """Names of data sets, and of the files in their folder; no file is opened."""
    root = os.environ.get(ROOT_VARIABLE)
    found = None
    if root:
        with contextlib.suppress(OSError):
            found = sorted(path.name for path in Path(root).expanduser().iterdir())[:_MAX_ENTRIES]
    return {"sets": list(data.SETS), ROOT_VARIABLE: root, "found there": found}


def _text(facts: Mapping[str, Any]) -> str:
    """One fact a line, lists and tables of facts indented below their name."""
    lines = []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            lines.append(f"{name}:")
            width = max(map(len, value))
            lines += [f"  {key.ljust(width)}  {_format(item)}" for key, item in value.items()]
        else:
            lines.append(f"{name}: {_format(value)}")
    return "\n".join(lines)


def _format(value: object) -> str:
    if value is None or value == []:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(f"{item:.2f}" if isinstance(item, float) else str(item) for item in value)
    return str(value)
