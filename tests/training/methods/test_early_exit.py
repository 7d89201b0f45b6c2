"""Joint training of exits: losses by hand, gradients, options."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mulfree import models
from mulfree.errors import ConfigError
from mulfree.models.early_exit import EarlyExitNetwork
from mulfree.training.methods import early_exit

LOGITS = {
    "exit1": [[0.0, 0.0], [math.log(4.0), 0.0]],
    "exit2": [[math.log(3.0), 0.0], [0.0, math.log(3.0)]],
    "logits": [[math.log(9.0), 0.0], [0.0, math.log(4.0)]],
}
LABELS = torch.tensor([0, 1])
# Probabilities of the labels are 1/2 1/5, 3/4 3/4 and 9/10 4/5.
HARD = [
    (math.log(2) + math.log(5)) / 2,
    math.log(4 / 3),
    (math.log(10 / 9) + math.log(5 / 4)) / 2,
]
# Cross entropy with the last exit's probabilities 9/10 1/10 and 1/5 4/5.
SOFT = [
    (math.log(2) + 0.2 * math.log(5 / 4) + 0.8 * math.log(5)) / 2,
    (0.9 * math.log(4 / 3) + 0.1 * math.log(4) + 0.2 * math.log(4) + 0.8 * math.log(4 / 3)) / 2,
]


def network(**options: Any) -> EarlyExitNetwork:
    torch.manual_seed(0)
    options = {"width": 0.125, "network_options": {"blocks": [1, 1, 1]}, **options}
    made = models.create_model("early_exit", num_classes=2, **options)
    assert isinstance(made, EarlyExitNetwork)
    return made


def method(**options: Any) -> early_exit.Method:
    return early_exit.Method(network(), early_exit.Config(**options)).double()


def with_logits(made: early_exit.Method, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    outputs = {
        name: torch.tensor(rows, dtype=torch.float64, requires_grad=True)
        for name, rows in LOGITS.items()
    }
    monkeypatch.setattr(made.model, "all_logits", lambda images: outputs)
    return outputs


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, sum(HARD)),
        ({"exit_weights": (0.5, 2.0, 0.25)}, 0.5 * HARD[0] + 2 * HARD[1] + 0.25 * HARD[2]),
        (
            {"alpha": 0.25, "temperature": 1.0},
            0.75 * (HARD[0] + HARD[1]) + 0.25 * sum(SOFT) + HARD[2],
        ),
    ],
)
def test_the_loss_by_hand(
    options: dict[str, Any], expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = method(**options)
    with_logits(made, monkeypatch)
    values = made((torch.zeros(2, 3, 8, 8), LABELS))
    assert float(values.pop("loss").detach()) == pytest.approx(expected, rel=1e-12)
    assert {key: float(value) for key, value in values.items()} == {
        "accuracy": 1.0,
        "exit1_accuracy": 0.5,
        "exit2_accuracy": 1.0,
    }


def test_gradients_of_the_distillation_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    made = method(alpha=1.0, temperature=2.0, exit_weights=(3.0, 0.0, 1.0))
    outputs = with_logits(made, monkeypatch)
    made((torch.zeros(2, 3, 8, 8), LABELS))["loss"].backward()
    one, two, last = outputs.values()
    # T^2 / T (softmax(z / T) - softmax(z_K / T)), the mean over two images, times the weight.
    expected = 3 * 2 * ((one / 2).softmax(1) - (last / 2).softmax(1)) / 2
    assert one.grad is not None
    torch.testing.assert_close(one.grad, expected.detach())
    assert two.grad is None or not two.grad.any()
    # The teacher has the gradient of its own loss alone.
    own = (last.softmax(1) - torch.nn.functional.one_hot(LABELS, 2)) / 2
    torch.testing.assert_close(last.grad, own.detach())


def test_held_out_images_have_the_loss_of_the_last_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    made = method(alpha=0.5, label_smoothing=0.1).eval()
    with_logits(made, monkeypatch)
    values = made.test(made.model, (torch.zeros(2, 3, 8, 8), LABELS))
    assert float(values["loss"].detach()) == pytest.approx(HARD[2], rel=1e-12)
    assert float(values["exit1_accuracy"]) == 0.5


@pytest.mark.parametrize("count", [1, 2, 4])
def test_another_number_of_weights(count: int) -> None:
    message = f"`exit_weights` must be 3 numbers, one for each of exit1, exit2, .* got {count}"
    with pytest.raises(ConfigError, match=message):
        method(exit_weights=(1.0,) * count)


def test_a_network_without_exits() -> None:
    model = models.create_model("lenet5_bn", width=0.25)
    with pytest.raises(ConfigError, match=r"the network must be one with exits, .* got a LeNet"):
        early_exit.Method(model, early_exit.Config())
