"""Post-training quantisation: a trained network and some images to an integer graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mulfree import runtime
from mulfree.errors import ArtifactError, ConfigError
from mulfree.quantization.arguments import (
    check_choice,
    check_classes,
    check_kind,
    check_names,
    check_preprocessing,
    integer,
)
from mulfree.quantization.bias_correction import correct_batch_norms
from mulfree.quantization.calibration import Ranges, find_ranges, make_qparams
from mulfree.quantization.equalization import equalize as equalized
from mulfree.quantization.fusion import fuse
from mulfree.quantization.images import Batches, read_images
from mulfree.quantization.layout import QuantLayout
from mulfree.quantization.lower import lower
from mulfree.quantization.network import check_operations, check_weights, copied, plain
from mulfree.quantization.observers import OBSERVERS
from mulfree.quantization.preprocessing import Preprocessing
from mulfree.quantization.qparams import BITS

MIN_CALIBRATION_IMAGES = 64
"""Fewest images whose statistics are used for bias correction by default."""
CALIBRATION_BATCH = 128
# Images for comparing the traced operations with the network. Different from the number of images
# in the trace, to detect a forward that depends on the batch size.
_COMPARED = 3


def quantize(
    model: nn.Module,
    batches: Batches,
    bits: int = 8,
    *,
    observer: str = "auto",
    bias_correction: bool | None = None,
    power_of_two_scales: bool = False,
    equalize: bool = False,
    ranges: Ranges | None = None,
    preprocessing: Preprocessing | None = None,
    name: str | None = None,
) -> runtime.Graph:
    """Quantise a network, for `runtime.save` and `runtime.Session`.

    Every value gets a scale and a zero point from its range over `batches`; input and weights of an
    adder layer share them. Batch norm, bias, residual and ReLU become one integer multiplication,
    addition and shift after each layer. The network itself is not changed, nor are random states;
    a copy on the CPU computes in float32, or in float64 if the network does.

    Args:
        model: A trained network that maps images to logits: one of `mulfree.models`, or any other
            of supported layers; also inside `torch.compile`, `DataParallel`,
            `DistributedDataParallel` or `AveragedModel`. A network that returns several logits by
            name, as `models.early_exit.AllExits`, gives a graph with these outputs.
        batches: Images `[N, C, H, W]` as the network takes them, floating-point tensors or arrays,
            or tuples that begin with them; or one such batch. With `preprocessing` also uint8
            pixels. A thousand training images are enough.
        bits: 8, 6, 5 or 4 bits for the inputs and weights of middle layers. The first layer, the
            classifier and values that are only added have 8.
        observer: Method of finding ranges, one of `OBSERVERS`; see `observe`.
        bias_correction: Correct the batch norms for the rounding, see `correct_batch_norms`. By
            default with 64 images or more, unless their logits show that it is harmful. Not for a
            network trained with quantisation-aware training.
        power_of_two_scales: Round every factor after a layer to a power of two: only convolutions
            multiply. Costs accuracy.
        equalize: Bring the channels of every value to similar ranges first if that rounds better,
            see `equalization.equalize`: for depthwise layers and ReLU6, as in MobileNetV2. Not with
            `ranges`.
        ranges: Ranges of quantisation-aware training, instead of ranges measured on `batches`.
        preprocessing: Image preprocessing. By default images are pixels over 255.
        name: Name of the graph; by default the name of the class.

    Raises:
        ConfigError: An option is not valid, the network has an operation that cannot be quantised,
            or numbers are not finite.
        DTypeError: `batches` holds integers.
        ShapeError: `batches` holds no images, or images of several sizes.

    References:
        Shared scale: arXiv 2101.10015. Ranges, and weights outside them: arXiv 2212.10200.
    """
    bits = integer("bits", bits, BITS, f"one of {', '.join(map(str, BITS))}")
    check_choice("observer", observer, OBSERVERS)
    check_kind("power_of_two_scales", power_of_two_scales, bool | np.bool_, "True or False")
    check_kind("equalize", equalize, bool | np.bool_, "True or False")
    check_kind("bias_correction", bias_correction, bool | np.bool_ | None, "True, False or None")
    check_kind("ranges", ranges, Mapping | None, "a mapping or None")
    check_kind("preprocessing", preprocessing, Preprocessing | None, "Preprocessing or None")
    if equalize and ranges is not None:
        raise ConfigError("quantize: `equalize` must be False with `ranges`, got True")
    prepared = prepare(
        model,
        batches,
        bits,
        observer=observer,
        power_of_two_scales=power_of_two_scales,
        equalize=equalize,
        preprocessing=preprocessing,
        name=name,
    )
    known = prepared.find_ranges() if ranges is None else ranges
    return prepared.lower(known, bias_correction, automatic=ranges is None)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A network that is ready to be calibrated.

    Attributes:
        name: Name of the graph.
        layout: Bit widths and shared scales.
        model: Copy of the network.
        images: Batches of images.
        observer: Method of finding ranges.
        power_of_two_scales: Round every factor after a layer to a power of two.
        preprocessing: Image preprocessing.
    """

    name: str
    layout: QuantLayout
    model: nn.Module
    images: Sequence[Tensor]
    observer: str
    power_of_two_scales: bool
    preprocessing: Preprocessing

    def find_ranges(self) -> Ranges:
        """Measure the ranges of all values on the images."""
        with torch.random.fork_rng(devices=()):
            return find_ranges(self.layout, self.model, self.images, self.observer)

    def lower(
        self, ranges: Ranges, bias_correction: bool | None, *, automatic: bool
    ) -> runtime.Graph:
        """Return the integer graph for ranges.

        Args:
            ranges: The ranges.
            bias_correction: As in `quantize`.
            automatic: Whether None means to correct with enough images, unless it is harmful.

        Raises:
            ConfigError: An artifact cannot hold the network, or a range is not valid.
        """
        model, rounding = self.model, {"power_of_two_scales": self.power_of_two_scales}
        with torch.random.fork_rng(devices=()):
            qparams = make_qparams(self.layout, ranges, **rounding)
            enough = sum(map(len, self.images)) >= MIN_CALIBRATION_IMAGES
            chosen = bias_correction is None and automatic and enough
            if bias_correction or chosen:
                model = correct_batch_norms(
                    self.layout, model, self.images, qparams, **rounding, unless_harmful=chosen
                )
            try:
                # The graph refuses numbers that are not finite.
                with np.errstate(all="ignore"):
                    return lower(
                        self.name, self.layout, model, qparams, self.preprocessing, **rounding
                    )
            except ArtifactError as error:
                raise ConfigError(
                    f"quantize: `model` must be a network that an artifact can hold, got {error}"
                ) from error


def prepare(
    model: nn.Module,
    batches: Batches,
    bits: int,
    *,
    observer: str,
    power_of_two_scales: bool,
    equalize: bool,
    preprocessing: Preprocessing | None,
    name: str | None,
) -> Prepared:
    """Copy and trace a network, and read the images; arguments and errors as in `quantize`."""
    network = copied(model)
    name = type(network).__name__ if name is None else name
    check_names(name, preprocessing)
    dtype = next((t.dtype for t in network.parameters() if t.is_floating_point()), torch.float32)
    images = read_images(batches, dtype, preprocessing)
    channels, height, width = images[0].shape[1:]
    if preprocessing is None:
        preprocessing = Preprocessing(
            mean=(0.0,) * channels, std=(1.0,) * channels, resize=max(height, width)
        )
    check_preprocessing(preprocessing, channels, max(height, width))
    count = sum(map(len, images))
    images = list(torch.cat(images).chunk(-(-count // CALIBRATION_BATCH)))
    with torch.random.fork_rng(devices=()):
        simple = plain(network)
        fused = fuse(simple, (channels, height, width))
        check_classes(preprocessing, fused.ops[-1].shape[0])
        check_weights(fused, simple)
        few = images[0][: _COMPARED if count >= _COMPARED else 1]
        check_operations(fused, network, simple, few)
        layout = QuantLayout(fused=fused, bits=bits)
        if equalize:
            simple = equalized(
                layout, simple, images, observer=observer, power_of_two_scales=power_of_two_scales
            )
    return Prepared(
        name=name,
        layout=layout,
        model=simple,
        images=images,
        observer=observer,
        power_of_two_scales=power_of_two_scales,
        preprocessing=preprocessing,
    )
