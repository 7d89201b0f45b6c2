"""Damages configurations at random: each is refused with one line, or is plain data again.

A few thousand mutations are part of the tests; more, from the root, with

    python -m tests.training.run.fuzz_configs --mutations 20000

Mutations are of the text of a file, of the values in it, of the words of a command line, and of the
table in a checkpoint. No process is started, and no file is opened but the configuration.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from tests.fuzzing import (
    Random,
    Watch,
    check_line,
    chosen,
    copied,
    disturbed,
    flipped,
    main,
    rounds,
)

from mulfree.errors import MulfreeError
from mulfree.training import NetworkConfig, TrainConfig, read_config
from mulfree.training.methods import METHODS, get_method

# Share of what is taken whose own file is read.
_READ_BACK = 0.2
_CODE = {"class_path": "subprocess.Popen", "init_args": {"args": "touch OWNED", "shell": True}}
_VALUES: tuple[Any, ...] = (
    *(0, 1, -1, 2, 2**31, 2**53, 2**63, -(2**63), 10**300, 10**400, True, False, None),
    *(0.0, -1.0, 0.5, 1e300, float("nan"), float("inf"), "", " ", "x", "adder2d", "~", "~/x"),
    *("\x1b[0m", "a\x00b", "é\u202e", "x" * 500, "${oc.env:HOME}", "/dev/zero", "none", "true"),
    *([], {}, [0], [1, "a"], {"a": 0}, {1: 2}, [[0]], {"a": {"b": {}}}, _CODE, [_CODE]),
    {"a": _CODE},
)
_NAMES = ("class_path", "init_args", "__path__")
_PIECES = (
    *("&a ", "*a", "!!python/object/apply:os.system ['touch OWNED']", "!!str ", "! ", "<<: ", "? "),
    *("[", "]", "{", "}", ": ", "- ", "\n", "\t", "---\n", "...\n", "%YAML 1.1\n", "|\n", ">\n"),
    *("'", '"', "#", "\\", "\x00", "\x85", "\u2028", "\ufeff", "\ud800", ", ", "~", "!<tag:x> "),
    *("[" * 500, "{a: " * 500, "- " * 500, "? " * 500, "9" * 5000, "a: &a [*a]\n", '"\\ud800"'),
    *("class_path: subprocess.Popen\n", "  ", "0x10", "1:30", "1e999", ".nan", "=", "@", "`"),
)
_WORDS = (
    *("--", "-x", "--config", "--config=", "--help", "--model", "--print_config", "--model.help"),
    *("--model.options", "--trainer.output=", "--model.class_path=subprocess.Popen", "stray", ""),
    *("--trainer.threads=99999999999", "--method.name=qat", "--method.name=kd", "--=", "--.=1"),
    *("--model.options.width={class_path: subprocess.Popen, init_args: {args: touch OWNED}}",),
)


def rewritten(rng: Random, text: str) -> bytes:
    """A text with other pieces, encoded, perhaps with other bytes."""
    for _ in range(int(rng.integers(1, 4))):
        start, end = sorted(int(i) for i in rng.integers(len(text) + 1, size=2))
        piece = chosen(rng, _PIECES)
        match int(rng.integers(4)):
            case 0:
                text = text[:start] + piece + text[end:]
            case 1:
                text = text[:start] + text[start:end] + text[start:]
            case _:
                text = text[:start] + piece + text[start:]
    data = text.encode("utf-8", "surrogatepass")
    return data if rng.integers(4) or not data else flipped(rng, data)


def words_of(rng: Random, values: dict[str, Any]) -> list[str]:
    """A command line with some options of a configuration, and others."""
    options = [
        f"--{section}.{key}={yaml.safe_dump(value, default_flow_style=True).split(chr(10))[0]}"
        for section, inner in values.items()
        if isinstance(inner, dict)
        for key, value in inner.items()
    ]
    words = [chosen(rng, options) for _ in range(int(rng.integers(3)))]
    for _ in range(int(rng.integers(1, 3))):
        name, equals, value = chosen(rng, options).partition("=")
        value = chosen(rng, [str(chosen(rng, _VALUES)), chosen(rng, _PIECES), value])
        added = chosen(rng, [[f"{name}={value}"], [name, value], [f"{name}.x{equals}{value}"]])
        words += chosen(rng, [added, added, [chosen(rng, _WORDS)]])
    return words


def fuzz(mutations: int, seed: int, folder: Path) -> Counter[str]:
    """Count the mutations that are refused and taken; any other outcome is an exception."""
    rng = np.random.default_rng(seed)
    kinds = [get_method(name).config_class for name in METHODS]
    bases = [_base(kind) for kind in kinds]
    path = folder / "config.yaml"
    outcomes: Counter[str] = Counter()
    watch = Watch(folder)
    for _ in rounds(mutations):
        base = _part(rng, chosen(rng, bases))
        kind = chosen(rng, ["text", "values", "words", "table"])
        words = []
        values = disturbed(rng, base, lambda _: copied(chosen(rng, _VALUES)), _NAMES)
        if kind == "text":
            # One section: of a long text hardly any damage is taken.
            section = chosen(rng, list(base))
            path.write_bytes(rewritten(rng, yaml.safe_dump({section: base[section]})))
            words = ["--config", str(path)]
        elif kind == "values":
            path.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
            words = [f"--config={path}"]
        elif kind == "words":
            words = words_of(rng, base)
        with watch:
            try:
                config = TrainConfig.from_dict(values) if kind == "table" else read_config(words)
            except MulfreeError as error:
                check_line(error)
                outcomes[f"{kind} refused"] += 1
                continue
        outcomes[f"{kind} taken"] += 1
        if rng.random() < _READ_BACK:
            _check_plain(config, path)
    return outcomes


def _base(kind: Any) -> dict[str, Any]:
    """A configuration that is not refused before it is damaged."""
    pretrained = "weights.pth" if kind().needs_pretrained else None
    return TrainConfig(method=kind(), model=NetworkConfig(pretrained=pretrained)).to_dict()


def _part(rng: Random, base: dict[str, Any]) -> dict[str, Any]:
    """The method, the network and one more section: short files are damaged faster."""
    return {name: base[name] for name in ("method", "model", chosen(rng, list(base)))}


def _check_plain(config: TrainConfig, path: Path) -> None:
    """Assert that a configuration is read back from its own file and its own table."""
    path.write_text(config.to_yaml(), encoding="utf-8")
    # Only by their text are numbers equal that are none.
    for again in (read_config(["--config", str(path)]), TrainConfig.from_dict(config.to_dict())):
        assert repr(again) == repr(config)


if __name__ == "__main__":
    main(fuzz, "configurations")
