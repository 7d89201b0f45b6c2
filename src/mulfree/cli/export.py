"""`mulfree export`: a network as an ONNX file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mulfree.cli.arguments import Parser, file_path, sizes
from mulfree.cli.network import load_any, recall_images
from mulfree.cli.output import print_text
from mulfree.files import check_writable, write_atomically

if TYPE_CHECKING:
    from onnx import ValueInfoProto

_EPILOG = """\
A float network reads `images`, normalised float32, and a quantised one `pixels`, uint8; both give
`logits`, for any number of images. All operators are of the ONNX standard. A quantised network
computes the same integers in every ONNX runtime. Adder layers are loops there: they run anywhere,
but `mulfree run` is what makes them fast."""


def main(argv: list[str]) -> int:
    """Runs the verb with the words after it."""
    parser = Parser("mulfree export", "Write a network to an ONNX file.", _EPILOG)
    parser.add_argument(
        "file",
        type=file_path,
        metavar="CHECKPOINT|ARTIFACT",
        help="a .ckpt or .safetensors file, a run's directory, or an artifact of mulfree quantize",
    )
    parser.add_argument(
        "-o", "--output", type=file_path, required=True, metavar="FILE", help="the ONNX file"
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
    options = parser.parse_args(argv)
    check_writable(options.output)

    from mulfree.export.onnx import to_model
    from mulfree.runtime import Graph

    pixels = None if options.input is None else options.input == "pixels"
    model = load_any(options.file)
    if not isinstance(model, Graph) and options.input_size is None:
        recall_images("export", options.file, model)
    made = to_model(model, input_size=options.input_size, pixels=pixels)
    content = made.SerializeToString()
    write_atomically(options.output, content)
    ends = f"{_shown(made.graph.input[0])} -> {_shown(made.graph.output[0])}"
    print_text(f"{options.output}: {ends}, {len(content) / 1e6:.2f} MB")
    return 0


def _shown(value: ValueInfoProto) -> str:
    """Name, element type and shape, such as `images float32[batch, 3, 32, 32]`."""
    from onnx import helper

    tensor = value.type.tensor_type
    sizes = ", ".join(size.dim_param or str(size.dim_value) for size in tensor.shape.dim)
    return f"{value.name} {helper.tensor_dtype_to_np_dtype(tensor.elem_type)}[{sizes}]"
