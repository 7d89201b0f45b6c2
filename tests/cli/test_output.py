from __future__ import annotations

import pytest

from mulfree.cli.output import print_text


def test_lines_are_kept_and_escapes_are_not(capsys: pytest.CaptureFixture[str]) -> None:
    print_text("layer  4\n\x1b]0;owned\x07  2\n\nlast \u202e")
    assert capsys.readouterr().out == "layer  4\n\\x1b]0;owned\\x07  2\n\nlast \\u202e\n"
