"""Peak memory that a fresh Python process measures of itself."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from mulfree.bench.correctness import BenchmarkError


def memory_in_process(program: str, settings: Mapping[str, Any], name: str) -> dict[str, int]:
    """Peak memory that a program prints as JSON.

    Args:
        program: Name of a module that runs as a program.
        settings: Its argument, as JSON.
        name: Name of the candidate in messages.

    Raises:
        BenchmarkError: The process failed.
    """
    command = [sys.executable, "-P", "-m", program, json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()[-1:] or [f"status {done.returncode}"]
        raise BenchmarkError(f"bench: memory of {name} was not measured: {reason[0]}")
    memory: dict[str, int] = json.loads(done.stdout)
    return memory
