"""Quantisation-aware training: values and weights rounded as in the integer network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, distributed, nn

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
from mulfree.tasks import Task
from mulfree.training.checks import require, require_choice
from mulfree.training.distributed.collective import average
from mulfree.training.method import Batch, MethodConfig, TrainingMethod
from mulfree.training.run.checkpoint import Checkpoint, load_model

# Numbers of a value that are sampled in a step; sorting all of them would take longer than the step
# itself.
_MAX_SAMPLED = 2**16
STATE = "task._extra_state"
"""Key of the ranges in a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Config(MethodConfig):
    """Options of quantisation-aware training.

    Attributes:
        name: Name of the method.
        bits: Bits of inputs and weights of the layers between the first and the classifier: 8, 6,
            5 or 4. The first layer and the classifier have 8.
        power_of_two_scales: Round the factors after layers to powers of two, too.
        init_from: Network to start from: a checkpoint, weights, or a run's directory. By default a
            randomly initialised one.
        observer: Range of a batch: all of it (minmax), without its outermost 0.03 % (percentile),
            or the one for 8 bits and the other for fewer (auto).
        momentum: Weight of a batch in the running mean of the ranges.
    """

    keeps_state = True
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

    def quantize_options(
        self, checkpoint: Checkpoint, model: nn.Module, shape: tuple[int, int, int]
    ) -> dict[str, Any]:
        """Return the bits, the options and the trained ranges."""
        return {
            "bits": self.bits,
            "power_of_two_scales": self.power_of_two_scales,
            "ranges": trained_ranges(checkpoint, model, shape),
        }


class Method(TrainingMethod):
    """Loss of the quantised network on the targets.

    Values and weights are rounded as the integer network rounds them. Gradients pass the rounding
    unchanged, except where a value was outside its range. Held-out data is evaluated with the
    quantised network, too. The ranges are running means, the same on all ranks, and belong to the
    method: the network keeps the parameters of one that is not quantised, and `mulfree quantize`
    reads the ranges from the checkpoint.

    Args:
        model: A network of `create_model`.
        config: Options.
        task: The task; classification by default.

    Raises:
        ConfigError: The network to start from is another one, or cannot be quantised.
        ArtifactError: The file of the network to start from is missing or damaged.

    References:
        Straight-through rounding: Jacob et al., arXiv 1712.05877, section 3. One scale for input
        and weights: arXiv 2101.10015; weights outside it: arXiv 2212.10200.
    """

    config_class = Config
    config: Config
    calls_submodules = True
    ranges: Tensor

    def __init__(self, model: nn.Module, config: Config, task: Task | None = None) -> None:
        super().__init__(model, config, task)
        own = models.config_of(model)
        if config.init_from is not None:
            initial = load_model(config.init_from)
            if models.config_of(initial) != own:
                raise ConfigError(
                    "qat: `init_from` must be a network with the options of `model`, got "
                    f"{models.config_of(initial)} in {config.init_from}"
                )
            model.load_state_dict(initial.state_dict())
        self._layouts: dict[Shape, QuantLayout] = {}
        side = models.image_size(own.name)
        self._model_config = own
        layout = self._layout((own.arguments["in_channels"], side, side))
        # Saved as extra state, whose size may change: the number of ranges depends on the images'
        # size.
        self.register_buffer("ranges", _unknown(layout), persistent=False)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss and the metrics of the quantised network, and update the ranges."""
        return self._report(self.model, batch, self.config.momentum)

    def test(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the loss and the metrics of the quantised network."""
        return self._report(model, batch, 0.0)

    def get_extra_state(self) -> Tensor:
        """Return the ranges."""
        return self.ranges

    def set_extra_state(self, state: Tensor) -> None:
        """Set the ranges."""
        self.ranges = state.to(self.ranges.device)

    def _report(self, model: nn.Module, batch: Batch, momentum: float) -> dict[str, Tensor]:
        images, targets = batch
        _, channels, height, width = images.shape
        layout = self._layout((channels, height, width))
        if len(self.ranges) != len(layout.bit_widths):
            self.ranges = _unknown(layout).to(images.device)
        running = _Running(layout, self, momentum)
        power_of_two = self.config.power_of_two_scales
        hooks = FakeQuantize(layout, running, power_of_two_scales=power_of_two)
        outputs = execute(layout.fused, model, images, hooks)
        outputs = self.task.criterion.at_least_float32(outputs)
        loss = self.task.criterion.loss(outputs, targets)
        return {"loss": loss} | self.task.metrics.measure(outputs, targets)

    def _layout(self, shape: Shape) -> QuantLayout:
        if shape not in self._layouts:
            # A plain network, not `self.model`, whose weights may be sharded and whose batch norms
            # may be replaced.
            with torch.device("meta"):
                plain = models.create_model(self._model_config.name, **self._model_config.arguments)
            self._layouts[shape] = QuantLayout(fused=fuse(plain, shape), bits=self.config.bits)
        return self._layouts[shape]


class _Running:
    """Grids over running means of ranges, updated by every value."""

    def __init__(self, layout: QuantLayout, method: Method, momentum: float) -> None:
        self._rows = {name: row for row, name in enumerate(layout.bit_widths)}
        self._bits = layout.bit_widths
        self._units = layout.units
        self._method = method
        self._momentum = momentum

    def __call__(self, name: str, x: Tensor) -> TensorQuantParams:
        known = self._method.ranges[self._rows[name]]
        flat = x.detach().flatten().to(known.dtype)
        # An odd step: an even one could sample the same column of every row.
        sample = flat[:: -(-len(flat) // _MAX_SAMPLED) | 1]
        observer, bits = self._method.config.observer, self._bits[name]
        seen = torch.stack(observe(observer, bits, sample))
        # Ranks may have different numbers of held-out batches, which update no range.
        if self._momentum and distributed.is_initialized():
            seen = _of_all_processes(seen, cut=cuts(observer, bits))
        # The first batch sets the range.
        seen = torch.where(known.isnan(), seen, known.lerp(seen, self._momentum))
        known.copy_(seen)
        low, high = seen[0].clamp(max=0.0), seen[1].clamp(min=0.0)
        scale = (high - low).clamp(min=1e-3) / (2**bits - 1)
        if self._method.config.power_of_two_scales:
            scale = self._units[name] * (scale / self._units[name]).log2().ceil().exp2()
        return scale.float(), (-low / scale).round().to(torch.int32)


def _of_all_processes(seen: Tensor, *, cut: bool) -> Tensor:
    """Combine ranges over ranks: min/max, or the mean if each rank clipped outliers."""
    if cut:
        return average(seen)
    outwards = seen.new_tensor([-1.0, 1.0])
    hull = outwards * seen
    distributed.all_reduce(hull, distributed.ReduceOp.MAX)
    return outwards * hull


def trained_ranges(checkpoint: Checkpoint, model: nn.Module, shape: Shape) -> Ranges | None:
    """Return the ranges that a checkpoint was trained with, by value; None for another method.

    Args:
        checkpoint: Any checkpoint.
        model: Its network.
        shape: C, H, W of the images.

    Raises:
        ArtifactError: The checkpoint has no ranges for such images.
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
