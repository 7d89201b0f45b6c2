"""Training of networks of dynamic resolution: losses, gradients and statistics by hand."""

from __future__ import annotations

import copy
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mulfree import cost, models
from mulfree.errors import ConfigError
from mulfree.models.dynamic_resolution import DynamicResolutionNetwork
from mulfree.training.method import compile_method
from mulfree.training.methods import dynamic_resolution
from mulfree.training.methods.dynamic_resolution import Config, Method

SIDES = (8, 4)


def network(**changed: Any) -> DynamicResolutionNetwork:
    torch.manual_seed(0)
    options: dict[str, Any] = {"width": 0.125, "predictor_width": 1.0, "num_classes": 3}
    options |= {"resolutions": list(SIDES), "network_options": {"blocks": [1, 1, 1]}} | changed
    model = models.create_model("dynamic_resolution", **options)
    assert isinstance(model, DynamicResolutionNetwork)
    # Logits far below the noise of `forced`.
    model.predictor.get_parameter("fc.weight").data.mul_(0.1)
    return model.double()


def made(**options: Any) -> Method:
    return Method(network(), Config(**options)).train()


def batch(count: int = 6) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(count, 3, 8, 8, dtype=torch.float64), torch.arange(count) % 3


def forced(method: Method, choice: list[int]) -> Any:
    """Noise that decides the choice of every image."""
    noise = torch.full((len(choice), len(method.model.resolutions)), -5.0, dtype=torch.float64)
    noise[range(len(choice)), choice] = 0.0
    return mock.patch.object(dynamic_resolution, "gumbel_noise", return_value=noise)


def statistics(method: Method) -> dict[str, Tensor]:
    state = method.model.network.state_dict()
    return {key: t.clone() for key, t in state.items() if "running" in key}


def test_pretraining_sums_the_losses_of_all_resolutions() -> None:
    method, (images, labels) = made(phase="pretrain"), batch()
    twin = copy.deepcopy(method.model)
    values = method((images, labels))
    losses = [cross_entropy(twin.logits_at(images, side), labels) for side in SIDES]
    torch.testing.assert_close(values["loss"], losses[0] + losses[1])
    values["loss"].backward()
    (losses[0] + losses[1]).backward()
    for (name, p), q in zip(method.model.named_parameters(), twin.parameters(), strict=True):
        if name.startswith("predictor."):
            assert p.grad is None
            assert not p.requires_grad
        else:
            assert p.grad is not None
            torch.testing.assert_close(p.grad, q.grad)
    accuracies = [float(values[f"{side}_accuracy"]) for side in SIDES]
    assert float(values["accuracy"]) == pytest.approx(sum(accuracies) / 2)


def test_finetuning_by_hand() -> None:
    tau, eta, choice = 0.8, 0.3, [0, 1, 1, 0, 0, 1]
    method, (images, labels) = made(phase="finetune", tau=tau, eta=eta, alpha=0.5), batch()
    model = copy.deepcopy(method.model)
    with forced(method, choice):
        values = method((images, labels))
    values["loss"].backward()

    costs = cost.resolution_costs(model)
    log_p = model.predictor_logits(images).log_softmax(1)
    noise = torch.full((6, 2), -5.0, dtype=torch.float64)
    noise[range(6), choice] = 0.0
    soft = ((log_p + noise) / tau).softmax(1)
    logits = torch.empty(6, 3, dtype=torch.float64)
    for index, side in enumerate(SIDES):
        own = [row for row, chosen in enumerate(choice) if chosen == index]
        logits[own] = model.logits_at(images[own], side)
    # A one-hot choice whose gradient is the softmax's.
    ones = torch.eye(2, dtype=torch.float64)[choice]
    h = ones + soft - soft.detach()
    ce = cross_entropy(logits * h[range(6), choice, None], labels)
    expected_cost = (h * costs).sum(1).mean()
    penalty = eta * (expected_cost - 0.5 * costs.max()) / (costs.max() - costs.min())
    assert float(penalty.detach()) > 0
    torch.testing.assert_close(values["loss"], ce + penalty)
    torch.testing.assert_close(values["penalty"], penalty.detach())
    torch.testing.assert_close(values["cost"], (expected_cost / costs.max()).detach())
    (ce + penalty).backward()
    for (name, p), q in zip(method.model.named_parameters(), model.parameters(), strict=True):
        assert p.grad is not None, name
        torch.testing.assert_close(p.grad, q.grad, msg=name)
        assert p.grad.any() or "bias" in name, name


def test_the_gradient_of_the_penalty_by_hand() -> None:
    method = made(phase="finetune", eta=2.0, alpha=0.6)
    low, high = sorted(cost.resolution_costs(method.model).tolist())
    choice = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    choice.requires_grad_()
    penalty = method.penalty(method.expected_cost(choice))
    mean = (2 * high + low) / 3
    assert float(penalty.detach()) == pytest.approx(2.0 * (mean - 0.6 * high) / (high - low))
    penalty.backward()
    rows = [2.0 * high / (high - low) / 3, 2.0 * low / (high - low) / 3]
    assert choice.grad is not None
    torch.testing.assert_close(choice.grad, torch.tensor([rows] * 3, dtype=torch.float64))
    cheap = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    assert float(method.penalty(method.expected_cost(cheap))) == 0.0
    free = made(phase="finetune")
    assert float(free.penalty(torch.tensor(high))) == 0.0


@pytest.mark.parametrize(
    ("choice", "changed"),
    [
        ([0] * 6, {"at_8"}),
        ([1] * 6, {"at_4"}),
        ([0] * 5 + [1], {"at_8"}),
        ([0, 1] * 3, {"at_8", "at_4"}),
    ],
)
def test_an_empty_part_and_one_of_a_single_image_change_no_statistics(
    choice: list[int], changed: set[str]
) -> None:
    method = made(phase="finetune")
    before = statistics(method)
    with forced(method, choice):
        method(batch())["loss"].backward()
    after = statistics(method)
    assert all(tensor.isfinite().all() for tensor in after.values())
    differ = {key for key in after if not torch.equal(after[key], before[key])}
    assert {key.partition("branches.")[2].partition(".")[0] for key in differ} == changed
    assert all(p.grad is not None for p in method.model.parameters())
    assert all(module.training for module in method.modules())


def test_held_out_images_have_the_most_probable_resolution() -> None:
    method, (images, labels) = made(phase="finetune", alpha=0.9), batch()
    method.eval()
    model = method.model
    values = method.test(model, (images, labels))
    torch.testing.assert_close(values["loss"], cross_entropy(model(images), labels))
    costs = dict(zip(SIDES, cost.resolution_costs(model).tolist(), strict=True))
    chosen = [costs[side] for side in model.predict_resolution(images).tolist()]
    assert float(values["cost"]) == pytest.approx(sum(chosen) / 6 / costs[8])
    pretraining = Method(model, Config(phase="pretrain")).eval()
    tested = pretraining.test(model, (images, labels))
    losses = [cross_entropy(model.logits_at(images, side), labels) for side in SIDES]
    torch.testing.assert_close(tested["loss"], torch.stack(losses).mean())


def test_the_predictor_has_a_learning_rate_of_its_own() -> None:
    method = made(phase="finetune", predictor_lr=0.25)
    factors = method.lr_factors()
    assert set(factors) == set(method.model.predictor.parameters())
    assert set(factors.values()) == {0.25}


def test_pretraining_is_one_graph_and_finetuning_is_not() -> None:
    assert made(phase="pretrain").is_one_graph
    message = r"`trainer.compile` must be none for method dynamic_resolution with.*got default"
    with pytest.raises(ConfigError, match=message):
        compile_method(made(phase="finetune"))


@pytest.mark.compile
def test_a_pretraining_step_compiled() -> None:
    torch._dynamo.reset()
    method, other = made(phase="pretrain"), made(phase="pretrain")
    compiled = torch.compile(method, fullgraph=True, dynamic=False, backend="eager")
    for _ in range(2):
        torch.testing.assert_close(compiled(batch())["loss"], other(batch())["loss"])
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"phase": "train"}, "`phase` must be one of finetune, pretrain, got 'train'"),
        ({"tau": 0.0}, "`tau` must be positive, got 0.0"),
        ({"eta": -1.0}, "`eta` must be at least 0, got -1.0"),
        ({"alpha": 0.0}, "`alpha` must be positive, got 0.0"),
        ({"predictor_lr": 0.0}, "`predictor_lr` must be positive, got 0.0"),
        ({"label_smoothing": 1.0}, r"`label_smoothing` must lie in \[0, 1\)"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config(**options)


@pytest.mark.parametrize("alpha", [0.01, 10.0, 1e12])
def test_a_cost_out_of_reach(alpha: float) -> None:
    with pytest.raises(ConfigError, match="`alpha` must lie between the costs of several reso"):
        made(phase="finetune", alpha=alpha)
    with pytest.raises(ConfigError, match="`alpha` must lie between the costs of several reso"):
        Method(network(resolutions=[8]), Config(alpha=1.0))


def test_operations_and_their_share_are_one_target() -> None:
    model = network()
    high = float(cost.resolution_costs(model).max())
    one = Method(model, Config(phase="finetune", alpha=0.5))
    other = Method(model, Config(phase="finetune", alpha=0.5 * high))
    value = torch.tensor(0.8 * high, dtype=torch.float64)
    assert float(one.penalty(value)) == float(other.penalty(value)) > 0


def test_another_network_is_refused() -> None:
    with pytest.raises(ConfigError, match="`model` must be dynamic_resolution, got resnet20"):
        Method(models.create_model("resnet20", width=0.125), Config())
