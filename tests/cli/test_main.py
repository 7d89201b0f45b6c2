from __future__ import annotations

import errno
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import mulfree
from mulfree.cli import main as command
from mulfree.errors import ArtifactError, DataError, TrainingError

Replace = Callable[[Callable[[list[str]], object]], None]


@pytest.fixture
def fake_command(monkeypatch: pytest.MonkeyPatch) -> Replace:
    """Makes `mulfree info` run a function."""

    def install(run: Callable[[list[str]], object]) -> None:
        module = ModuleType("mulfree.cli.info")
        vars(module)["main"] = run
        monkeypatch.setitem(sys.modules, module.__name__, module)

    return install


def raising(error: BaseException) -> Callable[[list[str]], object]:
    def run(words: list[str]) -> object:
        raise error

    return run


def fresh(*code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *code], capture_output=True, text=True, check=False)


def test_help_loads_nothing_heavy() -> None:
    done = fresh(
        "-c",
        "import sys; from mulfree.cli.main import main; status = main(['-h']);"
        "print(sorted({'torch', 'numpy', 'rich', 'lightning'} & set(sys.modules)), status)",
    )
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "[] 0"
    for name, text in command.COMMANDS.items():
        assert f"  {name.ljust(8)}  {text}" in done.stdout


def test_the_package_is_a_command() -> None:
    done = fresh("-m", "mulfree", "--version")
    assert (done.returncode, done.stdout) == (0, f"mulfree {mulfree.__version__}\n")


def test_no_command_shows_the_help_as_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("usage: mulfree [-h] [--version] COMMAND ...")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["trian"],
            "mulfree: error: command line: `command` must be one of bench, evaluate, export, info, "
            "inspect, profile, quantize, run, scale, train, got 'trian'; did you mean 'train'?\n",
        ),
        (
            ["--verison"],
            "mulfree: error: unknown option --verison; did you mean --version?\n",
        ),
        (["--ver"], "mulfree: error: unknown option --ver; did you mean --version?\n"),
    ],
)
def test_a_mistyped_word_is_one_line(
    words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(words) == 2
    assert capsys.readouterr().err == line


def test_the_process_gives_the_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["mulfree", "--version"])
    assert command.main() == 0
    assert capsys.readouterr().out == f"mulfree {mulfree.__version__}\n"


def test_a_command_gets_its_words_and_gives_the_status(
    fake_command: Replace,
) -> None:
    fake_command(lambda words: 7 if words == ["a", "-h"] else 0)
    assert command.main(["info", "a", "-h"]) == 7


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ArtifactError("load: `path` must be\nwhole"), 2, "error: load: `path` must be whole"),
        (DataError("no data"), 2, "error: no data"),
        (TrainingError("not finite"), 1, "error: not finite"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "error: No space left on device"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/etc/x"),
            1,
            "error: Permission denied: /etc/x",
        ),
        (OSError("odd"), 1, "error: odd"),
        (MemoryError("10 EB"), 1, "error: out of memory: 10 EB"),
        (RuntimeError("can't allocate memory"), 1, "error: out of memory: can't allocate memory"),
        (SystemExit("stop"), 1, "error: stop"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_an_error_is_one_line(
    error: BaseException,
    status: int,
    line: str,
    fake_command: Replace,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fake_command(raising(error))
    assert command.main(["info"]) == status
    assert capsys.readouterr().err == f"mulfree info: {line}\n"


@pytest.mark.parametrize(("code", "status"), [(None, 0), (0, 0), (3, 3)])
def test_a_parser_that_leaves_gives_its_status(
    code: int | None, status: int, fake_command: Replace
) -> None:
    fake_command(raising(SystemExit(code)))
    assert command.main(["info"]) == status


def test_a_mistake_of_ours_keeps_its_traceback(
    fake_command: Replace,
) -> None:
    fake_command(raising(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        command.main(["info"])


def test_a_reader_that_leaves_is_no_error(
    fake_command: Replace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Closed(io.StringIO):
        def flush(self) -> None:
            raise BrokenPipeError

    fake_command(lambda words: 0)
    monkeypatch.setattr(sys, "stdout", Closed())
    assert command.main(["info"]) == 1
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
@pytest.mark.parametrize("buffering", [[], ["-u"]])
@pytest.mark.parametrize("option", ["-h", "--version"])
def test_a_full_disk_behind_stdout_is_one_line(buffering: list[str], option: str) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, *buffering, "-m", "mulfree", option],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "mulfree: error: No space left on device\n")


@pytest.mark.parametrize(
    ("encoding", "written"),
    [("ascii", rb"gr\xfcn \udcff.png"), ("utf-8", "grün ".encode() + rb"\udcff.png")],
)
def test_names_that_stdout_cannot_encode_are_escaped(
    encoding: str,
    written: bytes,
    fake_command: Replace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_command(lambda words: print("grün \udcff.png") or 0)
    stdout = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    monkeypatch.setattr(sys, "stdout", stdout)
    assert command.main(["info"]) == 0
    assert stdout.buffer.getvalue().strip() == written


def test_an_error_of_the_system_is_escaped_and_bounded(
    fake_command: Replace, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_command(raising(OSError(errno.ENOENT, "No such file", "\x1b[31m" + "x" * 1000)))
    assert command.main(["info"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(r"mulfree info: error: No such file: \x1b[31mxxx")
    assert len(line) == len("mulfree info: error: ") + 400


def test_closed_streams(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as closed:
        closed.setattr(sys, "stderr", None)
        assert command.main(["nope"]) == 2
        sys.stderr.close()
    assert capsys.readouterr() == ("", "")
    with monkeypatch.context() as closed:
        closed.setattr(sys, "stdout", None)
        assert command.main(["--version"]) == 0
        sys.stdout.close()
    assert capsys.readouterr() == ("", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stderr_keeps_the_status(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stderr", full)
        assert command.main(["nope"]) == 2
