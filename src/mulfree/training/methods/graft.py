"""Few-shot distillation by grafting parts of the student onto a trained teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.functional import normalize

from mulfree import models
from mulfree.errors import ConfigError
from mulfree.models.adapters import absorbing_layers, make_adapter, merged_weight
from mulfree.models.staged import StagedNetwork
from mulfree.models.units import Unit, block_units, is_equal, stage_units
from mulfree.tasks import Task
from mulfree.training.checks import require, require_choice
from mulfree.training.losses.distillation import TeacherConfig, TeacherMethod, trained_teacher
from mulfree.training.method import Batch
from mulfree.training.run.guard import local

_UNITS = {"stage": stage_units, "block": block_units}


@dataclass(frozen=True, kw_only=True)
class Config(TeacherConfig):
    """Options of grafting; the teacher has no default.

    Attributes:
        name: Name of the method.
        unit: Part of the network that is grafted at once: a stage, or a block.
        block_fraction: Fraction of the run for block grafting; the growing chains of network
            grafting share the rest equally.
        adapter_lr: Factor on the learning rate of the adapters.
        reuse: Take units that equal the teacher's in shape and operators from the teacher, and
            freeze them.
    """

    name: Literal["graft"] = "graft"
    unit: Literal["stage", "block"] = "stage"
    block_fraction: float = 0.5
    adapter_lr: float = 10.0
    reuse: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("graft", "unit", self.unit, _UNITS)
        share = self.block_fraction
        require("graft", "block_fraction", share, 0 < share < 1, "lie in (0, 1)")
        require("graft", "adapter_lr", self.adapter_lr, self.adapter_lr > 0, "be positive")


class Method(TeacherMethod):
    r"""Distance of the logits of the teacher and of the teacher with grafted units.

    .. math::
        L = \sum_G \frac{1}{N} \sum_n
            \Bigl\lVert \frac{z^G_n}{\lVert z^G_n \rVert} -
            \frac{z^T_n}{\lVert z^T_n \rVert} \Bigr\rVert^2

    over the grafts :math:`G`: sets of units of the teacher that the student's replace. In block
    grafting every unit is a graft of its own. In network grafting a chain, the first units
    together, is one graft and grows by a unit in each phase, while the units that it has not
    reached go on alone; in the last phase it is the whole student. Labels are only used for the
    reported metrics.

    Where a boundary has other channels in the student, 1x1 adapters translate between the networks.
    When the chain grows over a boundary, its two adapters are merged into the student's following
    convolutions: the trained network has none.

    Args:
        model: The student, a network of stages of `create_model`.
        config: Options.
        task: The task; classification by default.

    Raises:
        ConfigError: There is no teacher, or its units do not fit the student's.
        ArtifactError: The file of the teacher is missing or damaged.

    References:
        arXiv 2012.04915, with the loss of its code. Mean instead of sum over images: the same with
        any number of processes.
    """

    config_class = Config
    config: Config
    calls_submodules = True
    model: StagedNetwork
    teacher: StagedNetwork
    joined: Tensor

    def __init__(self, model: nn.Module, config: Config, task: Task | None = None) -> None:
        super().__init__(model, config, task)
        self.teacher = _staged("teacher", trained_teacher(_staged("model", model), config))
        self._units = _units_of(self.model, self.teacher, config)
        self._reused = [
            is_equal(own, self.model, self.teacher) and own == its and config.reuse
            for own, its in self._units
        ]
        # Units that are trained, in order: the chain of phase p is the first p + 1 of them.
        self._trained = [index for index, reused in enumerate(self._reused) if not reused]
        if not self._trained:
            raise ConfigError(
                "graft: `model` must differ from the teacher in a stage, got the teacher's own "
                "network; with reuse false it is trained as it is"
            )
        self._take_over()
        self._absorbing: dict[int, list[str]] = {}
        self.to_student, self.to_teacher = nn.ModuleDict(), nn.ModuleDict()
        self._add_adapters()
        self.phase = 0
        # Phases whose merge is done.
        self.register_buffer("joined", torch.zeros((), dtype=torch.int64))

    def _take_over(self) -> None:
        """Copy the reused units from the teacher, and freeze them."""
        for name in self._frozen_layers():
            layer = self.model.get_submodule(name)
            layer.load_state_dict(self.teacher.get_submodule(name).state_dict())
            layer.requires_grad_(False)

    def _frozen_layers(self) -> list[str]:
        pairs = zip(self._units, self._reused, strict=True)
        return [name for (own, _), reused in pairs if reused for name in own.layers(self.model)]

    def _add_adapters(self) -> None:
        """Create the adapters of all boundaries with different channels.

        Raises:
            ConfigError: Maps differ in size, or the student cannot absorb adapters.
        """
        student, teacher = _blueprint(self.model), _blueprint(self.teacher)
        x = y = torch.zeros(1, *models.input_size(self.model), device="meta")
        for index, (own, its) in enumerate(self._units[:-1]):
            x, y = own.run(student, x), its.run(teacher, y)
            if x.shape[2:] != y.shape[2:]:
                raise ConfigError(
                    f"graft: `teacher` must have maps of {list(x.shape[2:])} after {its.name} as "
                    f"the network has them, got {list(y.shape[2:])}"
                )
            channels, wanted = x.shape[1], y.shape[1]
            if channels == wanted:
                continue
            following = self._units[index + 1][0]
            layers = absorbing_layers(following, student, x)
            if layers is None:
                raise ConfigError(
                    f"graft: `teacher` must have {channels} channels after {own.name} as the "
                    f"network has them, got {wanted}: adapters are merged into convolutions, but "
                    f"the network's {following.name} reads them by something else, such as a "
                    "shortcut or an adder layer; `model.options.keep` names layers that multiply"
                )
            self._absorbing[index] = layers
            self.to_student[str(index)] = make_adapter(wanted, channels)
            self.to_teacher[str(index)] = make_adapter(channels, wanted)

    def lr_factors(self) -> dict[nn.Parameter, float]:
        """Return the factor on the learning rate of the adapters."""
        adapters = (adapter for side in self._sides() for adapter in side.parameters())
        return dict.fromkeys(adapters, self.config.adapter_lr)

    def start_step(self, step: int, steps: int) -> None:
        """Set the phase; merge the adapters inside of the chain when it has grown."""
        starts = phase_starts(len(self._trained), steps, self.config.block_fraction)
        phase = sum(start <= step for start in starts) - 1
        if phase == self.phase:
            return
        self.phase = phase
        for done in range(int(self.joined), phase):
            self._merge(self._trained[done + 1] - 1)
        self.joined.fill_(phase)

    @torch.no_grad()
    def _merge(self, boundary: int) -> None:
        """Merge the adapters at a boundary, if any, into the following convolutions."""
        for name in self._absorbing.get(boundary, []):
            adapters = [side.get_parameter(f"{boundary}.weight") for side in self._sides()]
            whole = [a.full_tensor() if isinstance(a, DTensor) else a for a in adapters]
            # Rows are output channels, so every rank merges its own.
            weight = local(self.model.get_parameter(f"{name}.weight"))
            weight.copy_(merged_weight(weight, whole))

    def _sides(self) -> tuple[nn.ModuleDict, nn.ModuleDict]:
        """Adapters in the order in which values pass them."""
        return self.to_teacher, self.to_student

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss, its part of the chain, and the metrics of the chain's graft."""
        images, targets = batch
        at_least_float32 = self.task.criterion.at_least_float32
        with torch.no_grad():
            inputs = [images]
            for _, unit in self._units:
                inputs.append(unit.run(self.teacher, inputs[-1]))
            teacher = at_least_float32(inputs.pop())
        chain, rest = self._trained[: self.phase + 1], self._trained[self.phase + 1 :]
        logits = at_least_float32(self.graft(chain, inputs[chain[0]]))
        loss = graft_loss(logits, teacher)
        others = [
            graft_loss(at_least_float32(self.graft([index], inputs[index])), teacher)
            for index in rest
        ]
        # A gradient for merged adapters: replicas average the gradients of all parameters.
        unused = [0.0 * adapter.sum() for adapter in self._merged_adapters()]
        metrics = self.measure(logits, teacher, targets)
        return {"loss": torch.stack([loss, *others, *unused]).sum(), "chain_loss": loss} | metrics

    def _merged_adapters(self) -> list[nn.Parameter]:
        inside = [index - 1 for index in self._trained[1 : self.phase + 1]]
        names = [f"{boundary}.weight" for boundary in inside if boundary in self._absorbing]
        return [side.get_parameter(name) for side in self._sides() for name in names]

    def graft(self, replaced: Sequence[int], x: Tensor) -> Tensor:
        """Logits of the teacher with units of the student.

        Args:
            replaced: Numbers of the units that the student's replace, rising. Adapters between two
                of them are merged.
            x: Input of the first of them.
        """
        for index in range(replaced[0], len(self._units)):
            own, its = self._units[index]
            if index not in replaced:
                x = its.run(self.teacher, x)
                continue
            if index - 1 not in replaced:
                x = _adapted(self.to_student, index - 1, x)
            x = own.run(self.model, x)
            if index + 1 not in replaced:
                x = _adapted(self.to_teacher, index, x)
        return x

    def train(self, mode: bool = True) -> Self:
        """Set the mode of everything but the teacher and its units in the student."""
        super().train(mode)
        for name in self._frozen_layers():
            self.model.get_submodule(name).eval()
        return self


def graft_loss(logits: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of normalised logits `[N, classes]`, averaged over the images."""
    difference = normalize(logits, dim=1) - normalize(teacher, dim=1)
    return difference.square().sum(dim=1).mean()


def phase_starts(phases: int, steps: int, block_fraction: float) -> list[int]:
    """Return the first step of every phase of a run; the last phase has at least one step."""
    share = (1 - block_fraction) / max(1, phases - 1)
    later = (int(steps * (block_fraction + share * phase)) for phase in range(phases - 1))
    return [0, *(min(start, steps - 1) for start in later)]


def _adapted(adapters: nn.ModuleDict, boundary: int, x: Tensor) -> Tensor:
    key = str(boundary)
    if key in adapters:
        x = adapters[key](x)
    return x


def _staged(role: str, network: nn.Module) -> StagedNetwork:
    if not isinstance(network, StagedNetwork):
        raise ConfigError(
            f"graft: `{role}` must be a network of stages (resnet, vgg_small, or a mobile "
            f"network), got {models.config_of(network).name}"
        )
    return network


def _units_of(
    student: StagedNetwork, teacher: StagedNetwork, config: Config
) -> list[tuple[Unit, Unit]]:
    """Units of both networks in pairs.

    Raises:
        ConfigError: Their numbers differ.
    """
    depths = [[len(stage) for stage in network.stage_blocks()] for network in (student, teacher)]
    if config.unit == "stage" and len(depths[0]) != len(depths[1]):
        own, its = (len(stages) for stages in depths)
        raise ConfigError(f"graft: `teacher` must have {own} stages as the network has, got {its}")
    if config.unit == "block" and depths[0] != depths[1]:
        raise ConfigError(
            f"graft: `teacher` must have {depths[0]} blocks in its stages as the network has, "
            f"got {depths[1]}; with unit stage they may differ"
        )
    split = _UNITS[config.unit]
    return list(zip(split(student), split(teacher), strict=True))


def _blueprint(network: StagedNetwork) -> StagedNetwork:
    """Network of the same configuration on the meta device."""
    config = models.config_of(network)
    with torch.device("meta"):
        return _staged("model", models.create_model(config.name, **config.arguments)).eval()
