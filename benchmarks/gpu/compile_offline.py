"""Compile the kernel of a Triton launch for a GPU that is not there, and read what came out."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.errors import TritonError
from triton.runtime.jit import create_function_from_signature

from benchmarks.gpu import sass
from mulfree._triton import Launch
from mulfree.bench.correctness import BenchmarkError

CAPABILITIES = (80, 90)

# They come with Triton's package.
_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """A compiled kernel.

    Attributes:
        name: The kernel's.
        capability: Compute capability times ten.
        code: Its instructions.
        resources: What a block of it needs.
    """

    name: str
    capability: int
    code: list[sass.Instruction]
    resources: sass.Resources


def compile_launch(launch: Launch, capability: int) -> Compiled:
    """Compile the kernel of a launch as its call on a device would.

    Triton compiles a version for what is known of the arguments: dtypes, integers equal to 1 or
    divisible by 16, aligned pointers. Here as there its own code decides that; tensors may be on
    the meta device and then count as aligned.

    Args:
        launch: The launch; nothing is run.
        capability: Compute capability times ten, such as 90.

    Raises:
        BenchmarkError: It does not compile.
    """
    target = GPUTarget("cuda", capability, 32)
    backend = make_backend(target)
    kernel = launch.kernel
    options = {"num_warps": launch.warps, "num_stages": launch.stages}
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialization, _ = bind(**launch.arguments, **launch.constants, **options)
    parsed, signature, constants, attributes = kernel._pack_args(
        backend, options, bound, specialization, options
    )
    source = ASTSource(kernel, signature, constants, attributes)
    try:
        compiled: Any = triton.compile(source, target=target, options=parsed.__dict__)
    except (TritonError, RuntimeError) as error:
        raise BenchmarkError(
            f"sass: {kernel.__name__} does not compile for sm_{capability}: {_reason(error)}"
        ) from error
    listing, usage = _dump(compiled.asm["cubin"])
    return Compiled(
        name=kernel.__name__,
        capability=capability,
        code=sass.parse(listing),
        resources=sass.parse_resources(
            usage, shared_bytes=compiled.metadata.shared, warps=compiled.metadata.num_warps
        ),
    )


def describe(
    compiled: Compiled, taps: Callable[[Sequence[sass.Instruction]], float] = lambda code: 0
) -> dict[str, Any]:
    """Registers, spills, shared memory, occupancy and the hottest loop, as JSON values.

    Args:
        compiled: The kernel.
        taps: Counts the taps of a piece of its code; 0 where that cannot be told.
    """
    loop = sass.hottest_loop(compiled.code)
    return {
        "kernel": compiled.name,
        "capability": compiled.capability,
        **asdict(compiled.resources),
        "spill_instructions": sass.spills(compiled.code),
        "occupancy": sass.occupancy(compiled.resources, compiled.capability),
        "instructions": len(compiled.code),
        "hottest_loop": sass.statistics(loop, taps(loop)),
    }


def _reason(error: BaseException) -> str:
    """The error that set off the others, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())


def _dump(binary: bytes) -> tuple[str, str]:
    """Listing and resource usage of a compiled kernel."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(binary)
        listing, usage = (
            subprocess.run(
                [str(_TOOLS / "cuobjdump"), option, str(path)],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for option in ("-sass", "--dump-resource-usage")
        )
    return listing, usage
