"""Check of the loop state in a checkpoint against the loop that resumes from it.

A checkpoint is not trusted, and the loop loads it unchecked. So its names, types and shapes must
equal those that the run itself would save at that step. Values that the configuration determines,
such as momentum, are taken from there and not from the checkpoint.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from mulfree.errors import quoted
from mulfree.training.optim.build import build_optimizer
from mulfree.training.run.checkpoint import KEY, NETWORKS, Checkpoint, incomplete
from mulfree.training.run.module import RunModule

_VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+[a-z0-9.+]*")
# Key of the position in the training images.
_POSITION = "combined_loader"
# Upper bound of the counted batches of held-out data.
_MAX_TESTED = 2**40
_STEPS = (
    "epoch_loop.automatic_optimization.optim_progress",
    *("optimizer", "step", "total", "completed"),
)


def resumable(
    checkpoint: Checkpoint, module: RunModule, trainer: Trainer, batches: int
) -> dict[str, Any]:
    """Return the content of a checkpoint for a loop that resumes from it.

    Args:
        checkpoint: Any checkpoint.
        module: The run, as it starts.
        trainer: Its loop, as it starts.
        batches: Training batches of an epoch, of this process.

    Raises:
        ArtifactError: The checkpoint is not one of this run.
    """
    content = checkpoint.content
    try:
        _check_position(checkpoint, module, batches)
        _same_keys("it", content, _names(trainer))
        _check_state_dict(content["state_dict"], module)
        _check_loops(content, trainer, batches * module.config.trainer.epochs, batches)
        _check_companions(checkpoint, module)
        _check_own(content[KEY], module, checkpoint.step)
        for key, empty in (("callbacks", {}), ("lr_schedulers", [])):
            _same_structure(key, content[key], empty)
        version = content["pytorch-lightning_version"]
        known = isinstance(version, str) and _VERSION.fullmatch(version) is not None
        _require(known, "pytorch-lightning_version", version)
        plugin = type(trainer.precision_plugin).__qualname__
        if plugin in content:
            _same_structure(plugin, content[plugin], trainer.precision_plugin.state_dict())
        optimizers = _optimizer_states(content["optimizer_states"], module)
    except (KeyError, TypeError, ValueError) as error:
        raise incomplete(checkpoint.path, error) from error
    return {**content, "optimizer_states": optimizers}


def _names(trainer: Trainer) -> set[str]:
    names = {"epoch", "global_step", "pytorch-lightning_version", "state_dict", "loops"}
    names |= {"callbacks", "optimizer_states", "lr_schedulers", KEY}
    if trainer.precision_plugin.state_dict():
        names.add(type(trainer.precision_plugin).__qualname__)
    return names


def _check_position(checkpoint: Checkpoint, module: RunModule, batches: int) -> None:
    step, history = checkpoint.step, checkpoint.history
    total = module.schedule.total_steps
    _require(step <= total, "global_step", step)
    _require(len(history) == step // module.steps_per_epoch, "history", len(history))
    keys = {"epoch", "step", "lr", "seconds", "train_loss"}
    keys |= {f"{module.held_out}_{name}" for name in ("loss", module.method.task.metrics.BEST)}
    for number, row in enumerate(history, start=1):
        missing = keys - row.keys()
        _require(not missing, "history", row)
        _require(row["epoch"] == number, "epoch", row["epoch"])
        _require(0 <= row["seconds"] < math.inf, "seconds", row["seconds"])
    epoch = checkpoint.content["epoch"]
    _require(type(epoch) is int and 0 <= epoch <= module.config.trainer.epochs, "epoch", epoch)


def _check_state_dict(state: Mapping[str, Tensor], module: RunModule) -> None:
    expected = module.state_dict()
    _same_keys("state_dict", state, expected)
    for name, tensor in expected.items():
        found = state[name]
        if name.endswith("_extra_state"):
            # The method chooses its length.
            fits = found.ndim == 2 and found.shape[1:] == tensor.shape[1:]
        else:
            fits = found.shape == tensor.shape
        _require(fits and found.dtype == tensor.dtype, name, list(found.shape))


def _check_loops(
    content: Mapping[str, Any], trainer: Trainer, all_batches: int, batches: int
) -> None:
    loops = content["loops"]
    names = ("fit_loop", "validate_loop", "test_loop", "predict_loop")
    expected = {name: getattr(trainer, name).state_dict() for name in names}
    _same_keys("loops", loops, expected)
    _require(isinstance(loops["fit_loop"], dict), "fit_loop", loops["fit_loop"])
    fit = dict(loops["fit_loop"])
    positions = fit.pop("state_dict")
    expected["fit_loop"].pop("state_dict")
    _same_structure("loops", {**loops, "fit_loop": fit}, expected)
    _same_structure("state_dict", positions, {_POSITION: [{"epoch": 0, "batch": 0}]})
    (position,) = positions[_POSITION]
    _require(position["batch"] <= batches, "batch", position)
    # No counter exceeds the number of batches.
    for value in (*_integers(loops), position["epoch"]):
        _require(0 <= value <= max(all_batches, _MAX_TESTED), "loops", value)
    steps: Any = fit
    for key in _STEPS:
        steps = steps[key]
    _require(steps == content["global_step"], "global_step", steps)


def _check_companions(checkpoint: Checkpoint, module: RunModule) -> None:
    found, wanted = checkpoint.companions, module.companion_configs
    _same_keys("the networks beside the model", found, wanted)
    for name, config in found.items():
        same = (config.name, config.arguments) == tuple(
            wanted[name][key] for key in ("name", "arguments")
        )
        _require(same, name, config)


def _check_own(own: Mapping[str, Any], module: RunModule, step: int) -> None:
    _require(own["network"] == NETWORKS[module.ema is not None], "network", own["network"])
    _require(0 <= own["seconds"] < math.inf, "seconds", own["seconds"])
    sums = own["train_sums"]
    within = step % module.steps_per_epoch > 0
    _require(within == bool(sums), "train_sums", sums)
    if within:
        _require({"loss", "images"} <= sums.keys(), "train_sums", sums)
        _require(0 < sums["images"] < math.inf, "images", sums["images"])


def _optimizer_states(states: Any, module: RunModule) -> list[dict[str, Any]]:
    """Optimiser state, with the parameter groups of the configuration."""
    _require(isinstance(states, list) and len(states) == 1, "optimizer_states", states)
    (found,) = states
    optimizer = module.configure_optimizers()
    expected = optimizer.state_dict()
    _same_keys("optimizer_states", found, expected)
    params = [group["params"] for group in expected["param_groups"]]
    groups = found["param_groups"]
    _require(isinstance(groups, list), "param_groups", groups)
    given = [group.get("params") if isinstance(group, dict) else None for group in groups]
    _same_structure("param_groups", given, params)
    parameters = [param for group in optimizer.param_groups for param in group["params"]]
    entries = found["state"]
    _require(isinstance(entries, dict), "state", entries)
    like = _state_of_one(module)
    for index, entry in entries.items():
        known = type(index) is int and 0 <= index < len(parameters)
        _require(known, "state", index)
        _same_keys("state", entry, like)
        for key, value in entry.items():
            shape = parameters[index].shape if like[key].ndim else like[key].shape
            dtype = parameters[index].dtype if like[key].ndim else like[key].dtype
            fits = isinstance(value, Tensor) and value.shape == shape and value.dtype == dtype
            _require(fits, key, value)
    return [{**expected, "state": entries}]


def _state_of_one(module: RunModule) -> dict[str, Tensor]:
    """Optimiser state of a parameter with one element."""
    with torch.random.fork_rng(devices=()):
        probe = nn.Linear(1, 1, bias=False)
    optimizer = build_optimizer(probe, module.config.optimizer)
    probe.weight.grad = torch.ones_like(probe.weight)
    optimizer.step()
    state: dict[str, Tensor] = optimizer.state_dict()["state"].get(0, {})
    return {key: value for key, value in state.items() if value is not None}


def _same_keys(what: str, found: Any, expected: Iterable[str]) -> None:
    _require(isinstance(found, dict), what, found)
    for name in sorted(found.keys() ^ set(expected), key=str):
        state = "missing" if name in expected else "not known"
        raise ValueError(f"{quoted(name)} in {what} is {state}")


def _same_structure(what: str, found: Any, expected: Any) -> None:
    """Refuse other names, types or lengths."""
    _require(type(found) is type(expected), what, found)
    if isinstance(expected, dict):
        _same_keys(what, found, expected)
        for key, value in expected.items():
            _same_structure(key, found[key], value)
    elif isinstance(expected, list):
        _require(len(found) == len(expected), what, found)
        for one, other in zip(found, expected, strict=True):
            _same_structure(what, one, other)


def _integers(value: Any) -> Iterable[int]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _integers(item)
    elif type(value) is int:
        yield value


def _require(holds: bool, what: str, value: object) -> None:
    if not holds:
        raise ValueError(f"`{what}` is {quoted(value)}")
