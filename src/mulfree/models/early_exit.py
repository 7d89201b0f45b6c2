"""Networks with exits: classifiers after some of the stages, at which confident images leave.

References:
    BranchyNet, arXiv 1709.01686: exits, joint training, entropy as the measure of confidence.
    MSDNet, arXiv 1703.09844: the largest probability as the measure of confidence.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mulfree.errors import ConfigError
from mulfree.models.parts import check_images, logit_norm
from mulfree.models.staged import StagedNetwork
from mulfree.runtime.exits import check_confidence, check_thresholds

FINAL = "logits"
"""Name of the output of the network itself, the last exit."""


def confidence(logits: Tensor, kind: str = "probability") -> Tensor:
    r"""Confidence of a classifier in its answer, from 0 to 1.

    .. math::
        \max_c p_c \quad \text{or} \quad 1 + \sum_c p_c \ln p_c \, / \ln C

    of the probabilities :math:`p` of :math:`C` classes, `softmax(logits)`, in float64.

    Args:
        logits: `[N, C]`.
        kind: "probability" or "entropy".

    Returns:
        `[N]`, float64.

    Raises:
        ConfigError: There is no such measure.
    """
    check_confidence("confidence", kind)
    logs = logits.double().log_softmax(dim=1)
    if kind == "probability":
        return logs.amax(dim=1).exp()
    if logits.shape[1] == 1:
        return torch.ones_like(logs[:, 0])
    # Without the product of -inf and 0, where a probability underflows.
    entropy: Tensor = torch.special.entr(logs.exp()).sum(dim=1)
    return 1 - entropy / math.log(logits.shape[1])


class Exit(nn.Module):
    """Global average pooling and a 1x1 classifier.

    Args:
        channels: Channels of the feature map.
        num_classes: Number of logits.
        norm_logits: Batch normalisation of the logits.
    """

    def __init__(self, channels: int, num_classes: int, norm_logits: bool) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        # No effect before batch norm.
        self.fc = nn.Conv2d(channels, num_classes, 1, bias=not norm_logits)
        self.bn_fc = logit_norm(num_classes, norm_logits)

    def forward(self, features: Tensor) -> Tensor:
        """`[N, C, H, W]` to logits `[N, classes]`."""
        logits: Tensor = self.bn_fc(self.fc(self.avgpool(features)))
        return logits.flatten(1)


class Prediction(NamedTuple):
    """Answers of a network with exits.

    Attributes:
        logits: Of the exit at which each image left, `[N, classes]`.
        exits: Number of that exit for each image, `[N]`, from 0.
    """

    logits: Tensor
    exits: Tensor


class EarlyExitNetwork(nn.Module):
    """A network of stages with further classifiers after some of them.

    `forward` gives the logits of the network alone. Outputs are named `exit1`, `exit2`, ... after
    the stages, counted from 1, and `logits` for the network's own, the last exit.

    Args:
        network: The network.
        stages: Stages that an exit follows, rising, counted from 1; the last stage has none.
        channels: Channels of the output of each stage.
        num_classes: Number of logits.
        norm_logits: Batch normalisation of the logits of the exits.

    Attributes:
        runs_partly: Whether a call leaves out some of the parameters: the exits have their own.
    """

    runs_partly = True

    def __init__(
        self,
        network: StagedNetwork,
        stages: Sequence[int],
        channels: Sequence[int],
        *,
        num_classes: int,
        norm_logits: bool,
    ) -> None:
        super().__init__()
        self.in_channels = network.in_channels
        self.minimum_side = network.minimum_side
        self.network = network
        self.exits = nn.ModuleDict(
            {
                f"exit{stage}": Exit(channels[stage - 1], num_classes, norm_logits)
                for stage in stages
            }
        )
        self._stages = list(stages)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of all outputs, in order."""
        return (*self.exits, FINAL)

    def forward(self, images: Tensor) -> Tensor:
        """Images `[N, C_in, H, W]` to the network's own logits `[N, classes]`."""
        logits: Tensor = self.network(images)
        return logits

    def all_logits(self, images: Tensor, last: str = FINAL) -> dict[str, Tensor]:
        """Images `[N, C_in, H, W]` to logits `[N, classes]` by name of the output, in order.

        Args:
            images: The images.
            last: The last output that is computed.
        """
        self._check(images)
        x, found = self.network.run_stem(images), {}
        for names, output in self.segments():
            x = self.network.run_blocks(names, x)
            found[output] = self.classify(output, x)
            if output == last:
                break
        return found

    def segments(self) -> Iterator[tuple[list[str], str]]:
        """Yield the blocks before each output since the previous one, and its name."""
        blocks = self.network.running()
        ends = [*self._stages, len(blocks)]
        for (start, end), output in zip(itertools.pairwise([0, *ends]), self.outputs, strict=True):
            yield [name for names in blocks[start:end] for name in names], output

    def classify(self, output: str, features: Tensor) -> Tensor:
        """Features at an output to its logits `[N, classes]`."""
        own = output == FINAL
        logits: Tensor = self.network.classify(features) if own else self.exits[output](features)
        return logits

    @torch.no_grad()
    def predict(
        self,
        images: Tensor,
        thresholds: float | Sequence[float],
        confidence_of: str = "probability",
    ) -> Prediction:
        """Answer each image at the first exit that is confident enough; the others go on.

        Images that stay are gathered to a smaller batch, which goes on from its features. The
        network must be in evaluation mode: an image then has the same logits in any batch.

        Args:
            images: `[N, C_in, H, W]`.
            thresholds: Least confidence for leaving at each exit but the last; one number for all.
            confidence_of: Measure of confidence, "probability" or "entropy".

        Raises:
            ConfigError: The network is in training mode, another number of thresholds, or there
                is no such measure.
        """
        if self.training:
            raise ConfigError("predict: the network must be in evaluation mode, got training mode")
        check_confidence("predict", confidence_of)
        limits = [*check_thresholds("predict", thresholds, len(self.exits)), -math.inf]
        self._check(images)
        x, rows = self.network.run_stem(images), torch.arange(len(images), device=images.device)
        parts, taken = [], []
        for number, ((names, output), limit) in enumerate(
            zip(self.segments(), limits, strict=True)
        ):
            x = self.network.run_blocks(names, x)
            logits = self.classify(output, x)
            last = output == FINAL
            leaves = confidence(logits, confidence_of) >= limit
            leaves = torch.ones_like(leaves) if last else leaves
            parts.append((rows[leaves], logits[leaves]))
            taken.append(torch.full_like(rows[leaves], number))
            x, rows = x[~leaves], rows[~leaves]
            if not len(rows):
                break
        order = torch.cat([row for row, _ in parts]).argsort()
        return Prediction(
            torch.cat([logits for _, logits in parts])[order], torch.cat(taken)[order]
        )

    def _check(self, images: Tensor) -> None:
        check_images(type(self).__name__, images, self.in_channels, self.minimum_side)


class AllExits(nn.Module):
    """The outputs of a network with exits by name, for what calls `forward` alone.

    Args:
        network: The network.
        last: The last output that is computed.
    """

    def __init__(self, network: EarlyExitNetwork, last: str = FINAL) -> None:
        super().__init__()
        self.network = network
        self.last = last

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images `[N, C_in, H, W]` to logits by name; see `EarlyExitNetwork.all_logits`."""
        return self.network.all_logits(images, self.last)
