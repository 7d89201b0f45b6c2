"""Networks of a stem, stages of blocks, and a classifier, as their parts.

Sub-nets of other depth, exits and grafting run these parts and depend on no family.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from mulfree.errors import ConfigError, quoted
from mulfree.models.parts import check_images

_MAX_BLOCKS = 1000


class StagedNetwork(nn.Module):
    """A network whose forward is its stem, its stages in order, and its classifier.

    Attributes:
        in_channels: Channels of the images.
        minimum_side: Smallest height and width of the images.
        last_differs: Whether the last block that runs of a stage computes something else.
        kept: Numbers of the blocks that run, for each stage; None for all.
    """

    minimum_side: ClassVar[int] = 1
    last_differs: ClassVar[bool] = False

    in_channels: int
    kept: Sequence[Sequence[int]] | None = None

    @abstractmethod
    def stage_blocks(self) -> list[list[str]]:
        """Return the names of the blocks of every stage, in order, whether they run or not."""

    def after_stages(self) -> list[str]:
        """Return the names of the children after the last block: head, classifier, their norms."""
        last = self.stage_blocks()[-1][-1]
        names = [name for name, _ in self.named_children()]
        return names[names.index(last.partition(".")[0]) + 1 :]

    @abstractmethod
    def run_stem(self, images: Tensor) -> Tensor:
        """Images `[N, C_in, H, W]` to the input of the first stage."""

    @abstractmethod
    def classify(self, features: Tensor) -> Tensor:
        """Output of the last stage, `[N, C, H, W]`, to logits `[N, classes]`."""

    def keep_blocks(self, blocks: Sequence[Sequence[int]] | None) -> None:
        """Leave out all blocks but these in the following calls.

        Args:
            blocks: Numbers of the blocks that run, for each stage, rising from 0; None for all.

        Raises:
            ConfigError: There is no such block, or a stage keeps not even its first.
        """
        if blocks is not None:
            _check_kept(blocks, [len(stage) for stage in self.stage_blocks()])
        self.kept = blocks

    def running(self) -> list[list[str]]:
        """Return the names of the blocks that run, for each stage."""
        if self.kept is None:
            return self.stage_blocks()
        pairs = zip(self.stage_blocks(), self.kept, strict=True)
        return [[names[number] for number in kept] for names, kept in pairs]

    def run_stage(self, number: int, x: Tensor) -> Tensor:
        """Output of the blocks of a stage that run; a family with a module of it calls that."""
        return self.run_blocks(self.running()[number], x)

    def run_blocks(self, names: Sequence[str], x: Tensor) -> Tensor:
        """Output of consecutive blocks."""
        for name in names:
            x = self.get_submodule(name)(x)
        return x

    def forward(self, images: Tensor) -> Tensor:
        """Images `[N, C_in, H, W]` to logits `[N, classes]`."""
        check_images(type(self).__name__, images, self.in_channels, self.minimum_side)
        x = self.run_stem(images)
        for number in range(len(self.stage_blocks())):
            x = self.run_stage(number, x)
        return self.classify(x)


def _check_kept(blocks: Sequence[Sequence[int]], depths: Sequence[int]) -> None:
    valid = len(blocks) == len(depths) and all(
        # The first block changes channels and size of the maps.
        sorted(set(kept)) == list(kept) and list(kept)[:1] == [0] and kept[-1] < depth
        for kept, depth in zip(blocks, depths, strict=True)
    )
    if not valid:
        raise ConfigError(
            "keep_blocks: `blocks` must be rising numbers from 0 for each stage, of at most "
            f"{list(depths)} blocks, got {quoted([list(kept) for kept in blocks])}"
        )


def block_counts(blocks: Sequence[int] | None, design: Sequence[int]) -> list[int]:
    """Return the number of blocks of every stage for the option `blocks` of a family.

    Args:
        blocks: The option; None for the design.
        design: Blocks of every stage of the model.

    Raises:
        ConfigError: Another number of stages, or a stage of no or too many blocks.
    """
    if blocks is None:
        return list(design)
    valid = len(blocks) == len(design) and all(
        type(count) is int and 1 <= count <= _MAX_BLOCKS for count in blocks
    )
    if not valid:
        raise ConfigError(
            f"create_model: `blocks` must be {len(design)} numbers from 1 to {_MAX_BLOCKS}, "
            f"got {quoted(blocks)}"
        )
    return list(blocks)
