"""The drawing of the layers, which is the import contract word for word."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_contributing_draws_the_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = contracts["contracts"][0]["layers"]
    drawing = "".join(f"{layer.replace('mulfree.', '')}\n" for layer in layers)
    assert f"```text\n{drawing}```" in (ROOT / "CONTRIBUTING.md").read_text()
