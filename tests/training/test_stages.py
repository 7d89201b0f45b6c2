from __future__ import annotations

from torch import nn

from mulfree import models
from mulfree.training.stages import HEAD, head_of, stages_of


def test_stages_of_a_residual_network() -> None:
    model = models.create_model("resnet20", operator="adder2d", width=0.25)
    stages = stages_of(model)
    assert list(stages) == [name for name, _ in model.named_parameters()]
    assert stages["conv1.weight"] == stages["layer1.2.bn2.bias"] == "stage 1"
    assert stages["layer2.0.conv1.weight"] == stages["layer2.2.bn2.bias"] == "stage 2"
    assert stages["layer3.0.conv1.weight"] == stages["layer3.2.bn2.bias"] == "stage 3"
    assert stages["fc.weight"] == stages["bn2.weight"] == stages["bn2.bias"] == HEAD


def test_a_layer_on_one_pixel_belongs_to_the_stage_before() -> None:
    stages = stages_of(models.create_model("lenet5_bn", width=0.25))
    # The third layer's maps have one pixel, which the fourth layer reads.
    assert stages["conv3.weight"] == stages["conv4.weight"] == stages["bn4.bias"] == "stage 3"


def test_the_head_has_the_norm_of_the_logits() -> None:
    model = models.create_model("lenet5_bn", norm_logits=True)
    assert isinstance(model.get_submodule("bn_fc"), nn.BatchNorm2d)
    assert "bn_fc.running_mean" in head_of(model)
    assert head_of(models.create_model("lenet5_bn")) == {"fc.weight", "fc.bias"}


def test_the_network_is_left_as_it_is() -> None:
    model = models.create_model("lenet5_bn", width=0.25).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    stages_of(model)
    assert model.training
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
