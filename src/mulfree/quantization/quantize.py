"""From a trained network and some images to an integer network."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from mulfree import runtime
from mulfree.errors import ConfigError, ShapeError, choices_message
from mulfree.quantization.calibration import Ranges, correct_norms, find_ranges, make_grids
from mulfree.quantization.clusters import divisible, make_clusters
from mulfree.quantization.grid import Layout
from mulfree.quantization.grouping import make_plan
from mulfree.quantization.lower import Pictures, lower
from mulfree.quantization.observers import OBSERVERS

MOST_GROUPS = 8

# Images that make statistics worth having, and images at a time.
_ENOUGH = 64
_TOGETHER = 128

Batches: TypeAlias = Iterable[Tensor | Sequence[Tensor]]


def quantize(
    model: nn.Module,
    batches: Batches,
    bits: int = 8,
    *,
    observer: str = "auto",
    groups: int = 1,
    correct: bool | None = None,
    shift_only: bool = False,
    edges: str = "int8",
    ranges: Ranges | None = None,
    pictures: Pictures | None = None,
    name: str | None = None,
) -> runtime.Graph:
    """The network in integers, for `runtime.save` and `runtime.Session`.

    Every value gets a scale and a zero that fit what is seen of it in `batches`; input and weights
    of an adder layer share them. Batch normalisation, bias, residual and ReLU become one integer
    multiplication, addition and shift behind each layer. The network itself is not changed.

    Args:
        model: A trained network that maps images to logits: one of `mulfree.models`, or any of
            the layers that these are made of.
        batches: Images `[N, C, H, W]` as the network takes them, or tuples that begin with them;
            a thousand training images are enough.
        bits: 8, 6, 5 or 4: of what layers in the middle of the network read, and of their weights.
            The first layer, the classifier and what is only added have 8.
        edges: Weights of convolutions and linear layers at the ends of the network, the first
            layer and the classifier: "int8", or "float" for floating-point ones.
        observer: How ranges are found, one of `OBSERVERS`; see `observe`.
        groups: 1 to 8. Filters of an adder layer in the middle of the network are put into so many
            groups that have a scale each, see `make_clusters`.
        correct: Correct the normalisations for the rounding, see `correct_norms`; by default where
            there are 64 images or more to learn that from. A network that was trained with the
            rounding must not be corrected for it.
        shift_only: Every factor behind a layer is a power of two, so that nothing but convolutions
            multiplies. Costs accuracy.
        ranges: The ranges of training with the rounding, instead of those seen in `batches`.
        pictures: How pictures become images. By default images are pixels over 255.
        name: What to call the network; by default as its class.

    Raises:
        ConfigError: An option is not valid, or the network has something in it that cannot be
            quantised, which is named.
        ShapeError: `batches` holds no images, or of more than one size.

    References:
        Shared scale: arXiv 2101.10015. Ranges, weights outside of them, and groups: arXiv
        2212.10200.
    """
    if observer not in OBSERVERS:
        raise ConfigError(choices_message("quantize", "observer", observer, OBSERVERS))
    if type(groups) is not int or not 1 <= groups <= MOST_GROUPS:
        raise ConfigError(f"quantize: `groups` must be an int in 1..{MOST_GROUPS}, got {groups!r}")
    if ranges is not None and groups > 1:
        raise ConfigError(
            "quantize: `groups` must be 1 for a network that was trained with the rounding, got "
            f"{groups}"
        )
    images = [batch if isinstance(batch, Tensor) else batch[0] for batch in batches]
    shapes = {tuple(batch.shape[1:]) for batch in images}
    if len(shapes) != 1 or any(batch.ndim != 4 or len(batch) == 0 for batch in images):
        seen = ", ".join(str(list(batch.shape)) for batch in images[:3]) or "nothing"
        raise ShapeError(
            f"quantize: `batches` must hold images [N, C, H, W] of one size, got {seen}"
        )
    channels, height, width = shapes.pop()
    # Statistics of a few images say little.
    count = sum(map(len, images))
    images = list(torch.cat(images).chunk(-(-count // _TOGETHER)))
    model = copy.deepcopy(model).eval().requires_grad_(False)
    plan = make_plan(model, (channels, height, width))
    divided = divisible(plan, model, groups)
    while True:
        layout = Layout(plan=plan, bits=bits, edges=edges, divided=divided)
        known = find_ranges(layout, model, images, observer) if ranges is None else ranges
        grids = make_grids(layout, known, shift_only=shift_only)
        clusters = make_clusters(layout, model, grids, groups, shift_only=shift_only)
        if len(clusters) == len(divided):
            break
        # Layers whose groups turned out to be one need no values of their own.
        divided = frozenset(clusters)
    if correct is None:
        correct = ranges is None and count >= _ENOUGH
    if correct:
        correct_norms(layout, model, images, grids, clusters=clusters, shift_only=shift_only)
    if pictures is None:
        pictures = Pictures(
            mean=(0.0,) * channels, std=(1.0,) * channels, resize=max(height, width)
        )
    name = name or type(model).__name__
    return lower(name, layout, model, grids, pictures, clusters=clusters, shift_only=shift_only)
