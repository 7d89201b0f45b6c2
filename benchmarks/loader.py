"""What the loader costs: by itself, and as a share of a training step.

    PYTHONPATH=src python benchmarks/loader.py [--device cuda] [--output loader.json]

Operations and copies are counted on a stand-in for an accelerator (torch's device "meta"), so that
they are the same numbers on every machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mulfree.data import BatchLoader, ImageSet, ResizedCrop, ShiftFlip, Transform
from mulfree.data.cache import ArrayWriter, map_array
from mulfree.environment import environment
from mulfree.models import create_model

Step = Callable[[Tensor, Tensor], object]

ROUNDS = 7
_ACCELERATOR = "meta"
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


class Counts(TorchDispatchMode):
    """Counts what is asked of an accelerator: operations, copies to it, and waits for it.

    Views and allocations cost it nothing. Some operations are two launches. torch does not show
    the copy in `torch.tensor([...], device=...)`.
    """

    operations = 0
    copies = 0
    waits = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given = self._places((args, kwargs))
        made = self._places(result)
        view = any(out.alias_info and not out.alias_info.is_write for out in func._schema.returns)
        name = func.overloadpacket.__name__
        if _ACCELERATOR in given and (name == "_local_scalar_dense" or made == {"cpu"}):
            self.waits += 1
        elif _ACCELERATOR in made and "cpu" in given:
            self.copies += 1
        elif _ACCELERATOR in made and not view and not name.startswith("empty"):
            self.operations += 1
        return result

    @staticmethod
    def _places(tree: Any) -> set[str]:
        # Numbers that torch has wrapped are on the CPU and no memory of anybody's.
        return {
            leaf.device.type
            for leaf in tree_leaves(tree)
            if isinstance(leaf, Tensor) and (leaf.dim() or leaf.device.type != "cpu")
        }


def count(loader: BatchLoader) -> dict[str, dict[str, int]]:
    """Operations, copies and waits of the start of a pass, and of each batch after the first.

    Args:
        loader: Of at least two batches, wanted on "meta"; a thread's work would not be counted.
    """
    seen = []
    next(iter(loader))  # constants of the device
    batches = iter(loader)
    for _ in range(2):
        with Counts() as counts:  # type: ignore[no-untyped-call]
            next(batches)
        seen.append({key: getattr(counts, key) for key in ("operations", "copies", "waits")})
    first, second = seen
    return {"start": {key: first[key] - second[key] for key in first}, "batch": second}


def synchronise(device: torch.device) -> None:
    """Wait until `device` has done what it was asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def endless(loader: BatchLoader) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of one epoch after the other."""
    return itertools.chain.from_iterable(itertools.repeat(loader))


def throughput(loader: BatchLoader, batches: int) -> dict[str, float]:
    """Images a second, and the host's microseconds a batch, of the loader by itself."""
    source = endless(loader)
    host, whole, images = [], [], 0
    next(source)
    for _ in range(ROUNDS):
        synchronise(loader.device)
        start = time.perf_counter()
        images = sum(len(labels) for _, labels in itertools.islice(source, batches))
        host.append(time.perf_counter() - start)
        synchronise(loader.device)
        whole.append(time.perf_counter() - start)
    return {
        "images_per_s": round(images / statistics.median(whole)),
        "host_us_per_batch": round(statistics.median(host) / batches * 1e6, 1),
    }


def loader_share(
    make_step: Callable[[], Step], loader: BatchLoader, batches: int
) -> dict[str, float]:
    """The share of a training step's time that the loader adds.

    Steps on the loader's batches and steps on one fixed batch take turns, `batches` at a time, in
    an order that is reversed every round.

    Args:
        make_step: Makes the training step, called with images and labels.
        loader: Has full batches only. Starts of epochs are part of what is measured.
        batches: Steps per sample.

    Returns:
        Medians over the rounds: `step_ms` on the fixed batch, `step_with_loader_ms`; `ratio` of
        the second over the first within a round with its quartiles; `share` is `1 - 1 / ratio`,
        how much of the time the network waits for the loader.
    """
    step = make_step()
    source = endless(loader)
    fixed = next(source)

    def sample(given: Iterator[tuple[Tensor, Tensor]]) -> float:
        synchronise(loader.device)
        start = time.perf_counter()
        for images, labels in itertools.islice(given, batches):
            step(images, labels)
        synchronise(loader.device)
        return (time.perf_counter() - start) / batches * 1e3

    candidates: dict[str, Iterator[tuple[Tensor, Tensor]]] = {
        "fixed": itertools.repeat(fixed),
        "loaded": source,
    }
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for given in candidates.values():
        sample(given)
    for number in range(ROUNDS):
        for name in sorted(candidates, reverse=bool(number % 2)):
            times[name].append(sample(candidates[name]))
    ratios = [with_loader / alone for alone, with_loader in zip(*times.values(), strict=True)]
    low, ratio, high = statistics.quantiles(ratios, n=4)
    return {
        "step_ms": round(statistics.median(times["fixed"]), 4),
        "step_with_loader_ms": round(statistics.median(times["loaded"]), 4),
        "ratio": round(ratio, 4),
        "ratio_q1": round(low, 4),
        "ratio_q3": round(high, 4),
        "share": round(1 - 1 / ratio, 4),
    }


def in_memory(images: int) -> tuple[ImageSet, Transform]:
    """Made-up images of CIFAR's shape and its augmentation."""
    pixels = torch.randint(256, (images, 3, 32, 32), dtype=torch.uint8)
    transform = Transform(mean=MEAN, std=STD, augmentation=ShiftFlip(padding=4))
    return ImageSet(pixels, torch.arange(images) % 10), transform


def in_file(folder: Path, images: int) -> tuple[ImageSet, Transform]:
    """Made-up images of the shape of ImageNet's cache, in a file, and its augmentation."""
    draws = np.random.default_rng(0)
    with ArrayWriter(folder / "images.npy", (3, 256, 256)) as writer:
        for _ in range(images):
            writer.append(draws.integers(0, 256, (1, 3, 256, 256), dtype=np.uint8))
    transform = Transform(mean=MEAN, std=STD, augmentation=ResizedCrop(size=224))
    labels = torch.arange(images) % 1000
    return ImageSet(map_array(folder / "images.npy"), labels, mapped=True), transform


def resnet20_step(device: torch.device) -> Step:
    """A training step of the convolutional ResNet-20, the fastest network a loader must feed."""
    network = create_model("resnet20").to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    loss = nn.CrossEntropyLoss()

    def step(images: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad()
        loss(network(images), labels).backward()
        optimizer.step()

    return step


def measure(device: torch.device, folder: Path, scale: int) -> dict[str, Any]:
    """All figures.

    Args:
        device: Where batches are wanted.
        folder: For the file of images.
        scale: 1 for what is published; more for that many times fewer images and batches.
    """
    results: dict[str, Any] = {}
    cifar, shift_flip = in_memory(50_000 // scale)
    batch = 256 // scale
    options: dict[str, Any] = {"train": True, "transform": shift_flip}
    resident = BatchLoader(cifar.to(device), batch, device=device, **options)
    results["cifar10, in memory"] = {
        **throughput(resident, 200 // scale),
        **count(BatchLoader(cifar.to("meta"), batch, device="meta", **options)),
    }
    imagenet, resized_crop = in_file(folder, 2048 // scale)
    batch = 64 // scale
    options = {"train": True, "transform": resized_crop}
    for ahead in (0, 2):
        streamed = BatchLoader(imagenet, batch, device=device, prefetch=ahead, **options)
        results[f"imagenet, in a file, {ahead} ahead"] = {
            **throughput(streamed, 8),
            **count(BatchLoader(imagenet, batch, device="meta", prefetch=0, **options)),
        }
    if device.type == "cuda":
        results["share of a resnet20 step"] = loader_share(
            lambda: resnet20_step(device), resident, 200 // scale
        )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads")
    parser.add_argument("--scale", type=int, default=1, help="so many times fewer images")
    parser.add_argument("--output", type=Path, help="also write the figures to this JSON file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        results = measure(torch.device(arguments.device), Path(folder), arguments.scale)
    for name, figures in results.items():
        print(name)
        for key, value in figures.items():
            print(f"  {key:24}{value}")
    if arguments.output is not None:
        content = {"environment": environment(), "device": arguments.device, "loader": results}
        arguments.output.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
