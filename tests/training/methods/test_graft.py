from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.training.runs import assert_same, make_config
from torch import Tensor, nn
from torch.nn.functional import normalize

from mulfree import models
from mulfree.errors import ConfigError
from mulfree.training import load_model, train
from mulfree.training.methods import graft

BLOCKS = [1, 1, 1]
LABELS = torch.tensor([0, 1, 2, 0])


def make(name: str = "resnet20", **options: Any) -> nn.Module:
    sizes = {"width": 0.125, **({"blocks": BLOCKS} if name == "resnet20" else {})}
    return models.create_model(name, num_classes=3, **{**sizes, **options}).eval()


def method(
    folder: Path, student: nn.Module, teacher: nn.Module | None = None, **options: Any
) -> graft.Method:
    """A method in float64 whose student has random running statistics."""
    path = folder / "teacher.safetensors"
    models.save_weights(make(width=0.25) if teacher is None else teacher, path)
    return graft.Method(student, graft.Config(teacher=str(path), **options)).double()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def images(side: int = 8) -> Tensor:
    return torch.randn(4, 3, side, side, dtype=torch.float64)


def spread(network: nn.Module) -> None:
    """Random running statistics, which training would give."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.get_buffer("running_mean").normal_()
            module.get_buffer("running_var").uniform_(0.5, 2)


def test_the_loss_and_its_gradient_by_hand() -> None:
    logits = torch.tensor([[3.0, 4.0], [0.0, 2.0]], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[5.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    loss = graft.graft_loss(logits, teacher)
    # (0.6 - 1)^2 + 0.8^2 and 0, over two images.
    assert loss.item() == pytest.approx(0.4, rel=1e-12)
    loss.backward()
    # -2 (t - (z t) z) / |z| for unit vectors z = (0.6, 0.8) and t = (1, 0), over two images.
    expected = torch.tensor([[-0.128, 0.096], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(logits.grad, expected, rtol=1e-12, atol=1e-12)


def test_identical_units_change_nothing(tmp_path: Path) -> None:
    teacher = make()
    spread(teacher)
    student = make()
    student.load_state_dict(teacher.state_dict())
    made = method(tmp_path, student, teacher, reuse=False).eval()
    x = images()
    logits = made.teacher(x)
    inputs = [x]
    for _, unit in made._units:
        inputs.append(unit.run(made.teacher, inputs[-1]))
    groups = [[0], [1], [2], [3], [0, 1], [0, 1, 2], [0, 1, 2, 3]]
    for group in groups:
        assert torch.equal(made.graft(group, inputs[group[0]]), logits)
    assert made((x, LABELS))["loss"] == 0


def test_a_chain_grows_and_its_adapters_are_merged(tmp_path: Path) -> None:
    made = method(tmp_path, make()).eval()
    spread(made.model)
    x = images()

    def run(number: int, x: Tensor) -> Tensor:
        return made._units[number][0].run(made.model, x)

    y = run(0, x)
    for number in (1, 2, 3):
        y = made.to_student[str(number - 1)](made.to_teacher[str(number - 1)](y))
        y = run(number, y)
    made.start_step(99, 100)
    torch.testing.assert_close(made.model(x), y, rtol=1e-5, atol=1e-5)
    assert torch.equal(made.graft([0, 1, 2, 3], x), made.model(x))
    assert (made.phase, made.joined.item()) == (3, 3)
    merged = {key: tensor.clone() for key, tensor in made.state_dict().items()}
    made.start_step(99, 100)
    # As after resuming: the phase is set anew, and nothing is merged twice.
    made.phase = 0
    made.start_step(98, 100)
    assert made.phase == 3
    assert_same(made.state_dict(), merged)


def test_logits_are_unchanged_in_float32(tmp_path: Path) -> None:
    made = method(tmp_path, make()).eval().float()
    x = images().float()
    chain = made._units[0][0].run(made.model, x)
    chain = made.to_student["0"](made.to_teacher["0"](chain))
    chain = made._units[1][0].run(made.model, chain)
    before = chain.clone()
    made.start_step(50, 100)
    assert made.phase == 1
    after = made._units[1][0].run(made.model, made._units[0][0].run(made.model, x))
    assert (after - before).abs().max() <= 1e-5 * before.abs().max()


def test_every_unit_learns_from_its_own_graft(tmp_path: Path) -> None:
    made = method(tmp_path, make()).train()
    batch = images(), LABELS
    report = made(batch)
    report["loss"].backward()
    own = [p for p in (*made.model.parameters(), *made.lr_factors()) if p.grad is not None]
    assert len(own) == len([*made.model.parameters(), *made.lr_factors()])
    assert all(p.grad is None for p in made.teacher.parameters())
    with torch.no_grad():
        maps = made.teacher.run_stem(batch[0])
        maps = made.teacher.run_blocks(["layer1.0"], maps)
        expected = made.teacher(batch[0])
    # The second unit alone, written out.
    x = made.to_student["0"](maps)
    x = made.to_teacher["1"](made.model.get_submodule("layer2.0")(x))
    logits = made.teacher.classify(made.teacher.run_blocks(["layer3.0"], x))
    distance = (normalize(logits, dim=1) - normalize(expected, dim=1)).square().sum() / 4
    adapter = made.to_teacher.get_parameter("1.weight")
    ones = [*made.model.get_submodule("layer2").parameters(), adapter]
    gradients = torch.autograd.grad(distance, ones)
    for parameter, gradient in zip(ones, gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-9, atol=1e-12)
    assert report["loss"] > report["chain_loss"] > 0


def test_merged_adapters_get_a_gradient_of_zero(tmp_path: Path) -> None:
    made = method(tmp_path, make()).train()
    made.start_step(50, 100)
    made((images(), LABELS))["loss"].backward()
    assert made.phase == 1
    for side in (made.to_student, made.to_teacher):
        gradients = [parameter.grad for parameter in side.parameters()]
        assert [gradient is not None and bool(gradient.any()) for gradient in gradients] == [
            False,
            True,
            True,
        ]


def test_units_of_the_teacher_are_reused_and_frozen(tmp_path: Path) -> None:
    teacher = make(blocks=[1, 1, 2])
    spread(teacher)
    made = method(tmp_path, make(), teacher).train()
    assert made._trained == [2]
    reused = [p for p in made.model.parameters() if not p.requires_grad]
    assert len(reused) == len([*made.model.parameters()]) - 9
    before = {key: tensor.clone() for key, tensor in made.model.state_dict().items()}
    assert before.keys() >= {"conv1.weight", "fc.weight", "layer2.0.bn1.running_mean"}
    made((images(), LABELS))["loss"].backward()
    for key, tensor in made.model.state_dict().items():
        if not key.startswith("layer3"):
            assert torch.equal(tensor, teacher.state_dict()[key].to(tensor.dtype)), key
    changed = {
        key for key, value in made.model.state_dict().items() if not value.equal(before[key])
    }
    assert changed
    assert all(key.startswith("layer3.0") for key in changed)
    made.start_step(9, 10)
    assert made.phase == 0
    own = make()
    with pytest.raises(
        ConfigError, match=r"graft: `model` must differ from the teacher in a stage"
    ):
        method(tmp_path, own, own)


def test_an_adder_student_of_the_same_shape_needs_no_adapter(tmp_path: Path) -> None:
    made = method(tmp_path, make(operator="adder2d"), make(norm_logits=True)).train()
    # The classifiers are equal.
    assert made._trained == [0, 1, 2]
    assert not made.lr_factors()
    made((images(), LABELS))["loss"].backward()
    assert all(p.grad is not None for p in made.model.parameters() if p.requires_grad)


def test_adapters_of_an_adder_student(tmp_path: Path) -> None:
    message = (
        r"graft: `teacher` must have 2 channels after stage 1 as the network has them, got 4: .* "
        r"the network's stage 2 reads them by something else.*`model.options.keep` names"
    )
    with pytest.raises(ConfigError, match=message) as caught:
        method(tmp_path, make(operator="adder2d"))
    assert len(str(caught.value)) <= 400
    keep = [
        "first",
        "last",
        *(f"layer{n}.0.{layer}" for n in (2, 3) for layer in ("conv1", "down*")),
    ]
    made = method(tmp_path, make(operator="adder2d", keep=keep))
    assert sorted(made.to_student) == ["0", "1", "2"]


def test_blocks(tmp_path: Path) -> None:
    teacher = make("vgg_small", width=0.0625)
    made = method(tmp_path, make("vgg_small", width=0.03125), teacher, unit="block")
    assert len(made._trained) == 7
    assert sorted(made.to_teacher) == [str(boundary) for boundary in range(6)]
    message = (
        r"graft: `teacher` must have \[1, 1, 1\] blocks in its stages .*, got \[1, 2, 1\]; with"
    )
    with pytest.raises(ConfigError, match=message):
        method(tmp_path, make(), make(blocks=[1, 2, 1], width=0.25), unit="block")
    narrow, wide = (make(blocks=[2, 2, 2], width=width) for width in (0.25, 0.5))
    with pytest.raises(ConfigError, match=r"4 channels after layer1.0 .* layer1.1 reads them by"):
        method(tmp_path, narrow, wide, unit="block")


def test_networks_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"graft: `teacher` must be a trained network, got None"):
        graft.Method(make(), graft.Config())
    lenet = models.create_model("lenet5_bn", num_classes=3, in_channels=3)
    message = r"graft: `{}` must be a network of stages \(resnet, .*\), got lenet5_bn"
    with pytest.raises(ConfigError, match=message.format("model")):
        method(tmp_path, lenet)
    with pytest.raises(ConfigError, match=message.format("teacher")):
        method(tmp_path, make(), lenet)
    with pytest.raises(ConfigError, match=r"`teacher` must have 3 stages as .* has, got 4"):
        method(tmp_path, make(), make("resnet18", small_input=True, width=0.03125))
    with pytest.raises(
        ConfigError, match=r"must have maps of \[32, 32\] after stage 1 .*\[16, 16\]"
    ):
        method(tmp_path, make(), make("vgg_small"))


@given(st.integers(1, 8), st.integers(1, 10**6), st.floats(0.01, 0.999))
def test_phases(phases: int, steps: int, fraction: float) -> None:
    starts = graft.phase_starts(phases, steps, fraction)
    assert len(starts) == phases
    assert starts == sorted(starts)
    assert starts[0] == 0
    assert starts[-1] < steps
    assert graft.phase_starts(4, 100, 0.4) == [0, 40, 60, 80]
    assert graft.phase_starts(1, 100, 0.4) == [0]


def test_a_run_of_a_few_images(tmp_path: Path) -> None:
    model = {"name": "resnet20", "operator": "conv2d"}
    wide = {"options": {"width": 0.25, "blocks": BLOCKS}}
    few = {"limit": None, "per_class": 2, "repeat": 8, "validation": 0.25}
    train(make_config(tmp_path / "teacher", model={**model, **wide}))
    options = {"options": {"width": 0.125, "blocks": BLOCKS}}
    result = train(
        make_config(
            tmp_path / "run",
            model={**model, **options},
            data=few,
            method={"name": "graft", "teacher": str(tmp_path / "teacher")},
            optimizer={"name": "adamw", "lr": 1e-3},
        )
    )
    assert result.step == 6
    trained = load_model(tmp_path / "run")
    config = models.config_of(trained)
    assert (config.name, config.arguments["width"]) == ("resnet20", 0.125)
    assert trained.state_dict().keys() == make().state_dict().keys()
    taught = load_model(tmp_path / "run" / "teacher.safetensors").state_dict()
    assert_same(taught, load_model(tmp_path / "teacher").state_dict())
    assert {"train_chain_loss", "train_agreement", "validation_accuracy"} <= result.history[
        0
    ].keys()
