"""From a trained network and some images to an integer network."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from mulfree import runtime
from mulfree.errors import ArtifactError, ConfigError
from mulfree.quantization.arguments import (
    check_choice,
    check_classes,
    check_kind,
    check_names,
    check_pictures,
    integer,
)
from mulfree.quantization.calibration import (
    Ranges,
    correct_norms,
    corrected_unless_harmful,
    find_ranges,
    make_grids,
)
from mulfree.quantization.fusion import make_plan
from mulfree.quantization.images import Batches, read_images
from mulfree.quantization.lower import lower
from mulfree.quantization.network import check_operations, check_weights, copied, plain
from mulfree.quantization.observers import OBSERVERS
from mulfree.quantization.preprocessing import Pictures
from mulfree.quantization.qparams import BITS, Layout

# Images that make statistics worth having, and images at a time.
_ENOUGH = 64
_TOGETHER = 128
# Images on which the recorded operations are compared with the network; not as many as they were
# recorded with, so that a number of images in the forward is found.
_COMPARED = 3


def quantize(
    model: nn.Module,
    batches: Batches,
    bits: int = 8,
    *,
    observer: str = "auto",
    correct: bool | None = None,
    shift_only: bool = False,
    ranges: Ranges | None = None,
    pictures: Pictures | None = None,
    name: str | None = None,
) -> runtime.Graph:
    """The network in integers, for `runtime.save` and `runtime.Session`.

    Every value gets a scale and a zero that fit what is seen of it in `batches`; input and weights
    of an adder layer share them. Batch normalisation, bias, residual and ReLU become one integer
    multiplication, addition and shift behind each layer. The network itself is not changed, nor
    are random states; it is copied to the CPU and computes in float32, or in float64 if it does.

    Args:
        model: A trained network that maps images to logits: one of `mulfree.models`, or any of
            the layers that these are made of; also inside `torch.compile`, `DataParallel`,
            `DistributedDataParallel` or `AveragedModel`.
        batches: Images `[N, C, H, W]` as the network takes them, floating-point tensors or arrays,
            or tuples that begin with them; or one such batch. With `pictures` also uint8 pixels.
            A thousand training images are enough.
        bits: 8, 6, 5 or 4: of what layers in the middle of the network read, and of their weights.
            The first layer, the classifier and what is only added have 8.
        observer: How ranges are found, one of `OBSERVERS`; see `observe`.
        correct: Correct the normalisations for the rounding, see `correct_norms`; by default where
            there are 64 images or more to learn that from, unless the logits of these show that it
            does harm. A network that was trained with the rounding must not be corrected for it.
        shift_only: Every factor behind a layer is a power of two, so that nothing but convolutions
            multiplies. Costs accuracy.
        ranges: The ranges of training with the rounding, instead of those seen in `batches`.
        pictures: How pictures become images. By default images are pixels over 255.
        name: What to call the network; by default as its class.

    Raises:
        ConfigError: An option is not valid, the network has something in it that cannot be
            quantised, which is named, or numbers are not finite.
        DTypeError: `batches` holds integers.
        ShapeError: `batches` holds no images, or of more than one size.

    References:
        Shared scale: arXiv 2101.10015. Ranges, and weights outside of them: arXiv 2212.10200.
    """
    bits = integer("bits", bits, BITS, f"one of {', '.join(map(str, BITS))}")
    check_choice("observer", observer, OBSERVERS)
    check_kind("shift_only", shift_only, bool | np.bool_, "True or False")
    check_kind("correct", correct, bool | np.bool_ | None, "True, False or None")
    check_kind("ranges", ranges, Mapping | None, "a mapping or None")
    check_kind("pictures", pictures, Pictures | None, "Pictures or None")
    network = copied(model)
    name = type(network).__name__ if name is None else name
    check_names(name, pictures)
    dtype = next((t.dtype for t in network.parameters() if t.is_floating_point()), torch.float32)
    images = read_images(batches, dtype, pictures)
    channels, height, width = images[0].shape[1:]
    if pictures is None:
        pictures = Pictures(
            mean=(0.0,) * channels, std=(1.0,) * channels, resize=max(height, width)
        )
    check_pictures(pictures, channels, max(height, width))
    # Statistics of a few images say little.
    count = sum(map(len, images))
    images = list(torch.cat(images).chunk(-(-count // _TOGETHER)))
    with torch.random.fork_rng(devices=()):
        simple = plain(network)
        plan = make_plan(simple, (channels, height, width))
        check_classes(pictures, plan.steps[-1].shape[0])
        check_weights(plan, simple)
        few = images[0][: _COMPARED if count >= _COMPARED else 1]
        check_operations(plan, network, simple, few)
        layout = Layout(plan=plan, bits=bits)
        known = find_ranges(layout, simple, images, observer) if ranges is None else ranges
        grids = make_grids(layout, known, shift_only=shift_only)
        if correct:
            correct_norms(layout, simple, images, grids, shift_only=shift_only)
        elif correct is None and ranges is None and count >= _ENOUGH:
            simple = corrected_unless_harmful(layout, simple, images, grids, shift_only=shift_only)
        try:
            # A number that leaves floating point is refused by the graph.
            with np.errstate(all="ignore"):
                return lower(name, layout, simple, grids, pictures, shift_only=shift_only)
        except ArtifactError as error:
            raise ConfigError(
                f"quantize: `model` must be a network that an artifact can hold, got {error}"
            ) from error
