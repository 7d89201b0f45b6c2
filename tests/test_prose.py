"""Two prose rules of CONTRIBUTING.md, held against the docstrings and comments of the sources."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "mulfree"
SUFFIXES = (".py", ".pyi", ".cpp", ".h", ".inc")
FILES = sorted(path for path in SRC.rglob("*") if path.suffix in SUFFIXES)
PACKAGES = sorted({path.relative_to(SRC).parts[0] for path in FILES})

# A docstring begins with a noun phrase or an imperative.
CLAUSE = re.compile(r"(what|that|those|who|whose|how|whether|where|which)\b", re.IGNORECASE)
# Code returns, records, stores, requires; a thing is named, not its place.
REFUSED = re.compile(
    r"\b(tells?|told|says?|said|hears?|heard|knows?|knew|wants?|wanted|asks?|asked"
    r"|that of|those of|of which|behind)\b(?!\()",
    re.IGNORECASE,
)
QUOTED = re.compile(r"``?[^`]*``?|:math:`[^`]*`|\"[^\"\n]*\"")
CPP_COMMENT = re.compile(r"(?:^[ \t]*//.*\n)+|//.*|/\*(?s:.*?)\*/", re.MULTILINE)


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield node.lineno, text


def comments(source: str) -> Iterator[tuple[int, str]]:
    """Comments; lines that follow each other as one text, which a sentence may cross."""
    text, first, last = "", 0, -1
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        line, words = token.start[0], token.string.lstrip("#:")
        if line == last + 1:
            text += words
        else:
            yield first, text
            text, first = words, line
        last = line
    yield first, text


def cpp_comments(source: str) -> Iterator[tuple[int, str]]:
    for found in CPP_COMMENT.finditer(source):
        yield source.count("\n", 0, found.start()) + 1, found[0].replace("//", " ")


def faults(path: Path) -> Iterator[str]:
    source, name = path.read_text(), path.relative_to(SRC)
    texts: list[tuple[int, str]] = []
    if path.suffix in (".py", ".pyi"):
        for line, text in docstrings(source):
            if first := CLAUSE.match(text.strip()):
                yield f'{name}:{line}: docstring begins with "{first[0]}"'
            texts.append((line, text))
        texts += comments(source)
    else:
        texts += cpp_comments(source)
    for line, text in texts:
        flat = " ".join(QUOTED.sub("_", text).split())
        for word in REFUSED.finditer(flat):
            near = flat[max(0, word.start() - 30) : word.end() + 20]
            yield f'{name}:{line}: "{word[0]}" in "{near}"'


@pytest.mark.parametrize("package", PACKAGES)
def test_docstrings_and_comments_are_in_the_terms_of_the_field(package: str) -> None:
    files = [path for path in FILES if path.relative_to(SRC).parts[0] == package]
    found = [fault for path in files for fault in faults(path)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("name", "source", "found"),
    [
        ("a.py", '"""What a layer\nreturns."""\n', ['a.py:1: docstring begins with "What"']),
        ("a.py", '"""Whatever, `tells` and tell()."""\nx = "says"\n', []),
        ("a.py", "# As the rule\n# says.\n", ['a.py:1: "says" in "As the rule says."']),
        ("a.py", "x = 1  # those\n\n# of layers\n", []),
        (
            "a.h",
            "int a;\n// Norms, of\n// which\nint b;",
            ['a.h:2: "of which" in "Norms, of which"'],
        ),
        ("a.h", 'say(/* bits\nbehind */ "asks");', ['a.h:1: "behind" in "/* bits behind */"']),
    ],
)
def test_faults(
    name: str, source: str, found: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.test_prose.SRC", tmp_path)
    (tmp_path / name).write_text(source)
    assert list(faults(tmp_path / name)) == found
