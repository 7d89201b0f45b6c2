"""`mulfree quantize --model NAME`: published weights to integers, calibrated on pictures."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mulfree.cli.network import kind_of
from mulfree.cli.output import print_text
from mulfree.errors import ConfigError, quoted
from mulfree.images import read_image

if TYPE_CHECKING:
    from mulfree.models import ImageSpec

_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
_BATCH = 16


def quantize_published(arguments: Namespace, bits: Sequence[int]) -> None:
    """Quantise published weights and print the agreement with the floating-point network.

    Args:
        arguments: Words of the command line.
        bits: Bits of values and weights, tried one after the other; the first is written.

    Raises:
        ConfigError: No folder of pictures, or weights of unknown images.
        ArtifactError: The weights or a picture cannot be read.
    """
    # Imported late: torch takes a second to import.
    import torch

    from mulfree import models, runtime
    from mulfree.quantization import Preprocessing, quantize

    if arguments.pictures is None:
        raise ConfigError("quantize: `--pictures` must be given with --model, got none")
    model = models.load_published(arguments.checkpoint, arguments.model)
    spec = models.config_of(model).images
    if spec is None:
        raise ConfigError(
            "quantize: `CHECKPOINT` must be weights for ImageNet, with 1000 classes and a linear "
            f"classifier, got {models.config_of(model).arguments['num_classes']} classes"
        )
    pixels = _pixels(arguments.pictures, spec, arguments.images)
    batches = [torch.from_numpy(pixels[i : i + _BATCH]) for i in range(0, len(pixels), _BATCH)]
    preprocessing = Preprocessing(
        mean=spec.mean, std=spec.std, resize=spec.resize, classes=spec.classes
    )
    mean, std = (torch.tensor(row)[:, None, None] for row in (spec.mean, spec.std))
    with torch.inference_mode():
        floats = torch.cat([model((batch / 255 - mean) / std).argmax(1) for batch in batches])
    for number in bits:
        graph = quantize(
            model,
            batches,
            number,
            preprocessing=preprocessing,
            name=kind_of(model),
            observer=arguments.observer,
            power_of_two_scales=arguments.power_of_two_scales,
            equalize=arguments.equalize,
        )
        if number == bits[0]:
            runtime.save(graph, arguments.output)
        classes = runtime.Session(graph, threads=arguments.threads).run(pixels).argmax(axis=1)
        equal = int((classes == floats.numpy()).sum())
        print_text(
            f"{number} bits  the class of the float network on {equal} of {len(pixels)} pictures"
        )
    size = arguments.output.stat().st_size / 1000
    print_text(f"{arguments.output}: {size:,.0f} kB, {bits[0]} bits")


def _pixels(folder: Path, spec: ImageSpec, count: int) -> NDArray[np.uint8]:
    """Pixels of the first pictures of a folder by name, cropped for the network, `[N, C, H, W]`."""
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
    except OSError as error:
        raise ConfigError(
            f"quantize: `--pictures` must be a readable folder, got {quoted(str(folder))} "
            f"({error.strerror})"
        ) from error
    if not files:
        raise ConfigError(
            f"quantize: `--pictures` must be a folder of {', '.join(_SUFFIXES)} files, "
            f"got {quoted(str(folder))}"
        )
    return np.stack(
        [read_image(path, spec.size, spec.resize, "quantize") for path in files[:count]]
    )
