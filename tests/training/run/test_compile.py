"""Option `trainer.compile`: one graph, the same numbers, few compilations."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.runs import assert_same, make_config
from torch import Tensor, fx

from mulfree import models
from mulfree.training import TrainingMethod, build_optimizer, load_checkpoint, train
from mulfree.training.method import compile_method
from mulfree.training.methods import supervised
from mulfree.training.optim.build import OptimizerConfig

pytestmark = pytest.mark.compile


@pytest.fixture(autouse=True)
def _nothingcompile_task() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def make_task(name: str, operator: str) -> TrainingMethod:
    torch.manual_seed(0)
    # Channels enough for normalisations to have something to divide by.
    model = models.create_model(name, operator=operator, width=0.05)
    return supervised.Method(model, supervised.Config(label_smoothing=0.1))


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(4, 3, 16, 16, generator=generator), torch.arange(4)


class Counter:
    """A backend that compiles nothing and counts what it was to compile."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: fx.GraphModule, inputs: list[Any], **options: Any) -> Any:
        self.graphs += 1
        return graph.forward


def use(monkeypatch: pytest.MonkeyPatch, backend: Any) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))


# One of every family, and bottlenecks; `tests/contract` has the networks in evaluation mode.
@pytest.mark.parametrize("name", ["lenet5_bn", "resnet20", "resnet18", "resnet50", "vgg_small"])
def test_a_mixed_step_is_one_graph(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, "eager")
    task = make_task(name, "adder2d")
    other = copy.deepcopy(task)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(compile_method(task)(batch()), other(batch()))


def test_gradients_of_the_traced_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, "aot_eager")
    task, expected = make_task("lenet5_bn", "adder2d"), make_task("lenet5_bn", "adder2d")
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            compile_method(task)(batch())["loss"].backward()
            expected(batch())["loss"].backward()
        for (name, p), q in zip(task.named_parameters(), expected.parameters(), strict=True):
            assert p.grad is not None
            assert p.grad.dtype == torch.float32
            torch.testing.assert_close(p.grad, q.grad, msg=name)


def test_fused_kernels_take_the_same_step() -> None:
    # Float64, so that an activation next to a threshold is on the same side of it.
    task, expected = (make_task("lenet5_bn", "adder2d").double() for _ in range(2))
    images, labels = batch()
    for one, compute in ((task, compile_method(task)), (expected, expected)):
        optimizer = build_optimizer(one, OptimizerConfig())
        compute((images.double(), labels))["loss"].backward()
        optimizer.step()
    for (name, value), other in zip(
        task.state_dict().items(), expected.state_dict().values(), strict=True
    ):
        # The loss itself is computed in float32.
        torch.testing.assert_close(value, other, rtol=1e-5, atol=1e-6, msg=name)


# --- in a run --------------------------------------------------------------------------------


def run(directory: Path, monkeypatch: pytest.MonkeyPatch, **sections: Any) -> int:
    """The number of compilations of a run that must give what the same run gives without."""
    trainer = sections.pop("trainer", {})
    train(make_config(directory / "plain", trainer=trainer, **sections))
    counter = Counter()
    use(monkeypatch, counter)
    train(
        make_config(directory / "compiled", trainer={**trainer, "compile": "default"}, **sections)
    )
    one, other = (
        load_checkpoint(directory / name / "last.ckpt").content for name in ("plain", "compiled")
    )
    assert_same(other["state_dict"], one["state_dict"])
    assert_same(other["optimizer_states"], one["optimizer_states"])
    return counter.graphs


def test_a_run_compiles_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = {"ema": 0.5, "accumulate_grad_batches": 2, "precision": "bf16-mixed"}
    assert run(tmp_path, monkeypatch, trainer=trainer) == 1


def test_a_smaller_last_batch_is_compiled_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(tmp_path, monkeypatch, data={"limit": 40, "drop_last": False}) == 2


def test_an_annealed_norm_is_compiled_when_it_has_arrived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The norm is another one at each of the first six of eight steps.
    assert run(tmp_path, monkeypatch, p_annealing={"start": 2.0, "fraction": 0.75}) == 1


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_kernels_and_graphs_of_a_gpu_take_the_same_steps(
    mode: str, precision: str, tmp_path: Path
) -> None:
    losses = []
    for compiler in ("none", mode):
        trainer = {"accelerator": "cuda", "precision": precision, "compile": compiler, "ema": 0.5}
        result = train(make_config(tmp_path / compiler, data={"limit": 512}, trainer=trainer))
        losses.append([row["train_loss"] for row in result.history])
    # The compiler keeps in float32 what eager mode rounds to bfloat16, and 64 steps add that up.
    relative = 1e-2 if precision == "32-true" else 1e-1
    assert losses[0] == pytest.approx(losses[1], rel=relative)


def test_what_breaks_the_graph_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, "eager")
    task = make_task("lenet5_bn", "adder2d")
    task.register_forward_hook(lambda *_: torch._dynamo.graph_break())
    with pytest.raises(torch._dynamo.exc.Unsupported, match="graph_break"):
        compile_method(task)(batch())


@pytest.mark.parametrize("mode", ["default", "reduce-overhead", "max-autotune"])
def test_how_torch_is_asked(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(torch, "compile", lambda task, **options: asked.update(options))
    compile_method(make_task("lenet5_bn", "adder2d"), mode)
    assert asked == {"fullgraph": True, "dynamic": False, "mode": mode}
