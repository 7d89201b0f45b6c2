"""Adaptive local learning rate of adder layers."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any, cast, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

from mulfree.errors import ConfigError, TrainingError
from mulfree.models.placement import was_replaced
from mulfree.operators import uses_adaptive_local_lr
from mulfree.training.checks import require

_NORM_FLOOR = 1e-12


class GradientError(TrainingError):
    """A gradient cannot be used, for example because it is not finite."""


class AdaptiveLocalLR(Optimizer):
    r"""Wrapper of an optimiser that rescales the gradients of adder weights before each step.

    For each adder weight :math:`F_l` with :math:`k` elements and gradient :math:`g_l`,

    .. math:: g_l \leftarrow \eta \sqrt{k} \, g_l / \max(\lVert g_l \rVert_2, 10^{-12})

    so its root mean square is `eta` for any scale of the loss. All other gradients stay as they
    are. It acts once, inside `step()`, on the gradient summed over accumulated batches, unscaled by
    a gradient scaler and averaged over processes. Weight decay and momentum belong to the wrapped
    optimiser and are applied later, as in the authors' code.

    For sharded weights (`torch.distributed.fsdp.fully_shard`), norm and number of elements are
    taken over the whole layer, and all ranks have to call `step()` together.

    The gradients are rescaled in place, as in `torch.nn.utils.clip_grad_norm_`: after a step
    `.grad` holds the gradient that the wrapped optimiser used. Rescaling is idempotent, so a second
    `step()` on the same gradients repeats the first.

    On the CPU a gradient that is not finite is an error before any parameter changes. On other
    devices a step does not wait for the device: as with any torch optimiser, such a gradient
    reaches the parameters, and `largest_norm` is then not finite; its reader decides how often to
    wait. Such a step can be captured in a CUDA graph once one step has been taken outside of it.

    The wrapper shares `param_groups`, `state` and `defaults` with the wrapped optimiser and
    can be given to learning rate schedulers and gradient scalers in its place.

    Args:
        optimizer: The optimiser that takes the step.
        eta: Root mean square of every rescaled gradient.
        params: Parameters to rescale; by default those marked by their adder layer.
        deferred: Whether a gradient that is not finite is left to the reader of `largest_norm`; by
            default on every device but the CPU.

    Attributes:
        largest_norm: Largest norm of the last step where that was deferred, a scalar on the device
            of the gradients: not finite if one of them was not.

    Raises:
        ConfigError: `eta` is not positive and finite, or `optimizer` is not a torch optimiser or
            was made before `mulfree.models.convert` replaced layers whose parameters it holds.

    References:
        arXiv 1912.13200, Eq. 12-13.
    """

    optimizer: Optimizer
    eta: float
    deferred: bool | None
    largest_norm: Tensor | None
    _params: list[Tensor] | None
    _roots: dict[tuple[Any, ...], Tensor]

    def __init__(
        self,
        optimizer: Optimizer,
        eta: float = 0.2,
        params: Iterable[Tensor] | None = None,
        *,
        deferred: bool | None = None,
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
        self.__setstate__(
            {"optimizer": optimizer, "eta": float(eta), "deferred": deferred, "_params": chosen}
        )
        self._check_trained()

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
        return {key: vars(self)[key] for key in ("optimizer", "eta", "deferred", "_params")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Not part of the state: recomputed on demand.
        super().__setstate__({**state, "largest_norm": None, "_roots": {}})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the wrapped optimiser."""
        self.optimizer.add_param_group(param_group)
        try:
            self._check_trained()
        except ConfigError:
            self.param_groups.pop()
            raise

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of all parameters."""
        self.optimizer.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the wrapped optimiser, and `eta`."""
        return {**self.optimizer.state_dict(), "eta": self.eta}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a result of `state_dict`; a state of the bare optimiser is accepted too."""
        state = dict(state_dict)
        self.eta = float(state.pop("eta", self.eta))
        self.optimizer.load_state_dict(state)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Rescale the gradients of the adder weights, then take a step of the wrapped optimiser.

        Args:
            closure: Computes the loss and its gradients; these are rescaled each time it ran.

        Raises:
            ConfigError: `mulfree.models.convert` replaced layers since the optimiser was made.
            GradientError: A gradient to be rescaled is not finite. No parameter has changed. Not
                raised where that is deferred.
        """
        self._check_trained()
        if closure is None:
            self._rescale()
            self.optimizer.step()
            return None

        def rescaled() -> float:
            loss = closure()
            self._rescale()
            return loss

        return self.optimizer.step(rescaled)

    def _check_trained(self) -> None:
        """Refuse parameters of layers that were replaced."""
        held = [p for group in self.param_groups for p in group["params"]]
        replaced = {id(p) for p in (*held, *(self._params or ())) if was_replaced(p)}
        if replaced:
            raise ConfigError(
                "AdaptiveLocalLR: `optimizer` must be made after convert, got one with "
                f"{len(replaced)} parameters of layers that convert replaced since"
            )

    @torch.no_grad()
    def _rescale(self) -> None:
        if self._params is None:
            every = (p for group in self.param_groups for p in group["params"])
            params = [p for p in every if uses_adaptive_local_lr(p)]
        else:
            params = self._params
        # One call of a foreach kernel takes one device and dtype, and a sum over processes one
        # way of sharding.
        groups: dict[tuple[Any, ...], list[Tensor]] = {}
        for p in params:
            if p.grad is not None:
                groups.setdefault((p.grad.device, p.grad.dtype, *_sharding(p.grad)), []).append(p)
        norms = [_norms(group) for group in groups.values()]
        self._check(list(groups.values()), norms)
        for group, norm in zip(groups.values(), norms, strict=True):
            factors = self.eta * self._root(group, norm) / norm.clamp_min(_NORM_FLOOR)
            torch._foreach_mul_([_values(p) for p in group], list(factors.unbind()))

    def _check(self, groups: list[list[Tensor]], norms: list[Tensor]) -> None:
        """Raise if a norm may be read now and is not finite; else keep the largest for later."""
        later: list[Tensor] = []
        for group, norm in zip(groups, norms, strict=True):
            if not readable(norm.device) if self.deferred is None else self.deferred:
                # `max` propagates NaN.
                later.append(norm.max())
            elif not bool((finite := norm.isfinite()).all()):
                bad = int((~finite).nonzero()[0])
                raise GradientError(
                    f"AdaptiveLocalLR: `grad` must have a finite norm, got {float(norm[bad])} "
                    f"for an adder weight of shape {list(group[bad].shape)}"
                )
        self.largest_norm = functools.reduce(_larger, later) if later else None

    def _root(self, params: list[Tensor], norms: Tensor) -> Tensor:
        """Square root of the number of elements of each parameter, cached on the norms' device."""
        key = (norms.device, norms.dtype, *(p.numel() for p in params))
        if key not in self._roots:
            roots = torch.tensor([math.sqrt(p.numel()) for p in params], dtype=norms.dtype)
            self._roots[key] = roots.to(norms.device)
        return self._roots[key]


def readable(device: torch.device) -> bool:
    """Return whether numbers on `device` can be read without synchronising."""
    return device.type == "cpu"


def _larger(one: Tensor, other: Tensor) -> Tensor:
    """Larger of two numbers; NaN if one is NaN."""
    return torch.maximum(one, other.to(one.device, one.dtype))


def _sharding(grad: Any) -> tuple[Any, ...]:
    """Mesh and placements of a sharded gradient; empty for any other."""
    return (grad.device_mesh, grad.placements) if hasattr(grad, "device_mesh") else ()


def _values(parameter: Tensor) -> Tensor:
    """Values of a gradient on this rank; changing them in place changes the gradient."""
    grad: Any = parameter.grad
    if _sharding(grad):
        return cast(Tensor, grad.to_local())
    if not grad.is_sparse:
        return cast(Tensor, grad)
    # Coalescing sums duplicate entries.
    parameter.grad = coalesced = grad.coalesce()
    return cast(Tensor, coalesced.values())


def _norms(params: list[Tensor]) -> Tensor:
    """Norm of the gradient of each parameter, over all its shards."""
    grads = [_values(p) for p in params]
    # Half precision would overflow at a norm of 65504 (float16) and keep 8 bits (bfloat16).
    half = grads[0].dtype in (torch.float16, torch.bfloat16)
    norms = torch.stack(torch._foreach_norm(grads, 2, torch.float32 if half else None))
    sharding = _sharding(params[0].grad)
    if not sharding:
        return norms
    from torch.distributed.tensor import DTensor, Partial, Replicate

    mesh, placements = sharding
    summed = [Replicate() if p.is_replicate() else Partial() for p in placements]
    # In float64, so that squares neither overflow nor underflow.
    squares = DTensor.from_local(norms.double().square(), mesh, summed).full_tensor()
    return squares.sqrt().to(norms.dtype)
