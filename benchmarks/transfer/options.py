"""Options that the commands of this folder share."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of the shared options, to which a command adds its own."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--steps", type=int, default=150, help="of each network that is trained")
    parser.add_argument("--images", type=int, default=2000, help="of each part that is evaluated")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="train nothing")
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Return the options of the command line; set the threads and create the folder."""
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    return options
