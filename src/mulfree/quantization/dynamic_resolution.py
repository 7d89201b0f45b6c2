"""Quantisation of networks of dynamic resolution: predictor and classifier at all resolutions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from mulfree import runtime
from mulfree.models.dynamic_resolution import PREDICTOR, DynamicResolutionNetwork, resized
from mulfree.quantization.images import Batches, read_images
from mulfree.quantization.preprocessing import Preprocessing
from mulfree.quantization.quantize import quantize


def quantize_resolutions(
    model: DynamicResolutionNetwork,
    batches: Batches,
    bits: int = 8,
    *,
    preprocessing: Preprocessing | None = None,
    name: str | None = None,
    **options: Any,
) -> dict[str, runtime.Graph]:
    """Quantise the entry points of a `runtime.DynamicResolutionSession`, for `runtime.save`.

    Every entry point is quantised for itself on the resized images: ranges, and with them the
    scales that inputs and weights of an adder layer share, differ between resolutions. Equal
    tensors, as the weights of convolutions are, are stored once.

    Args:
        model: A network of `create_model`.
        batches: Images as the network takes them, as of `quantize`.
        bits: As of `quantize`.
        preprocessing: Image preprocessing of the whole; by default images are pixels over 255.
        name: Name of the graphs, which the names of the entry points are added to.
        **options: Other options of `quantize`.

    Returns:
        `predictor`, whose classes are the resolutions, and the resolutions, such as "32".

    Raises:
        ConfigError: As of `quantize`.
        DTypeError: As of `quantize`.
        ShapeError: As of `quantize`.
    """
    dtype = next(parameter.dtype for parameter in model.parameters())
    images = torch.cat(read_images(batches, dtype, preprocessing))
    channels, *sides = images.shape[1:]
    if preprocessing is None:
        ones = (1.0,) * channels
        preprocessing = Preprocessing(mean=(0.0,) * channels, std=ones, resize=max(sides))
    graphs = {}
    for entry, (network, side) in model.extract_all().items():
        own = replace(
            preprocessing,
            resize=max(side, round(preprocessing.resize * side / max(sides))),
            classes=(
                tuple(map(str, model.resolutions)) if entry == PREDICTOR else preprocessing.classes
            ),
        )
        graphs[entry] = quantize(
            network,
            resized(images, side),
            bits,
            preprocessing=own,
            name=f"{name or type(model).__name__} {entry}",
            **options,
        )
    return graphs
