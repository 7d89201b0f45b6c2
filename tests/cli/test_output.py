from __future__ import annotations

import ast
from pathlib import Path

import pytest

import mulfree.cli
from mulfree.cli.output import print_text


def test_lines_are_kept_and_escapes_are_not(capsys: pytest.CaptureFixture[str]) -> None:
    print_text("layer  4\n\x1b]0;owned\x07  2\n\nlast \u202e")
    assert capsys.readouterr().out == "layer  4\n\\x1b]0;owned\\x07  2\n\nlast \\u202e\n"


def test_every_verb_prints_escaped_text() -> None:
    """`print` itself gets only JSON and YAML, whose writers escape."""
    files = sorted(Path(mulfree.cli.__file__).parent.rglob("*.py"))
    assert len(files) > 10
    found = []
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                if node.func.id != "print" or any(k.arg == "file" for k in node.keywords):
                    continue
                found.append((file.name, ast.unparse(node.args[0])))
    escaped = ("json.dumps(", "config.to_yaml()", "'\\n'.join(map(printable")
    assert [use for use in found if not use[1].startswith(escaped)] == []
    assert any(use[0] == "output.py" for use in found)
