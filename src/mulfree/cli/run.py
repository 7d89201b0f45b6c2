"""`mulfree run`: classify images with a quantised network. Torch is not loaded."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mulfree.cli.arguments import Parser, file_path, not_negative, positive, threads
from mulfree.cli.early_exit import classified, open_session
from mulfree.cli.output import print_text
from mulfree.errors import ConfigError, choices_message, printable
from mulfree.images import read_image
from mulfree.runtime import DynamicResolutionSession, Session
from mulfree.runtime.artifact import load_entries
from mulfree.runtime.dynamic_resolution import is_dynamic_resolution
from mulfree.tasks import DEFAULT, get_facet

_BATCH = 32


def main(argv: list[str]) -> int:
    """Run the command."""
    parser = Parser(
        "mulfree run", "Classify images with a network of `mulfree quantize`, without torch."
    )
    parser.add_argument(
        "file", type=file_path, metavar="FILE", help="an artifact of mulfree quantize"
    )
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="JPEG, PNG, WebP or BMP files")
    parser.add_argument(
        "--top", type=positive, default=1, metavar="K", help="classes to show (default: 1)"
    )
    parser.add_argument(
        "--threshold",
        type=not_negative,
        metavar="T",
        help="least confidence for leaving at an exit (default: those of the file)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, one object per line")
    parser.add_argument("--threads", type=threads, help="CPU threads (default: all)")
    parser.add_argument(
        "--depth", metavar="NAME", help="sub-net of a file of a depth-dynamic network"
    )
    options = parser.parse_args(argv)

    decode = get_facet(DEFAULT, "outputs").decode
    session = _session(options)
    # A name in a shell's pattern may hold what a terminal would obey.
    width = max(len(printable(path)) for path in options.images)
    for path, logits, name in _classified(session, options.images):
        found = decode(logits, session.graph.classes, options.top)
        if options.json:
            classes = [{"class": label, "probability": share} for label, share in found]
            taken = {} if name is None else {"exit": name}
            print(json.dumps({"image": path, "classes": classes, **taken}))
        else:
            listed = ", ".join(f"{label} {probability:.1%}" for label, probability in found)
            taken_at = "" if name is None else f"  ({name})"
            print_text(f"{printable(path).ljust(width)}  {listed}{taken_at}")
    return 0


def _session(options: Namespace) -> Session | DynamicResolutionSession:
    if options.depth is not None:
        return Session(options.file, threads=options.threads, depth=options.depth)
    entries = load_entries(options.file)
    if is_dynamic_resolution(entries):
        return DynamicResolutionSession(entries, threads=options.threads)
    if len(entries) > 1:
        raise ConfigError(choices_message("run", "--depth", None, entries))
    (graph,) = entries.values()
    return open_session("run", graph, options.threads, options.threshold)


def _classified(
    session: Session | DynamicResolutionSession, paths: list[str]
) -> Iterator[tuple[str, NDArray[np.float32], str | None]]:
    """Each path with its logits and the exit taken, a batch in memory at a time."""
    shape, resize = session.graph.input_value.shape, session.graph.input.resize
    for start in range(0, len(paths), _BATCH):
        part = paths[start : start + _BATCH]
        images = np.stack([read_image(path, shape, resize) for path in part])
        if isinstance(session, DynamicResolutionSession):
            yield from zip(part, session.run(images), [None] * len(part), strict=True)
        else:
            yield from zip(part, *classified(session, images), strict=True)
