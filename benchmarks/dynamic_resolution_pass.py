"""A pass of dynamic resolution against the sum of its parts, in int8.

`python benchmarks/dynamic_resolution_pass.py`: random weights and images, a third of them at each
resolution. The parts are predictor and classifier on images that lie in one batch, of the size of
the part. Whole and parts take turns; the ratio is a median over rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from mulfree import models
from mulfree.models.dynamic_resolution import DynamicResolutionNetwork
from mulfree.quantization import quantize_resolutions
from mulfree.runtime import DynamicResolutionSession
from mulfree.runtime.resize import resize


def main() -> None:
    """Print the ratio, and the times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--operator", default="conv2d")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--resolutions", type=int, nargs="+", default=[32, 24, 16])
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=21)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = models.create_model(
        "dynamic_resolution",
        operator=options.operator,
        network=options.network,
        width=options.width,
        resolutions=options.resolutions,
    )
    assert isinstance(model, DynamicResolutionNetwork)
    side = max(options.resolutions)
    calibration = torch.randn(16, 3, side, side)
    model(calibration)
    session = DynamicResolutionSession(
        quantize_resolutions(model.eval(), calibration), threads=options.threads
    )
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (options.images, 3, side, side), np.uint8)
    chosen = np.resize(options.resolutions, options.images)
    rng.shuffle(chosen)
    predictor_images = resize(images, session.predictor.graph.input_value.shape[1])
    batches = {r: resize(images[chosen == r], r) for r in options.resolutions}

    def whole() -> None:
        session.predict_resolution(images)
        session.run_by(images, chosen)

    parts: list[Callable[[], object]] = [lambda: session.predictor.run(predictor_images)]
    parts += [partial(session.networks[r].run, b) for r, b in batches.items()]
    ratios, seconds = [], []
    for turn in range(options.rounds + 1):
        together, apart = _seconds(whole), sum(map(_seconds, parts))
        # The first round allocates.
        if turn:
            ratios.append(together / apart)
            seconds.append(together)
    ms = 1000 * statistics.median(seconds) / options.images
    print(
        f"ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}), "
        f"{ms:.3f} ms an image, {options.threads} thread(s)"
    )


def _seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
