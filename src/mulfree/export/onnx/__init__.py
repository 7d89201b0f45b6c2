"""Networks as ONNX files, of operators of the standard alone and for any number of images.

References:
    The operators: https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mulfree.errors import BackendUnavailableError, ConfigError
from mulfree.files import write_atomically
from mulfree.runtime import Graph

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto
    from torch import nn

SUFFIX = ".onnx"

# The longest message of protocol buffers.
_MAX_BYTES = 2**31 - 1


def to_onnx(
    model: nn.Module | Graph,
    path: str | os.PathLike[str],
    *,
    input_size: Sequence[int] | None = None,
    pixels: bool | None = None,
) -> None:
    """Write a network to an ONNX file, as it is in evaluation.

    A float network reads `images`, float32 `[N, C, H, W]`, and a quantised one `pixels`, uint8 of
    the same shape; both give `logits`, float32 `[N, classes]`, for any N, or the several outputs of
    the network by their names. A quantised network
    computes the integers of `mulfree.runtime`, bit for bit. ONNX has no adder layer: it is
    written as a loop over taps, which runs anywhere, but is not fast. The metadata of the file hold
    the preprocessing of images and the names of classes, as far as these are known.

    Args:
        model: Any network that `torch.export` takes, in float32, or a quantised graph.
        path: The file, replaced if it exists.
        input_size: C, H, W of an image, for a float network; by default what a model of
            `create_model` was trained on, or else what it is made for.
        pixels: False for a quantised network that reads normalised `images` instead of pixels.

    Raises:
        ConfigError: An option is missing, or not valid for this kind of network.
        DTypeError: A parameter is not of float32.
        ShapeError: The network does not take images of this size.
        BackendUnavailableError: A package is missing.
        OSError: The file cannot be written.
    """
    write(model, path, input_size=input_size, pixels=pixels)


def write(
    model: nn.Module | Graph,
    path: str | os.PathLike[str],
    *,
    input_size: Sequence[int] | None = None,
    pixels: bool | None = None,
) -> str:
    """Write a network as `to_onnx` does; returns names, types and shapes of input and output."""
    made = to_model(model, input_size=input_size, pixels=pixels)
    write_atomically(Path(path), made.SerializeToString())
    outputs = ", ".join(map(_signature, made.graph.output))
    return f"{_signature(made.graph.input[0])} -> {outputs}"


def _signature(value: ValueInfoProto) -> str:
    """Name, element type and shape, such as `images float32[batch, 3, 32, 32]`."""
    from onnx import helper

    tensor = value.type.tensor_type
    sizes = ", ".join(size.dim_param or str(size.dim_value) for size in tensor.shape.dim)
    return f"{value.name} {helper.tensor_dtype_to_np_dtype(tensor.elem_type)}[{sizes}]"


def to_model(
    model: nn.Module | Graph,
    *,
    input_size: Sequence[int] | None = None,
    pixels: bool | None = None,
) -> ModelProto:
    """The ONNX model that `to_onnx` writes, of the same arguments and with the same errors."""
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise BackendUnavailableError(
            "to_onnx: ONNX files need onnx: pip install mulfree[onnx]"
        ) from error

    if isinstance(model, Graph):
        if input_size is not None:
            raise ConfigError(
                f"to_onnx: `input_size` must be left out with a quantised graph, got {input_size}"
            )
        from mulfree.export.onnx import integers

        made = integers.to_model(model, pixels=pixels is not False)
    else:
        if pixels is not None:
            raise ConfigError(
                f"to_onnx: `pixels` must be left out with a float network, got {pixels}"
            )
        from mulfree.export.onnx import network

        made = network.to_model(model, input_size)
    size = made.ByteSize()
    if size > _MAX_BYTES:
        raise ConfigError(
            f"to_onnx: `model` must fit in an ONNX file of {_MAX_BYTES} bytes, got one of {size}"
        )
    onnx.checker.check_model(made, full_check=True)
    return made
