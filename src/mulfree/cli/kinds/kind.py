"""Interface of a kind of networks: its part of `mulfree quantize`, `evaluate` and `profile`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from mulfree import cost, data, training
from mulfree.cli.progress import with_progress
from mulfree.runtime import Graph

Integers = Graph | dict[str, Graph]
"""Quantised network: content of one file."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A network with its data and the words of a command.

    Attributes:
        model: The network.
        words: Options of the command.
        config: Configuration of the data.
        splits: The data.
        device: Device of the network and of the images.
    """

    model: nn.Module
    words: Namespace
    config: data.DataConfig
    splits: data.DataSplits
    device: str = "cpu"

    def loader(self, split: str = "test") -> data.BatchLoader:
        """Return the batches of a part of the data, preprocessed like test images."""
        images = getattr(self.splits, split)
        assert images is not None, split
        return data.BatchLoader(
            images,
            self.config.eval_batch_size,
            train=False,
            transform=self.splits.test_transform,
            device=self.device,
        )


class Accuracy(NamedTuple):
    """Accuracy of a network, or of one of its sub-nets.

    Attributes:
        value: Share of the images.
        name: Name of the sub-net; empty for the network itself.
        note: Text that follows in a printed line.
    """

    value: float
    name: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Further results of `mulfree evaluate`.

    Attributes:
        values: JSON values.
        text: Text of them.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""


class Part(NamedTuple):
    """A network that is counted, and the shape of its images.

    Attributes:
        network: The network.
        input_size: C, H, W.
    """

    network: nn.Module
    input_size: tuple[int, ...]


class Kind(ABC):
    """Facets of commands on one kind of networks.

    Attributes:
        network: Class of the networks.
        file_note: End of the line on the file of `mulfree quantize`.
        has_plot: Whether `mulfree evaluate` takes `--plot`.
        has_exits: Whether `mulfree evaluate` takes `--static`.
        parts_name: Name of the table of `parts`.
        has_whole: Whether the network is counted as a whole beside its parts.
    """

    network: ClassVar[type[nn.Module]]
    file_note: ClassVar[str] = ""
    has_plot: ClassVar[bool] = False
    has_exits: ClassVar[bool] = False
    parts_name: ClassVar[str] = "parts"
    has_whole: ClassVar[bool] = True

    @abstractmethod
    def quantize(
        self, job: Job, images: Sequence[Tensor], bits: int, options: Mapping[str, Any]
    ) -> Integers:
        """Return the integer network.

        Args:
            job: The network and its data.
            images: Batches for measuring ranges.
            bits: Bits of values and weights.
            options: Options of `mulfree.quantization.quantize`.

        Raises:
            ConfigError: An option does not apply to this kind, or one is missing.
        """

    def float_accuracies(self, job: Job) -> Iterator[Accuracy]:
        """Yield the accuracy of the floating-point network on the test images, or of sub-nets."""
        found = training.evaluate(job.model, with_progress(job.loader(), "as it is"))
        yield Accuracy(found.accuracy)

    @abstractmethod
    def integer_accuracies(self, job: Job, integers: Integers, label: str) -> Iterator[Accuracy]:
        """Yield the accuracies of the integer network, in the order of `float_accuracies`.

        Args:
            job: The network and its data.
            integers: A result of `quantize`.
            label: Text of the progress bar.
        """

    def evaluate(self, job: Job) -> Findings:
        """Return results beside accuracy and loss of the whole; by default none."""
        return Findings()

    def whole(self, model: nn.Module) -> nn.Module:
        """Return the module whose forward pass is counted; by default the network itself."""
        return model

    def count(self, model: nn.Module, **options: Any) -> cost.Profile:
        """Count the network layer by layer.

        Args:
            model: The network.
            **options: Options of `mulfree.cost.count`.
        """
        return cost.count(self.whole(model), **options)

    def parts(self, model: nn.Module, input_size: tuple[int, ...] | None) -> dict[str, Part]:
        """Return networks to count side by side, by name; by default none.

        Args:
            model: The network.
            input_size: C, H, W of its images; None for those that it is made for.
        """
        return {}


def share_correct(
    run: Callable[[NDArray[Any]], NDArray[np.float32]], test: data.BatchLoader, label: str
) -> float:
    """Accuracy of a session.

    Args:
        run: Logits of images, such as `Session.run`.
        test: Images and labels.
        label: Text of the progress bar.
    """
    correct = 0
    for images, labels in with_progress(test, label):
        correct += int((run(images.numpy()).argmax(axis=1) == labels.numpy()).sum())
    return correct / len(test.image_set)
