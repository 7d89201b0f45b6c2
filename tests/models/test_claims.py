from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mulfree import models
from mulfree.errors import ArtifactError
from mulfree.models import claims

ARGUMENTS = {"operator": "adder2d", "width": 0.25, "keep": ["first", "last"], "gradient": None}


def test_a_model_config() -> None:
    config = claims.config_from({"name": "resnet20", "arguments": ARGUMENTS})
    assert config == models.ModelConfig(name="resnet20", arguments=ARGUMENTS)
    assert models.config_of(claims.build(config)).arguments["width"] == 0.25


def bomb() -> list[Any]:
    value: list[Any] = ["x"]
    for _ in range(40):
        value = [value] * 10
    return value


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (5, "it is not a table"),
        ({"name": "a", "arguments": []}, "its arguments are not a table"),
        ({"name": "a", "arguments": {"name": "b"}}, "its arguments are not a table"),
        ({"name": "a", "arguments": {"b": b""}}, "b'' in it is not a plain value"),
        ({"name": "a", "arguments": {"b": torch.zeros(1)}}, "in it is not a plain value"),
        ({"name": "a", "arguments": {"b": "x" * 1001}}, "in it is longer than 1000 characters"),
        ({"name": "a", "arguments": {"x" * 1001: 5}}, "in it is longer than 1000 characters"),
        ({"name": "x" * 1001, "arguments": {}}, "in it is longer than 1000 characters"),
        ({"name": "a", "arguments": {"b": ["x"] * 1001}}, "it has more than 1000 values"),
        ({"name": "a", "arguments": {"b": bomb()}}, "it has more than 1000 values"),
    ],
)
def test_invalid_model_configs(own: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        claims.config_from(own)


def test_a_part_of_a_model_config() -> None:
    with pytest.raises(KeyError, match="arguments"):
        claims.config_from({"name": "resnet20"})


def test_a_claim_costs_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    config = models.ModelConfig(name="resnet18", arguments={"width": 64.0, "operator": "adder2d"})
    built = []
    monkeypatch.setattr(claims, "build", lambda config: built.append(config))
    with torch.device("meta"):
        expected = models.create_model("resnet18", width=64, operator="adder2d").state_dict()
    monkeypatch.setattr(claims, "claimed", lambda *_: expected)
    small = {key: torch.zeros((1,) * tensor.ndim) for key, tensor in expected.items()}
    with pytest.raises(
        ArtifactError, match=r"^load: `x` must have its network's shapes .*, got file$"
    ):
        claims.restored("load: `x`", "file", config, small)
    assert not built
    assert sum(tensor.numel() for tensor in expected.values()) > 40_000_000_000


@pytest.mark.parametrize(
    "arguments", [{3: 4}, {"width": "x"}, {"keep": [[["x"]]]}, {"operator": "adder"}, {"more": 1}]
)
def test_model_configs_that_cannot_be_built(arguments: dict[str, Any]) -> None:
    config = models.ModelConfig(name="resnet20", arguments=arguments)
    with pytest.raises(ArtifactError, match="`x` must be of a network that can be built"):
        claims.restored("load: `x`", "file", config, {})


def test_tensors_that_are_none() -> None:
    expected = {"a": torch.zeros(2), "b": torch.tensor(1)}
    with pytest.raises(ArtifactError, match=r"hold plain tensors alone \('a' is none\)"):
        claims.check_tensors("load: `x`", "file", expected, {"a": 5, "b": torch.tensor(2)})
    given = {"a": torch.zeros(2, dtype=torch.int8), "b": torch.tensor(2)}
    with pytest.raises(ArtifactError, match=r"of one floating-point type, not of torch.int8"):
        claims.check_tensors("load: `x`", "file", expected, given)
    views = torch.arange(3.0).split([2, 1])
    given = {"a": views[0], "b": torch.tensor(2)}
    assert claims.check_tensors("load: `x`", "file", expected, given) == torch.float32


def test_a_pickle_runs_no_code(tmp_path: Path) -> None:
    torch.save({"a": print}, tmp_path / "x.pt")
    with pytest.raises(
        ValueError, match=r"^it holds more than tensors and plain values: '.* print'"
    ):
        claims.read_pickle(tmp_path / "x.pt")
