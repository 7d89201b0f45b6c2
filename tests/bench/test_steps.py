from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD

from mulfree.bench import steps
from mulfree.models import create_model
from mulfree.operators import get_operator

SETTINGS: dict[str, Any] = {"model": "lenet5_bn", "batch": 2, "input_size": (1, 28, 28)}


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The networks that are built."""
    built: list[nn.Module] = []

    def create(*args: Any, **options: Any) -> nn.Module:
        built.append(create_model(*args, **options))
        return built[-1]

    monkeypatch.setattr(steps, "create_model", create)
    return built


def test_a_step_trains(networks: list[nn.Module]) -> None:
    step = steps.training_step("lenet5_bn", "conv2d", 2, (1, 28, 28))
    (network,) = networks
    before = [parameter.detach().clone() for parameter in network.parameters()]
    step()
    assert network.training
    after = network.parameters()
    assert not all(torch.equal(new, old) for new, old in zip(after, before, strict=True))


def test_memory_is_that_of_steps_of_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []
    original = steps.training_step

    def spy(model: str, operator: str, batch: int, *rest: Any) -> Any:
        batches.append(batch)
        return original(model, operator, batch, *rest)

    def measured(run: Any) -> dict[str, int]:
        run()
        return {"before": 1, "peak": 3, "added": 2}

    monkeypatch.setattr(steps, "training_step", spy)
    # What a process needs is not to be told in one that has run other tests.
    monkeypatch.setattr(steps, "peak_memory", measured)
    memory = steps.step_memory("resnet20", "conv2d", batch=3, input_size=(3, 8, 8))
    assert batches == [2, 3]
    assert memory == {"before": 1, "peak": 3, "added": 2}


def test_both_memory_formats_and_the_best_of_each() -> None:
    result = steps.bench_step(**SETTINGS, operator="adder2d", rounds=2, both_layouts=True)
    assert (result["model"], result["input_size"]) == ("lenet5_bn", [1, 28, 28])
    assert {timing["samples"] for timing in result["timings"].values()} == {2}
    assert list(result["timings"]) == [
        "adder2d",
        "adder2d channels_last",
        "conv2d",
        "conv2d channels_last",
    ]
    median = {name: timing["median_s"] for name, timing in result["timings"].items()}
    for operator in ("adder2d", "conv2d"):
        both = (operator, f"{operator} channels_last")
        assert median[result["best"][operator]] == min(median[name] for name in both)
    best = result["best"]
    assert result["ratio"] == median[best["adder2d"]] / median[best["conv2d"]]
    assert (result["precision"], result["mode"]) == ("fp32", "eager")


@pytest.mark.parametrize("options", [{"precision": "bf16"}, {"channels_last": True}])
def test_formats_reach_the_network(options: Any, networks: list[nn.Module]) -> None:
    settings = steps.StepOptions(**options)
    step = steps.training_step("resnet20", "conv2d", 2, (3, 8, 8), settings)
    seen: list[Any] = []
    layer = next(layer for layer in networks[0].modules() if isinstance(layer, nn.Conv2d))
    layer.register_forward_hook(lambda layer, given, made: seen.extend([given[0], made]))
    step()
    images, products = seen
    half = options.get("precision") == "bf16"
    # Half floats are those of autocast.
    assert (images.dtype, products.dtype == torch.bfloat16) == (torch.float32, half)
    assert images.is_contiguous(memory_format=settings.memory_format)
    assert products.is_contiguous(memory_format=settings.memory_format)


def test_compiling_asks_for_one_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def compile(function: Any, **options: Any) -> Any:
        asked.append(options)
        return function

    monkeypatch.setattr(torch, "compile", compile)
    for mode in steps.MODES:
        options = steps.StepOptions(mode=mode)
        steps.training_step("lenet5_bn", "conv2d", 2, (1, 28, 28), options)()
    assert asked == [
        {"fullgraph": True, "mode": None},
        {"fullgraph": True, "mode": "reduce-overhead"},
    ]


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Please use the new API settings")
@pytest.mark.parametrize("operator", ["adder2d", "conv2d"])
def test_a_captured_step_trains_as_an_eager_one(
    operator: str, networks: list[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Libraries may add up in another order the next time, which a local rate would magnify.
    monkeypatch.setattr(steps, "sgd", lambda network: SGD(network.parameters(), lr=0.01))
    device = torch.device("cuda")
    images, labels = torch.randn(4, 3, 8, 8, device=device), torch.arange(4, device=device)
    results = []
    for captured in (False, True):
        torch.manual_seed(0)
        options = steps.StepOptions(device=device)
        step = steps.build_step("resnet20", operator, (3, 8, 8), options)
        if captured:
            before = {name: v.clone() for name, v in networks[-1].state_dict().items()}
            step = steps.captured_step(step, images, labels)
            networks[-1].load_state_dict(before)
        step(images, labels)
        step(images, labels)
        results.append([parameter.detach().clone() for parameter in networks[-1].parameters()])
    for eager, replayed in zip(*results, strict=True):
        torch.testing.assert_close(replayed, eager, rtol=1e-3, atol=1e-3)


@pytest.mark.gpu
def test_memory_of_a_gpu_is_what_its_allocator_gave() -> None:
    options = steps.StepOptions(device=torch.device("cuda"))
    size = (3, 32, 32)
    memory = steps.step_memory("resnet20", "conv2d", batch=64, input_size=size, options=options)
    # At the least the input of every one of the 19 layers, of which the stages have 7, 6 and 6.
    activations = 4 * 64 * 1024 * (7 * 16 + 6 * 32 // 4 + 6 * 64 // 16)
    assert activations < memory["added"] < 10 * activations


def test_the_papers_optimiser_rescales_adder_weights() -> None:
    network = get_operator("adder2d").conv(2, 3, 3)
    optimizer = steps.sgd(network)
    weight = next(network.parameters())
    weight.grad = torch.randn_like(weight)
    optimizer.step()
    assert float(weight.grad.square().mean().sqrt()) == pytest.approx(0.2)
