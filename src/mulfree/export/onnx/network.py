"""A float network as ONNX: torch's exporter, with adder layers written in standard operators.

Torch has no ONNX for `mulfree::adder2d`. While a network is exported the operator stands as one
node of its own, which is then replaced by the nodes of `mulfree.nodes.adder2d.onnx.distances`.
"""

from __future__ import annotations

import contextlib
import logging
import operator
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

import mulfree
from mulfree.errors import BackendUnavailableError, ConfigError, DTypeError, ShapeError, quoted
from mulfree.export.onnx.builder import OPSET, GraphBuilder
from mulfree.export.onnx.facts import set_facts
from mulfree.models import config_of
from mulfree.models import input_size as size_of
from mulfree.models.wrappers import unwrapped
from mulfree.nodes.adder2d.onnx import distances
from mulfree.nodes.sliding import ConvGeometry
from mulfree.operators.adder2d import schema as schema  # registers mulfree::adder2d

IMAGES, LOGITS = "images", "logits"

# Domain and name of what stands for an adder layer.
_DOMAIN, _ADDER = "mulfree", "Adder2d"


def to_model(network: nn.Module, input_size: Sequence[int] | None) -> onnx.ModelProto:
    """The ONNX model of a network, for any number of images.

    Args:
        network: Any network that `torch.export` takes, in float32; exported as in evaluation.
        input_size: C, H, W of an image; None for what the model of `create_model` is made for.

    Returns:
        A model from `images`, float32 `[N, C, H, W]`, to `logits`, or to the names of a mapping.

    Raises:
        DTypeError: A parameter is not of float32.
        ConfigError: No input size is given for a network that `create_model` did not build.
        ShapeError: The network does not take images of this size.
        BackendUnavailableError: onnxscript is missing.
    """
    try:
        import onnxscript as onnxscript  # torch's exporter needs it
    except ModuleNotFoundError as error:
        raise BackendUnavailableError(
            "to_onnx: a network of torch needs onnxscript: pip install mulfree[onnx]"
        ) from error
    if not isinstance(network, nn.Module):
        raise ConfigError(f"to_onnx: `model` must be a torch.nn.Module, got {quoted(network)}")
    network = unwrapped(network)
    for name, parameter in network.named_parameters():
        if parameter.dtype != torch.float32:
            raise DTypeError(
                f"to_onnx: `model` must have float32 parameters, got {parameter.dtype} of {name}"
            )
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    size = _checked_size(network, input_size)
    with _evaluating(network), _quiet():
        images, outputs = _fitting_images(network, size, device)
        program = torch.export.export(
            network, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},)
        ).run_decompositions({torch.ops.mulfree.adder2d.default: _stand_in})
        exported = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=[IMAGES],
            output_names=outputs,
        )
    assert exported is not None
    model = _with_standard_operators(exported.model_proto)
    _set_facts(model, network, max(images.shape[2:]))
    return model


def _set_facts(model: onnx.ModelProto, network: nn.Module, side: int) -> None:
    """Write what the network was trained on, where its recipe has it."""
    try:
        spec = config_of(network).images
    except ConfigError:
        return
    if spec is not None:
        # Images of another size than in training are resized to just this size.
        resize = spec.resize if side == max(spec.size[1:]) else side
        set_facts(model, mean=spec.mean, std=spec.std, resize=resize, classes=spec.classes)


def _checked_size(network: nn.Module, input_size: Sequence[int] | None) -> tuple[int, ...]:
    if input_size is None:
        try:
            return size_of(network)
        except ConfigError as error:
            raise ConfigError(
                "to_onnx: `input_size` must be given for a network that create_model did not "
                f"build, got a {type(network).__name__}"
            ) from error
    try:
        sizes = tuple(map(operator.index, input_size))
    except TypeError:
        sizes = ()
    if len(sizes) != 3 or min(sizes) < 1:
        raise ConfigError(
            f"to_onnx: `input_size` must be three positive sizes C, H, W, got {quoted(input_size)}"
        )
    return sizes


def _fitting_images(
    network: nn.Module, size: Sequence[int], device: torch.device
) -> tuple[Tensor, list[str]]:
    """Images that the network takes, and the names of its outputs.

    Two images, as one could be taken for the only number there is.
    """
    try:
        images = torch.zeros(2, *size, device=device)
        with torch.no_grad():
            outputs = network(images)
    # What a user's forward can raise has no common type.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ShapeError(
            f"to_onnx: `input_size` must fit {type(network).__name__}, got {tuple(size)}: {reason}"
        ) from error
    return images, list(outputs) if isinstance(outputs, Mapping) else [LOGITS]


def _stand_in(
    input: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    gradient: str,
    norm: float,
    backend: str | None = None,
) -> Tensor:
    """One node with all arguments of `_write_out`."""
    geometry = ConvGeometry(
        channels=input.shape[1],
        size=(input.shape[2], input.shape[3]),
        filters=weight.shape[0],
        kernel=(weight.shape[2], weight.shape[3]),
        stride=(stride[0], stride[1]),
        padding=(padding[0], padding[1]),
        dilation=(dilation[0], dilation[1]),
        groups=groups,
    )
    return torch.onnx.ops.symbolic(
        f"{_DOMAIN}::{_ADDER}",
        (input, weight),
        {**asdict(geometry), "norm": norm},
        dtype=input.dtype,
        shape=(input.shape[0], geometry.filters, *geometry.output),
        version=1,
    )


def _with_standard_operators(exported: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its adder layers written out, and without what torch notes about its origin.

    These notes hold, among others, paths of source files on this machine.
    """
    graph = exported.graph
    add = GraphBuilder("adder2d/")
    for node in graph.node:
        if node.domain == _DOMAIN:
            _write_out(add, node)
        else:
            add.nodes.append(node)
    tensors = [*graph.initializer, *add.constants]
    for noted in (*add.nodes, *graph.input, *graph.output, *tensors):
        noted.ClearField("metadata_props")
    _name_batch(graph)
    return helper.make_model(
        helper.make_graph(add.nodes, graph.name, graph.input, graph.output, tensors),
        producer_name="mulfree",
        producer_version=mulfree.__version__,
        ir_version=exported.ir_version,
        opset_imports=[entry for entry in exported.opset_import if entry.domain != _DOMAIN],
    )


def _name_batch(graph: onnx.GraphProto) -> None:
    """Call the number of images `batch`, which torch calls by a name of its own."""
    number = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param == number:
                size.dim_param = "batch"


def _write_out(add: GraphBuilder, node: onnx.NodeProto) -> None:
    """Add the standard operators of an adder layer, with the layer's own name for the result."""
    facts = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    norm = facts.pop("norm")
    geometry = ConvGeometry(**facts)
    filters, depth = geometry.filters // geometry.groups, geometry.channels // geometry.groups
    x, weight = node.input
    apart = add.integers(geometry.groups, filters, depth, *geometry.kernel)
    taps_first = add("Transpose", add("Reshape", weight, apart), perm=[3, 4, 2, 0, 1])
    shape = add.integers(geometry.taps, geometry.groups, filters, 1)
    distances(
        add,
        add.columns(x, geometry, np.float32(0)),
        add("Reshape", taps_first, shape),
        geometry,
        read=TensorProto.FLOAT,
        computed=TensorProto.FLOAT,
        norm=norm,
    )
    add.nodes[-1].output[0] = node.output[0]


@contextlib.contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Every layer as in evaluation, and as it was afterwards."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch's messages: absent torchvision, its own deprecated functions."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logger.setLevel(level)
