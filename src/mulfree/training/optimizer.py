"""Optimisers, and the adaptive local learning rate of adder layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mulfree.errors import ConfigError, TrainingError
from mulfree.operators import uses_adaptive_local_lr
from mulfree.training.checks import require, require_choice

_NORM_FLOOR = 1e-12
_OPTIMIZERS = ("adamw", "nag", "sgd")
_DECAYS = ("all", "weights")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Which optimiser updates the parameters.

    Attributes:
        name: Stochastic gradient descent (sgd), the same with Nesterov's momentum (nag), or adamw.
        lr: Global learning rate at its peak, the same for every layer.
        momentum: Momentum of sgd and nag, first beta of adamw.
        beta2: Second beta of adamw.
        weight_decay: Weight decay factor.
        decay: What is decayed: all parameters, or only weights (no bias, no normalisation).
        eta: Factor of the adaptive local learning rate of adder layers; 0 turns it off.
    """

    name: Literal["sgd", "nag", "adamw"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 5e-4
    decay: Literal["all", "weights"] = "all"
    eta: float = 0.2

    def __post_init__(self) -> None:
        function = "OptimizerConfig"
        require_choice(function, "name", self.name, _OPTIMIZERS)
        require_choice(function, "decay", self.decay, _DECAYS)
        require(function, "lr", self.lr, self.lr > 0, "be positive")
        for field in ("momentum", "beta2"):
            value = getattr(self, field)
            require(function, field, value, 0 <= value < 1, "lie in [0, 1)")
        for field in ("weight_decay", "eta"):
            value = getattr(self, field)
            require(function, field, value, value >= 0, "be at least 0")
        if self.name == "nag":
            require(function, "momentum", self.momentum, self.momentum > 0, "be positive for nag")


class GradientError(TrainingError):
    """A gradient cannot be used, for example because it is not finite."""


class AdaptiveLocalLR(Optimizer):
    r"""Any optimiser, with the gradients of adder weights rescaled just before its step.

    For each adder weight :math:`F_l` with :math:`k` elements and gradient :math:`g_l`,

    .. math:: g_l \leftarrow \eta \sqrt{k} \, g_l / \max(\lVert g_l \rVert_2, 10^{-12})

    so its root mean square becomes `eta` whatever the scale of the loss. All other gradients stay
    as they are. It acts inside `step()`, that is once, on the gradient summed over accumulated
    batches, unscaled by a gradient scaler and averaged over processes. Weight decay and momentum
    belong to the wrapped optimiser and come after it, as in the authors' code.

    The gradients are rescaled in place, like those of `torch.nn.utils.clip_grad_norm_`: after a
    step `.grad` holds what the wrapped optimiser used. Rescaling twice changes nothing more, so a
    second `step()` on the same gradients repeats the first.

    The wrapper shares `param_groups`, `state` and `defaults` with the wrapped optimiser and
    can be given to learning rate schedulers and gradient scalers in its place.

    Args:
        optimizer: The optimiser that takes the step.
        eta: Root mean square of every rescaled gradient.
        params: Parameters to rescale; by default those marked by their adder layer.

    Raises:
        ConfigError: `eta` is not positive and finite, or `optimizer` is not a torch optimiser.

    References:
        arXiv 1912.13200, Eq. 12-13.
    """

    optimizer: Optimizer
    eta: float
    _params: list[Tensor] | None

    def __init__(
        self, optimizer: Optimizer, eta: float = 0.2, params: Iterable[Tensor] | None = None
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise ConfigError(
                "AdaptiveLocalLR: `optimizer` must be a torch.optim.Optimizer, "
                f"got {type(optimizer).__name__}"
            )
        require("AdaptiveLocalLR", "eta", eta, eta > 0, "be positive")
        # `Optimizer.__init__` would build groups and state of its own; `__setstate__` sets up
        # only the hooks and the profiled step.
        chosen = None if params is None else list(params)
        self.__setstate__({"optimizer": optimizer, "eta": float(eta), "_params": chosen})

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The groups of the wrapped optimiser."""
        return self.optimizer.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """The state of the wrapped optimiser."""
        return self.optimizer.state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """The defaults of the wrapped optimiser."""
        return self.optimizer.defaults

    def __getstate__(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer, "eta": self.eta, "_params": self._params}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group to the wrapped optimiser."""
        self.optimizer.add_param_group(param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clears the gradients of all parameters."""
        self.optimizer.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """State of the wrapped optimiser, and `eta`."""
        return {**self.optimizer.state_dict(), "eta": self.eta}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what `state_dict` gave; that of the bare optimiser is taken too."""
        state = dict(state_dict)
        self.eta = float(state.pop("eta", self.eta))
        self.optimizer.load_state_dict(state)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Rescales the gradients of the adder weights, then lets the wrapped optimiser step.

        Args:
            closure: Computes the loss and its gradients; these are rescaled each time it ran.

        Raises:
            GradientError: A gradient to be rescaled is not finite. No parameter has changed.
        """
        if closure is None:
            self._rescale()
            self.optimizer.step()
            return None

        def rescaled() -> float:
            loss = closure()
            self._rescale()
            return loss

        return self.optimizer.step(rescaled)

    @torch.no_grad()
    def _rescale(self) -> None:
        if self._params is None:
            every = (p for group in self.param_groups for p in group["params"])
            params = [p for p in every if uses_adaptive_local_lr(p)]
        else:
            params = self._params
        # The foreach kernels want one device and dtype per call.
        groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
        for p in params:
            if p.grad is not None:
                groups.setdefault((p.grad.device, p.grad.dtype), []).append(p)
        factors = [self._factors(group) for group in groups.values()]
        for group, factor in zip(groups.values(), factors, strict=True):
            torch._foreach_mul_([_values(p) for p in group], factor)

    def _factors(self, params: list[Tensor]) -> list[Tensor]:
        """What the gradient of each parameter is to be multiplied by."""
        grads = [_values(p) for p in params]
        # Half precision would overflow at a norm of 65504 (float16) and keep 8 bits (bfloat16).
        half = grads[0].dtype in (torch.float16, torch.bfloat16)
        norms = torch.stack(torch._foreach_norm(grads, 2, torch.float32 if half else None))
        finite = norms.isfinite()
        if not bool(finite.all()):
            bad = int((~finite).nonzero()[0])
            raise GradientError(
                f"AdaptiveLocalLR: `grad` must have a finite norm, got {float(norms[bad])} "
                f"for an adder weight of shape {list(params[bad].shape)}"
            )
        roots = torch.tensor([math.sqrt(p.numel()) for p in params], dtype=norms.dtype)
        factors = self.eta * roots.to(norms.device) / norms.clamp_min(_NORM_FLOOR)
        return list(factors.unbind())


def _values(parameter: Tensor) -> Tensor:
    """The numbers of a gradient, which if changed change the gradient."""
    grad = parameter.grad
    assert grad is not None
    if not grad.is_sparse:
        return grad
    # Entries of the same element are summed up first.
    parameter.grad = grad.coalesce()
    return parameter.grad.values()


def build_optimizer(module: nn.Module, config: OptimizerConfig) -> Optimizer:
    """The optimiser of all trainable parameters of `module` that `config` describes."""
    params = [p for p in module.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [{"params": params}]
    if config.decay == "weights":
        # A bias, and the scale and shift of a normalisation, are the vectors among them.
        groups = [
            {"params": [p for p in params if p.ndim > 1]},
            {"params": [p for p in params if p.ndim <= 1], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
    optimizer: Optimizer
    if config.name == "adamw":
        optimizer = torch.optim.AdamW(
            groups,
            lr=config.lr,
            betas=(config.momentum, config.beta2),
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
    if config.eta > 0 and any(uses_adaptive_local_lr(p) for p in params):
        optimizer = AdaptiveLocalLR(optimizer, config.eta)
    return optimizer
