"""Reproducible, class-balanced splits of labelled images, equal on every machine."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mulfree.errors import ConfigError, quoted


def _scrambled(count: int, seed: int = 0) -> Tensor:
    """A fixed permutation of 0..count-1 for every seed, `[count]`.

    Indices are sorted by their SplitMix64 finaliser, plain integer arithmetic: splits are part of
    published results, and a library's shuffle may change with its version.
    """
    mixed = (torch.arange(count) + 1 + (seed << 32)) * -0x61C8864680B583EB
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        # Logical shift right: torch's int64 shift keeps the sign, the mask removes it.
        mixed = (mixed ^ ((mixed >> shift) & ((1 << (64 - shift)) - 1))) * factor
    mixed = mixed ^ ((mixed >> 31) & ((1 << 33) - 1))
    return torch.argsort(mixed)


def _rank_in_class(labels: Tensor, seed: int = 0) -> Tensor:
    """Rank of each image within its class in the fixed order of a seed, `[N]`."""
    order = _scrambled(len(labels), seed)
    ranks = torch.empty(len(labels), dtype=torch.int64)
    for label in labels.unique():
        rows = order[labels[order] == label]
        ranks[rows] = torch.arange(len(rows))
    return ranks


def hold_out(labels: Tensor, fraction: float) -> tuple[Tensor, Tensor]:
    """Split a set into kept and held-out images, `fraction` of every class.

    Args:
        labels: `[N]`.
        fraction: 0 to 1; the number of each class is rounded.

    Returns:
        Row numbers of both parts, ascending.
    """
    share = (labels.bincount() * fraction).round()
    held = _rank_in_class(labels) < share[labels]
    return (~held).nonzero().flatten(), held.nonzero().flatten()


def stratified(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """Choose `fraction` of every class, at least one image of each that has any.

    Args:
        labels: `[N]`.
        fraction: Above 0, at most 1; the number of each class is rounded.
        seed: Choice of the images. A larger fraction contains the images of a smaller one.

    Returns:
        Row numbers, ascending.
    """
    share = (labels.bincount() * fraction).round().clamp_min(1)
    return (_rank_in_class(labels, seed) < share[labels]).nonzero().flatten()


def few_shot(labels: Tensor, classes: Sequence[str], count: int, seed: int) -> Tensor:
    """Choose `count` images of every class.

    Args:
        labels: `[N]`.
        classes: Names of the classes.
        count: Images of each class.
        seed: Choice of the images. A larger count contains the images of a smaller one.

    Returns:
        Row numbers, ascending.

    Raises:
        ConfigError: A class has fewer images.
    """
    sizes = labels.bincount(minlength=len(classes))
    smallest = int(sizes.argmin())
    if count > sizes[smallest]:
        raise ConfigError(
            f"data.load: `per_class` must be at most the {sizes[smallest]} training images of "
            f"class {quoted(classes[smallest])}, got {count}"
        )
    return (_rank_in_class(labels, seed) < count).nonzero().flatten()


def balanced(labels: Tensor, count: int) -> Tensor:
    """Choose `count` images, equally many of each class until a class is exhausted.

    Args:
        labels: `[N]`.
        count: At most N.

    Returns:
        Row numbers, ascending.
    """
    classes = int(labels.max()) + 1 if len(labels) else 1
    by_turn = torch.argsort(_rank_in_class(labels) * classes + labels)
    return by_turn[:count].sort().values
