"""Embedded knowledge distillation: values and gradients of its losses, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mulfree import models
from mulfree.errors import ConfigError
from mulfree.training import TrainConfig
from mulfree.training.losses.attention import attention_map
from mulfree.training.methods.embedded_kd import Config, Method

SUBNETS = {"one": {"blocks": [1, 1, 1]}, "two": {"blocks": [1, 2, 2]}}
ALONE = {"kl_weight": 0.0, "attention_weight": 0.0, "subnet_weight": 0.0}


def network(**options: Any) -> models.DepthDynamicNetwork:
    torch.manual_seed(0)
    options = {"num_classes": 3, "width": 0.125, "subnets": SUBNETS, **options}
    return models.depth_dynamic("resnet20", **options).double()


def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(4, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 2, 1, 0])


def gradients(model: torch.nn.Module, loss: Tensor) -> dict[str, Tensor]:
    parameters = dict(model.named_parameters())
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    pairs = zip(parameters.items(), found, strict=True)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in pairs}


@pytest.mark.parametrize("operator", ["conv2d", "adder2d"])
@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"subnet_weight": 0.5}, "subnet_loss"),
        ({"kl_weight": 2.0, "temperature": 4.0}, "kl_loss"),
        ({"attention_weight": 3.0}, "attention_loss"),
        ({"attention_weight": 3.0, "attention": "all"}, "attention_loss"),
        ({"kl_weight": 2.0, "schedule": "extremes"}, "kl_loss"),
    ],
)
def test_each_term_and_its_gradient_by_hand(
    options: dict[str, Any], part: str, operator: str
) -> None:
    extremes = "schedule" in options
    norms = "stage" if extremes else "private"
    model, twin = (network(operator=operator, batch_norm=norms) for _ in range(2))
    config = Config(**{**ALONE, **options})
    images, labels = batch()
    values = Method(model, config).train()((images, labels))
    assert values.keys() >= {"loss", "full_loss", part, "accuracy", "one_accuracy"}
    assert ("two_accuracy" in values) != extremes

    names = ["one", "resnet20"] if extremes else ["one", "two", "resnet20"]
    outputs = twin.train().run_depths(images, names)
    full = outputs["resnet20"]
    terms = []
    for name in names[:-1]:
        logits, features = outputs[name].logits, outputs[name].features
        if part == "subnet_loss":
            terms.append(0.5 * cross_entropy(logits, labels))
        elif part == "kl_loss":
            t = config.temperature
            p, q = (full.logits.detach() / t).softmax(1), (logits / t).softmax(1)
            terms.append(2 * t**2 * (p * (p / q).log()).sum() / len(labels))
        else:
            stages = range(3) if config.attention == "all" else [2]
            theirs = [full.features[s].detach() for s in stages]
            pairs = zip([features[s] for s in stages], theirs, strict=True)
            squares = [(attention_map(a) - attention_map(b)).square().mean() for a, b in pairs]
            terms.append(3 * sum(squares, torch.zeros(())) / len(squares))
    term = torch.stack(terms).sum() / len(terms)
    hard = cross_entropy(full.logits, labels)
    torch.testing.assert_close(values[part], term, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(values["full_loss"], hard, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(values["loss"], hard + term, rtol=1e-12, atol=1e-14)
    found, expected = gradients(model, values["loss"]), gradients(twin, hard + term)
    assert any(gradient.any() for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12, msg=name)


def test_a_sub_net_equal_to_the_full_network_has_no_divergence() -> None:
    model = network(batch_norm="shared")
    # Residual blocks that add nothing.
    for block in ("layer1.1", "layer1.2", "layer2.1", "layer2.2", "layer3.1", "layer3.2"):
        module = model.network.get_submodule(f"{block}.bn2")
        torch.nn.init.zeros_(module.get_parameter("weight"))
    values = Method(model, Config(attention="all")).train()(batch())
    assert values["kl_loss"].abs() < 1e-12
    assert values["attention_loss"] == 0
    assert values["accuracy"] == values["one_accuracy"] == values["two_accuracy"]


def test_all_sub_nets_are_tested() -> None:
    model = network(batch_norm="stage")
    method = Method(model, Config(schedule="extremes")).eval()
    values = method.test(model, batch())
    assert list(values) == ["loss", "accuracy", "one_accuracy", "two_accuracy"]
    for name in ("one", "two"):
        logits = model(batch()[0], depth=name)
        assert values[f"{name}_accuracy"] == (logits.argmax(1) == batch()[1]).float().mean()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"kl_weight": -1.0}, "`kl_weight` must be at least 0"),
        ({"attention_weight": -1.0}, "`attention_weight` must be at least 0"),
        ({"subnet_weight": float("nan")}, "`subnet_weight` must be finite"),
        (ALONE, "got 0 for all: sub-nets would not be trained"),
        ({"temperature": 0.0}, "`temperature` must be positive"),
        ({"attention": "first"}, "`attention` must be one of all, last"),
        ({"schedule": "one"}, "`schedule` must be one of all, extremes"),
    ],
)
def test_options_are_checked(options: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigError, match=f"embedded_kd: .*{error}|{error}"):
        TrainConfig.from_dict({"method": {"name": "embedded_kd", **options}})


def test_networks_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"must be a depth-dynamic network .* got a ResidualNet"):
        Method(models.create_model("resnet20", width=0.125), Config())
    with pytest.raises(ConfigError, match=r"`schedule` must be all .* extremes, which never run"):
        Method(network(), Config(schedule="extremes"))
    assert Method(network(batch_norm="shared"), Config(schedule="extremes")).subnets == ["one"]
