"""Optimiser of a run, built from its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.optim import Optimizer

from mulfree.operators import uses_adaptive_local_lr
from mulfree.training.checks import require, require_choice
from mulfree.training.method import TrainingMethod
from mulfree.training.optim.local_lr import AdaptiveLocalLR

_OPTIMIZERS = ("adamw", "nag", "rmsprop", "sgd")

_DECAYS = ("all", "no_bias_norm")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Options of the optimiser.

    Attributes:
        name: Stochastic gradient descent (sgd), the same with Nesterov's momentum (nag), adamw, or
            rmsprop.
        lr: Global learning rate at its peak; methods may lower it for some layers.
        momentum: Momentum of sgd, nag and rmsprop, first beta of adamw.
        beta2: Second beta of adamw.
        alpha: Decay of the mean square in rmsprop.
        eps: Added to the root of the mean square in adamw and rmsprop. TensorFlow's RMSprop adds
            its epsilon under the root: for 1e-3 there, 0.0316 (the root) bounds steps alike.
        weight_decay: Weight decay factor.
        decay: Decay all parameters (all), or no biases and no normalisation parameters
            (no_bias_norm).
        local_lr_eta: Factor of the adaptive local learning rate of adder layers; 0 turns it off.
        adder_lr: Factor on the learning rate of the weights that it rescales. Steps of adamw and
            rmsprop do not depend on the scale of gradients, so `local_lr_eta` has no effect there,
            and adder weights, which start with a standard deviation of 1, need larger steps than
            others.
    """

    name: Literal["sgd", "nag", "adamw", "rmsprop"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    beta2: float = 0.999
    alpha: float = 0.9
    eps: float = 1e-8
    weight_decay: float = 5e-4
    decay: Literal["all", "no_bias_norm"] = "all"
    local_lr_eta: float = 0.2
    adder_lr: float = 1.0

    def __post_init__(self) -> None:
        function = "OptimizerConfig"
        require_choice(function, "name", self.name, _OPTIMIZERS)
        require_choice(function, "decay", self.decay, _DECAYS)
        for field in ("lr", "adder_lr"):
            value = getattr(self, field)
            require(function, field, value, value > 0, "be positive")
        for field in ("momentum", "beta2", "alpha"):
            value = getattr(self, field)
            require(function, field, value, 0 <= value < 1, "lie in [0, 1)")
        require(function, "eps", self.eps, self.eps > 0, "be positive")
        for field in ("weight_decay", "local_lr_eta"):
            value = getattr(self, field)
            require(function, field, value, value >= 0, "be at least 0")
        if self.name == "nag":
            require(function, "momentum", self.momentum, self.momentum > 0, "be positive for nag")


def build_optimizer(module: nn.Module, config: OptimizerConfig) -> Optimizer:
    """Return the optimiser of all trainable parameters of `module` that `config` describes.

    For a `TrainingMethod` each of its parameter groups is one of the optimiser, divided further by
    the factors on the learning rate and by weight decay. A group lists the names of its parameters
    as `param_names`.
    """
    split, factors = [list(module.parameters())], dict[nn.Parameter, float]()
    if isinstance(module, TrainingMethod):
        split, factors = module.param_groups(), module.lr_factors()
    factors |= {
        parameter: factors.get(parameter, 1.0) * config.adder_lr
        for parameter in module.parameters()
        if uses_adaptive_local_lr(parameter)
    }
    names = {parameter: name for name, parameter in module.named_parameters()}
    groups = [
        {"params": [(names[p], p) for p in parameters], **options}
        for whole in split
        for factor, part in _by_factor(whole, factors).items()
        for parameters, options in _by_decay(part, config, factor)
    ]
    optimizer: Optimizer
    if config.name == "adamw":
        optimizer = torch.optim.AdamW(
            groups,
            lr=config.lr,
            betas=(config.momentum, config.beta2),
            eps=config.eps,
            weight_decay=config.weight_decay,
        )
    elif config.name == "rmsprop":
        optimizer = torch.optim.RMSprop(
            groups,
            lr=config.lr,
            alpha=config.alpha,
            eps=config.eps,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
        )
    else:
        optimizer = torch.optim.SGD(
            groups,
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            nesterov=config.name == "nag",
        )
    every = (p for group in optimizer.param_groups for p in group["params"])
    if config.local_lr_eta > 0 and any(uses_adaptive_local_lr(p) for p in every):
        optimizer = AdaptiveLocalLR(optimizer, config.local_lr_eta)
    return optimizer


def _by_factor(
    parameters: list[nn.Parameter], factors: dict[nn.Parameter, float]
) -> dict[float, list[nn.Parameter]]:
    """Trained parameters by the factor on their learning rate."""
    found: dict[float, list[nn.Parameter]] = {}
    for parameter in parameters:
        if parameter.requires_grad:
            found.setdefault(factors.get(parameter, 1.0), []).append(parameter)
    return found


def _by_decay(
    params: list[nn.Parameter], config: OptimizerConfig, factor: float
) -> list[tuple[list[nn.Parameter], dict[str, float]]]:
    """Parameters split by their weight decay, with the options of each group."""
    options = {"lr": config.lr * factor}
    groups = [(params, options)]
    if config.decay == "no_bias_norm":
        # Biases, and weight and bias of a batch norm, are vectors.
        groups = [
            ([p for p in params if p.ndim > 1], options),
            ([p for p in params if p.ndim <= 1], options | {"weight_decay": 0.0}),
        ]
    return [group for group in groups if group[0]]
