"""`mulfree export`: a network as a file that other programs run."""

from __future__ import annotations

from mulfree.cli.arguments import Parser, file_path, sizes
from mulfree.cli.network import load_any
from mulfree.cli.output import print_text
from mulfree.export import TARGETS, get_target, target_of
from mulfree.files import check_writable

_EPILOG = """\
onnx   a float network reads `images`, normalised float32, and a quantised one `pixels`, uint8;
       both give `logits`, for any number of images. All operators are of the ONNX standard. A
       quantised network computes the same integers in every ONNX runtime. Adder layers are loops
       there: they run anywhere, but `mulfree run` is what makes them fast."""


def main(argv: list[str]) -> int:
    """Run the command."""
    parser = Parser("mulfree export", "Write a network for other programs.", _EPILOG)
    parser.add_argument(
        "file",
        type=file_path,
        metavar="CHECKPOINT|ARTIFACT",
        help="a .ckpt or .safetensors file, a run's directory, or an artifact of mulfree quantize",
    )
    parser.add_argument(
        "-o", "--output", type=file_path, required=True, metavar="FILE", help="file to write"
    )
    parser.add_argument(
        "--to",
        metavar="TARGET",
        help=f"one of {', '.join(TARGETS)} (default: by the suffix of the file)",
    )
    parser.add_argument(
        "--input-size",
        type=sizes,
        metavar="C,H,W",
        help="shape of an image of a float network (default: what it was trained on)",
    )
    parser.add_argument(
        "--input",
        choices=("pixels", "images"),
        help="what a quantised network reads: bytes, or normalised floats (default: pixels)",
    )
    parser.add_argument("--depth", metavar="NAME", help="sub-net of a depth-dynamic network")
    options = parser.parse_args(argv)
    target = target_of(options.output) if options.to is None else get_target(options.to)
    check_writable(options.output)

    images_for = "export" if options.input_size is None else None
    model = load_any(options.file, images_for=images_for, depth=options.depth)
    pixels = None if options.input is None else options.input == "pixels"
    ends = target.write(model, options.output, input_size=options.input_size, pixels=pixels)
    # A device has no size.
    size = f", {options.output.stat().st_size / 1e6:.2f} MB" if options.output.is_file() else ""
    print_text(f"{options.output}: {ends}{size}")
    return 0
