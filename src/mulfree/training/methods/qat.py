"""Quantisation-aware training: on the labels, through the numbers of the integer network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, distributed, nn
from torch.nn.functional import cross_entropy

from mulfree import models
from mulfree.errors import ArtifactError, ConfigError
from mulfree.files import expand_paths
from mulfree.quantization.calibration import Ranges
from mulfree.quantization.fake_quantize import FakeQuantize
from mulfree.quantization.fused_graph import execute
from mulfree.quantization.fused_ops import Shape
from mulfree.quantization.fusion import fuse
from mulfree.quantization.layout import QuantLayout
from mulfree.quantization.observers import OBSERVERS, cuts, observe
from mulfree.quantization.qparams import BITS, TensorQuantParams
from mulfree.training.checks import require, require_choice
from mulfree.training.distributed.collective import average
from mulfree.training.run.checkpoint import Checkpoint, load_model
from mulfree.training.task import Batch, MethodConfig, TrainingTask, accuracy, precise

# Numbers of a value that are looked at in a step; sorting all of them would take longer than the
# step itself.
_SEEN = 2**16
STATE = "task._extra_state"
"""Key of the ranges in a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Config(MethodConfig):
    """Options of quantisation-aware training.

    Attributes:
        name: Name of the method.
        bits: Bits of what layers in the middle of the network read, and of their weights: 8, 6, 5
            or 4. The first layer and the classifier have 8.
        power_of_two_scales: Round the factors behind layers to powers of two, too.
        init_from: Network to start from: a checkpoint, weights, or a run's directory. By default a
            fresh one.
        observer: How the range of a batch is found: all of it (minmax), without its outermost
            0.03 % (percentile), or the one for 8 bits and the other for fewer (auto).
        momentum: Weight of a batch in the running mean of the ranges.
    """

    name: Literal["qat"] = "qat"
    bits: int = 4
    power_of_two_scales: bool = False
    init_from: str | None = None
    observer: Literal["auto", "minmax", "percentile"] = "auto"
    momentum: float = 0.1

    def __post_init__(self) -> None:
        expand_paths("qat", self, "init_from")
        require("qat", "bits", self.bits, self.bits in BITS, f"be one of {BITS}")
        require_choice("qat", "observer", self.observer, OBSERVERS)
        require("qat", "momentum", self.momentum, 0 < self.momentum <= 1, "lie in (0, 1]")


class Task(TrainingTask):
    """Cross entropy between the labels and the logits of the rounded network.

    Values and weights are rounded as the integer network rounds them; gradients pass as if they had
    not been, except where a value was outside its range. What is tested is the rounded network,
    too. The ranges are running means, the same in all processes, and belong to the task: the
    network keeps the parameters of one that is not quantised, and `mulfree quantize` takes the
    ranges from the checkpoint.

    Args:
        model: A network of `create_model`.
        config: Options.

    Raises:
        ConfigError: The network to start from is another one, or cannot be quantised.
        ArtifactError: The file of the network to start from is missing or damaged.

    References:
        Straight-through rounding: Jacob et al., arXiv 1712.05877, section 3. One scale for input
        and weights: arXiv 2101.10015; weights outside it: arXiv 2212.10200.
    """

    piecewise = True
    ranges: Tensor

    def __init__(self, model: nn.Module, config: Config) -> None:
        super().__init__(model)
        self.config = config
        recipe = models.config_of(model)
        if config.init_from is not None:
            started = load_model(config.init_from)
            if models.config_of(started) != recipe:
                raise ConfigError(
                    "qat: `init_from` must be a network with the options of `model`, got "
                    f"{models.config_of(started)} in {config.init_from}"
                )
            model.load_state_dict(started.state_dict())
        self._layouts: dict[Shape, QuantLayout] = {}
        side = models.image_size(recipe.name)
        self._recipe = recipe
        layout = self._layout((recipe.arguments["in_channels"], side, side))
        # Kept as a state of any size, since how many there are depends on the images' size.
        self.register_buffer("ranges", _unknown(layout), persistent=False)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Cross entropy as `loss`, and `accuracy`, of the rounded network."""
        return self._report(self.model, batch, self.config.momentum)

    def test(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The same with the ranges as they are."""
        return self._report(model, batch, 0.0)

    def get_extra_state(self) -> Tensor:
        """The ranges."""
        return self.ranges

    def set_extra_state(self, state: Tensor) -> None:
        """Takes the ranges."""
        self.ranges = state.to(self.ranges.device)

    def _report(self, model: nn.Module, batch: Batch, momentum: float) -> dict[str, Tensor]:
        images, labels = batch
        _, channels, height, width = images.shape
        layout = self._layout((channels, height, width))
        if len(self.ranges) != len(layout.bit_widths):
            self.ranges = _unknown(layout).to(images.device)
        running = _Running(layout, self, momentum)
        power_of_two = self.config.power_of_two_scales
        hooks = FakeQuantize(layout, running, power_of_two_scales=power_of_two)
        logits = precise(execute(layout.fused, model, images, hooks))
        loss = cross_entropy(logits, labels)
        return {"loss": loss, "accuracy": accuracy(logits.detach(), labels)}

    def _layout(self, shape: Shape) -> QuantLayout:
        if shape not in self._layouts:
            # Not of `self.model`, of which several processes make another: with divided weights
            # and other normalisations.
            with torch.device("meta"):
                plain = models.create_model(self._recipe.name, **self._recipe.arguments)
            self._layouts[shape] = QuantLayout(fused=fuse(plain, shape), bits=self.config.bits)
        return self._layouts[shape]


class _Running:
    """Grids over running means of ranges, which every value that is seen moves."""

    def __init__(self, layout: QuantLayout, task: Task, momentum: float) -> None:
        self._rows = {name: row for row, name in enumerate(layout.bit_widths)}
        self._bits = layout.bit_widths
        self._units = layout.units
        self._task = task
        self._momentum = momentum

    def __call__(self, name: str, x: Tensor) -> TensorQuantParams:
        known = self._task.ranges[self._rows[name]]
        flat = x.detach().flatten().to(known.dtype)
        # An odd step, or it would be the same column of every row.
        few = flat[:: -(-len(flat) // _SEEN) | 1]
        observer, bits = self._task.config.observer, self._bits[name]
        seen = torch.stack(observe(observer, bits, few))
        # In tests, which move no range, processes may have different numbers of batches.
        if self._momentum and distributed.is_initialized():
            seen = _of_all_processes(seen, cut=cuts(observer, bits))
        # The first batch alone makes the range.
        seen = torch.where(known.isnan(), seen, known.lerp(seen, self._momentum))
        known.copy_(seen)
        low, high = seen[0].clamp(max=0.0), seen[1].clamp(min=0.0)
        scale = (high - low).clamp(min=1e-3) / (2**bits - 1)
        if self._task.config.power_of_two_scales:
            scale = self._units[name] * (scale / self._units[name]).log2().ceil().exp2()
        return scale.float(), (-low / scale).round().to(torch.int32)


def _of_all_processes(seen: Tensor, *, cut: bool) -> Tensor:
    """The hull of what the processes see; the mean where each has cut its own."""
    if cut:
        return average(seen)
    outwards = seen.new_tensor([-1.0, 1.0])
    hull = outwards * seen
    distributed.all_reduce(hull, distributed.ReduceOp.MAX)
    return outwards * hull


def trained_ranges(checkpoint: Checkpoint, model: nn.Module, shape: Shape) -> Ranges | None:
    """The ranges that a checkpoint was trained with, by value; None of another method.

    Args:
        checkpoint: Any checkpoint.
        model: Its network.
        shape: C, H, W of the images.

    Raises:
        ArtifactError: It does not hold them.
    """
    config = checkpoint.config.method
    if not isinstance(config, Config):
        return None
    layout = QuantLayout(fused=fuse(model, shape), bits=config.bits)
    rows = checkpoint.content["state_dict"].get(STATE)
    wanted = (len(layout.bit_widths), 2)
    if not isinstance(rows, Tensor) or rows.shape != wanted or not rows.isfinite().all():
        raise ArtifactError(
            f"quantize: `checkpoint` must hold {wanted[0]} ranges of images {list(shape)}, "
            f"got {checkpoint.path}"
        )
    return {
        name: (low, high)
        for name, (low, high) in zip(layout.bit_widths, rows.tolist(), strict=True)
    }


def _unknown(layout: QuantLayout) -> Tensor:
    return torch.full((len(layout.bit_widths), 2), torch.nan)
