from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch import nn

from mulfree import models
from mulfree.errors import ConfigError
from mulfree.training import AdaptiveLocalLR, OptimizerConfig, build_optimizer
from mulfree.training.methods import finetune


def method_of(operator: str = "adder2d", **options: Any) -> finetune.Method:
    torch.manual_seed(0)
    model = models.create_model("lenet5_bn", operator=operator, num_classes=3, width=0.25)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            # The batch replaces the initial statistics, under which an adder layer is constant.
            module.momentum = 1.0
    model(torch.randn(32, 3, 28, 28))
    return finetune.Method(model, finetune.Config(**options)).train()


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(4, 3, 28, 28), torch.tensor([0, 2, 1, 1])


def test_the_loss_is_the_smoothed_cross_entropy() -> None:
    method, (images, labels) = method_of(label_smoothing=0.1), batch()
    expected = nn.CrossEntropyLoss(label_smoothing=0.1)(method.model(images), labels)
    assert method((images, labels))["loss"].item() == pytest.approx(expected.item())


def test_layer_wise_learning_rates() -> None:
    method = method_of(lr_decay=0.5)
    optimizer = build_optimizer(method, OptimizerConfig(lr=0.8))
    rates = {name: group["lr"] for group in optimizer.param_groups for name in group["param_names"]}
    assert rates.keys() == {name for name, _ in method.named_parameters()}
    expected = {"fc": 0.8, "bn_fc": 0.8, "conv4": 0.4, "bn3": 0.4, "conv2": 0.2, "conv1": 0.1}
    for layer, rate in expected.items():
        assert rates[f"model.{layer}.weight"] == pytest.approx(rate), layer
    assert len(optimizer.param_groups) == 4


def test_one_group_without_decay() -> None:
    (group,) = build_optimizer(method_of(), OptimizerConfig(lr=0.3)).param_groups
    assert group["lr"] == 0.3


@pytest.mark.parametrize("name", ["sgd", "nag", "adamw", "rmsprop"])
def test_a_frozen_body(name: Literal["sgd", "nag", "adamw", "rmsprop"]) -> None:
    method = method_of(freeze=True, freeze_batch_norm=True)
    optimizer = build_optimizer(method, OptimizerConfig(name=name))
    # No adder layer is trained.
    assert not isinstance(optimizer, AdaptiveLocalLR)
    before = {key: tensor.clone() for key, tensor in method.state_dict().items()}
    method(batch())["loss"].backward()
    optimizer.step()
    for key, tensor in method.state_dict().items():
        assert tensor.equal(before[key]) != key.startswith(("model.fc.", "model.bn_fc.")), key


def test_statistics_of_the_body() -> None:
    method, other = method_of(freeze=True), method_of(freeze_batch_norm=True)
    before = {key: tensor.clone() for key, tensor in method.state_dict().items()}
    for each in (method, other):
        each(batch())
    body, head = "model.bn1.running_mean", "model.bn_fc.running_mean"
    assert not method.state_dict()[body].equal(before[body])
    assert other.state_dict()[body].equal(before[body])
    # The statistics of the new head are those of the new data.
    assert not other.state_dict()[head].equal(before[head])
    assert not other.model.get_submodule("bn1").training
    assert not method.eval().model.get_submodule("bn1").training


@pytest.mark.parametrize("name", ["sgd", "nag", "adamw", "rmsprop"])
def test_adder_gradients_are_rescaled_before_the_learning_rate(
    name: Literal["sgd", "nag", "adamw", "rmsprop"],
) -> None:
    method = method_of(lr_decay=0.5)
    config = OptimizerConfig(name=name, lr=0.1, momentum=0.5, weight_decay=0.0, local_lr_eta=0.2)
    optimizer = build_optimizer(method, config)
    assert isinstance(optimizer, AdaptiveLocalLR)
    weight = method.model.get_parameter("conv2.weight")
    before = weight.detach().clone()
    method(batch())["loss"].backward()
    optimizer.step()
    assert weight.grad is not None
    assert weight.grad.square().mean().sqrt().item() == pytest.approx(0.2, rel=1e-5)
    if name == "sgd":
        # Two stages from the head.
        torch.testing.assert_close(before - weight.detach(), 0.1 * 0.25 * weight.grad)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr_decay": 0.0}, r"`lr_decay` must lie in \(0, 1\], got 0.0"),
        ({"lr_decay": 1.5}, r"`lr_decay` must lie in \(0, 1\], got 1.5"),
        ({"lr_decay": 0.5, "freeze": True}, "`lr_decay` must be 1 with freeze, .* got 0.5"),
        ({"label_smoothing": 1.0}, r"`label_smoothing` must lie in \[0, 1\), got 1.0"),
    ],
)
def test_rejects(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^finetune: {message}"):
        finetune.Config(**options)
