"""Commands as users type them."""

from __future__ import annotations

import pytest

from mulfree.cli.main import main


def shown(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Output of a command that succeeds and warns of nothing."""
    assert main([str(word) for word in words]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def refused(capsys: pytest.CaptureFixture[str], *words: object, status: int = 2) -> str:
    """The one line of a command that fails, without its prefix."""
    assert main([str(word) for word in words]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    prefix = f"mulfree {words[0]}: error: "
    assert err.startswith(prefix)
    return err.removeprefix(prefix)
