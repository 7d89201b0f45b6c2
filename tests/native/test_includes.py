"""Includes of the native code follow the arrows of the packages."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "src/mulfree"


def layers() -> dict[str, int]:
    """Packages by the number of their layer, the lowest first, as pyproject.toml has them."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = settings["tool"]["importlinter"]["contracts"]
    (contract,) = [c for c in contracts if c["name"] == "Arrows point one way"]
    rows = [row.replace("mulfree.", "").split(" | ") for row in reversed(contract["layers"])]
    return {package: number for number, row in enumerate(rows) for package in row}


def forbidden(source: Path, target: Path, heights: dict[str, int]) -> bool:
    """Return true for an include of a package beside or above, or of another operator."""
    (package, *inner), (other, *inner_other) = (
        p.relative_to(SOURCES).parts for p in (source, target)
    )
    if package == other:
        return package == "operators" and inner[0] != inner_other[0]
    return heights[other] >= heights[package]


def test_includes_point_down() -> None:
    heights, seen = layers(), 0
    for source in [f for f in SOURCES.rglob("*") if f.suffix in (".h", ".cpp")]:
        for name in re.findall(r'^ *# *include "(.+)"', source.read_text(), re.MULTILINE):
            target = next(f for f in (source.parent / name, SOURCES / name) if f.exists()).resolve()
            assert not forbidden(source, target, heights), f"{source} includes {name}"
            seen += 1
    assert seen > 30


def test_includes_that_climb_are_seen() -> None:
    heights = layers()
    kernel = SOURCES / "nodes/lut/kernel.cpp"
    assert forbidden(kernel, SOURCES / "operators/adder2d/csrc/adder2d.h", heights)
    assert forbidden(kernel, SOURCES / "runtime/csrc/team.h", heights)
    assert not forbidden(kernel, SOURCES / "_native/sliding/forks.h", heights)
    one, other = (SOURCES / f"operators/{name}/csrc/a.h" for name in ("adder2d", "shift2d"))
    assert forbidden(one, other, heights)
