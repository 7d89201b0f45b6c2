"""Time a pass over a training set: the loader and every step of it."""

from __future__ import annotations

import os
from typing import Any

from mulfree import data
from mulfree.bench.device import clock_of
from mulfree.bench.steps import StepOptions, build_step, captured_step
from mulfree.data import BatchLoader, DataConfig, DataSplits, make_synthetic

# As many images as CIFAR-10 has, of its size.
_IMAGES = 50_000


def cifar10() -> tuple[str, DataSplits]:
    """CIFAR-10 from MULFREE_DATA, or random images of its size and number.

    Returns:
        "cifar10" or "synthetic", and the images.
    """
    if os.environ.get("MULFREE_DATA"):
        return "cifar10", data.load(DataConfig(name="cifar10"))
    return "synthetic", make_synthetic(train=_IMAGES, test=10)


def time_epoch(
    model: str,
    operator: str,
    splits: DataSplits,
    *,
    batch: int,
    options: StepOptions,
) -> dict[str, Any]:
    """Seconds of the second epoch, after one that warms everything up.

    Args:
        model: Name for `create_model`.
        operator: Operator of the network.
        splits: The images; the training images are kept on the device.
        batch: Images in a batch.
        options: Device, number format and mode.
    """
    loader = BatchLoader(
        splits.train.to(options.device),
        batch,
        train=True,
        transform=splits.train_transform,
        device=options.device,
    )
    size = (splits.in_channels, splits.image_size, splits.image_size)
    step = build_step(model, operator, size, options=options)
    if options.mode == "graph":
        step = captured_step(step, *next(iter(loader)))
    clock = clock_of(options.device)
    seconds = 0.0
    for epoch in range(2):
        loader.set_epoch(epoch)
        start = clock()
        for images, labels in loader:
            step(images, labels)
        seconds = clock() - start
    return {"seconds": seconds, "images_per_s": len(loader) * batch / seconds, "steps": len(loader)}
