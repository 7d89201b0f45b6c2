"""Top level of the command line: runs a command and prints an error as one line.

Only the standard library is imported here, so that `mulfree -h` answers at once; a command's module
is imported when the command is used.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import TextIO

from mulfree import __version__
from mulfree.cli.arguments import Parser
from mulfree.errors import MAX_MESSAGE, ConfigError, MulfreeError, choices_message, printable

COMMANDS = {
    "train": "train a network; without a configuration, a small adder network on digits",
    "evaluate": "measure a checkpoint on the test images",
    "inspect": "draw weights and features of trained networks",
    "profile": "count operations, parameters, bytes and energy, layer by layer",
    "scale": "scale a network to a cost, or search the ratios of compound scaling",
    "bench": "time the operators and a training step against the convolution",
    "quantize": "turn a network into integers and measure what that costs in accuracy",
    "run": "classify pictures with a quantised network, without torch",
    "export": "write a network for other programs, as ONNX",
    "info": "show versions, processor, kernels, data sets and models",
}

USAGE_ERROR = 2
FAILURE = 1
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Words after `mulfree`; the arguments of the process by default.

    Returns:
        Exit status: 0, 2 for bad usage or input, 1 for a failure, 130 when interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    _replace_closed()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name may hold bytes that are no text, and a terminal may lack the characters of one.
        sys.stdout.reconfigure(errors="backslashreplace")
    prefix = f"mulfree {words[0]}" if words and words[0] in COMMANDS else "mulfree"
    try:
        status = _dispatch(words, prefix)
        # Here, not at exit, where a failure could no longer be answered with one line.
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _fail(prefix, "interrupted", INTERRUPTED)
    except MulfreeError as error:
        return _fail(prefix, str(error), error.exit_code)
    except BrokenPipeError:
        # The reader has closed the pipe, as in `mulfree profile resnet20 | head`.
        _abandon(sys.stdout)
        return FAILURE
    except OSError as error:
        _abandon(sys.stdout)
        what = error.strerror or str(error)
        return _fail(prefix, f"{what}: {error.filename}" if error.filename else what, FAILURE)
    except (MemoryError, RuntimeError) as error:
        # Torch has no exception of its own for an allocation that fails on the CPU.
        if not isinstance(error, MemoryError) and "allocate memory" not in str(error):
            raise
        return _fail(prefix, f"out of memory: {error}", FAILURE)
    return status


def _dispatch(words: list[str], prefix: str) -> int:
    try:
        if not words or words[0].startswith("-"):
            return _top_level(words)
        command, *rest = words
        if command not in COMMANDS:
            raise ConfigError(choices_message("command line", "command", command, COMMANDS))
        status = importlib.import_module(f"mulfree.cli.{command}").main(rest)
        assert isinstance(status, int)
        return status
    except SystemExit as leaving:
        # A parser that has printed its help, or a message that is left to print.
        if leaving.code is None or isinstance(leaving.code, int):
            return leaving.code or 0
        return _fail(prefix, str(leaving.code), FAILURE)


def _top_level(words: list[str]) -> int:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {command.ljust(width)}  {text}" for command, text in COMMANDS.items())
    parser = Parser(
        prog="mulfree",
        description="Vision networks without multiplications.",
        epilog=f"commands:\n{commands}\n\n`mulfree COMMAND -h` explains a command.",
    )
    parser.usage = "mulfree [-h] [--version] COMMAND ..."
    parser.add_argument("--version", action="version", version=f"mulfree {__version__}")
    parser.parse_args(words)
    parser.print_help(sys.stderr)
    return USAGE_ERROR


def _fail(prefix: str, message: str, status: int) -> int:
    try:
        print(f"{prefix}: error: {printable(message, MAX_MESSAGE)}", file=sys.stderr, flush=True)
    except OSError:
        # Standard error is closed too: only the exit status is left.
        _abandon(sys.stderr)
    return status


def _replace_closed() -> None:
    """Replace a closed stream, which is None: `print` would write to another one."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


def _abandon(stream: TextIO) -> None:
    """Discard the buffer of a stream: flushing it at exit would fail again."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
