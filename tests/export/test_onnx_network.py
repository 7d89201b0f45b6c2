from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mulfree import functional, models
from mulfree.errors import ConfigError, DTypeError, ShapeError
from mulfree.export import to_onnx
from mulfree.models.early_exit import AllExits, EarlyExitNetwork
from mulfree.nn import Adder2d, AdderLinear

onnx = pytest.importorskip("onnx", reason="needs mulfree[onnx]")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs mulfree[onnx]")
pytest.importorskip("onnxscript", reason="needs mulfree[onnx]")

# The figure that the export promises.
TOLERANCE = 1e-4


def run(path: Path, images: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def with_statistics(network: nn.Module, images: Tensor) -> nn.Module:
    """Normalisations that have seen images, so that not everything is cut off by rectifiers."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        network.train()(images)
    return network.eval()


def agrees(network: nn.Module, path: Path, size: tuple[int, ...], **options: Any) -> None:
    to_onnx(network, path / "model.onnx", **options)
    for count in (1, 3):
        images = torch.randn(count, *size)
        with torch.no_grad():
            expected = network(images)
            exact = copy.deepcopy(network).double()(images.double())
        scale = float(exact.abs().max())
        assert scale > 0.1
        # Many adder layers with random weights are ill-conditioned: torch's own error grows too.
        allowed = max(TOLERANCE * scale, 2 * float((expected - exact).abs().max()))
        assert float((run(path / "model.onnx", images) - exact).abs().max()) <= allowed


@pytest.mark.parametrize(
    ("name", "operator", "side"),
    [
        ("lenet5_bn", "adder2d", 28),
        ("lenet5_bn", "conv2d", 8),
        pytest.param("resnet20", "adder2d", 32, marks=pytest.mark.slow),
        pytest.param("resnet18", "conv2d", 40, marks=pytest.mark.slow),
        pytest.param("resnet50", "adder2d", 64, marks=pytest.mark.slow),
    ],
)
def test_networks_agree_with_torch(name: str, operator: str, side: int, tmp_path: Path) -> None:
    network = models.create_model(name, operator=operator, width=0.125)
    size = (3, side, side)
    agrees(with_statistics(network, torch.randn(8, *size)), tmp_path, size, input_size=size)


def test_a_file_of_standard_operators_that_tells_nothing_of_this_machine(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = models.create_model("lenet5_bn", operator="adder2d", in_channels=1, width=0.5)
    compiled: Any = torch.compile(network)
    level = logging.getLogger("torch.onnx").level
    to_onnx(compiled.train(), tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    shapes = [
        [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (model.graph.input[0], model.graph.output[0])
    ]
    assert shapes == [["batch", 1, 28, 28], ["batch", 10]]
    assert str(Path(models.__file__).parent).encode() not in (tmp_path / "model.onnx").read_bytes()
    # Exported as in evaluation, and left as it was; torch is quiet meanwhile only.
    assert all(module.training for module in network.modules())
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert logging.getLogger("torch.onnx").level == level


class OfAll(nn.Module):
    """Everything that an adder layer can be asked for, and none of `create_model`."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = Adder2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), groups=2, bias=True)
        self.dilated = Adder2d(6, 5, 3, padding="same", dilation=(1, 2), norm=1.5)
        self.linear = AdderLinear(5, 7, bias=True)

    def forward(self, images: Tensor) -> Tensor:
        x = self.dilated(self.grouped(images) / 10)
        linear: Tensor = self.linear(x.mean((2, 3)) / 10)
        return linear


def test_every_option_of_an_adder_layer(tmp_path: Path) -> None:
    agrees(OfAll().eval(), tmp_path, (4, 9, 8), input_size=(4, 9, 8))


def test_long_sums_of_floats_are_precise(tmp_path: Path) -> None:
    layer = Adder2d(512, 2, 3)
    to_onnx(layer, tmp_path / "model.onnx", input_size=(512, 3, 3))
    images = torch.randn(2, 512, 3, 3)
    weight = layer.weight.detach().double()
    exact = functional.adder2d(images.double(), weight, backend="reference")
    error = ((run(tmp_path / "model.onnx", images) - exact) / exact).abs().max()
    # 72 blocks of 64 taps: an error as of 136 sums, and not of 4608.
    assert float(error) < 4 * 136**0.5 * np.finfo(np.float32).eps / 2


def spec(side: int, **values: Any) -> models.ImageSpec:
    facts = {"mean": (0.5, 0.25, 0.125), "std": (1.0, 2.0, 3.0), "resize": side + 1}
    own = {"size": (3, side, side), "classes": ("cat", "ж"), "data": "pets"}
    return models.ImageSpec(**{**facts, **own, **values})


@pytest.mark.parametrize(("given", "side", "resize"), [(None, 8, 9), ((3, 16, 12), 16, 16)])
def test_what_a_network_was_trained_on_is_in_the_file(
    given: tuple[int, ...] | None, side: int, resize: int, tmp_path: Path
) -> None:
    network = models.create_model("lenet5_bn", num_classes=2, width=0.25)
    models.set_images(network, spec(8))
    to_onnx(nn.DataParallel(network), tmp_path / "x.onnx", input_size=given)
    model = onnx.load(tmp_path / "x.onnx")
    height = model.graph.input[0].type.tensor_type.shape.dim[2].dim_value
    assert height == side
    facts = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert facts == {
        "mean": [0.5, 0.25, 0.125],
        "std": [1.0, 2.0, 3.0],
        "resize": resize,
        "classes": ["cat", "ж"],
    }


def test_a_network_that_no_file_can_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mulfree.export.onnx._MAX_BYTES", 100)
    with pytest.raises(
        ConfigError, match=r"must fit in an ONNX file of 100 bytes, got one of \d{3}"
    ):
        to_onnx(nn.ReLU(), tmp_path / "x.onnx", input_size=(1, 2, 2))
    assert not list(tmp_path.iterdir())


FITTING = r"to_onnx: `input_size` must fit ResidualNetwork, got \("


@pytest.mark.parametrize(
    ("network", "options", "error", "line"),
    [
        (
            nn.Linear(2, 3).half(),
            {},
            DTypeError,
            "to_onnx: `model` must have float32 parameters, got torch.float16 of weight",
        ),
        (
            nn.Conv2d(2, 3, 1),
            {},
            ConfigError,
            "to_onnx: `input_size` must be given for a network that create_model did not build, "
            "got a Conv2d",
        ),
        ("x", {}, ConfigError, "to_onnx: `model` must be a torch.nn.Module, got 'x'"),
        (
            "resnet20",
            {"pixels": True},
            ConfigError,
            "to_onnx: `pixels` must be left out with a float network, got True",
        ),
        *(
            (
                "resnet20",
                {"input_size": size},
                ConfigError,
                r"to_onnx: `input_size` must be three positive sizes C, H, W, got \(3, ",
            )
            for size in ((3, 32), (3, 0, 32), (3, 32, 32.0), (3, "a", 5), (3, None, 1))
        ),
        (
            "resnet20",
            {"input_size": (1, 32, 32)},
            ShapeError,
            FITTING + r"1, 32, 32\): ResidualNetwork: `images` must have shape \[N, 3, H, W\]",
        ),
        ("resnet20", {"input_size": (3, 2**40, 2**40)}, ShapeError, FITTING + "3, 1099511627776"),
    ],
)
def test_refusals(
    network: Any, options: Any, error: type[Exception], line: str, tmp_path: Path
) -> None:
    model = models.create_model(network) if network == "resnet20" else network
    with pytest.raises(error, match=line):
        to_onnx(model, tmp_path / "model.onnx", **options)


def test_several_outputs_have_their_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = models.create_model(
        "early_exit", width=0.125, exits=[1], network_options={"blocks": [1, 1, 1]}
    )
    assert isinstance(model, EarlyExitNetwork)
    network, path = AllExits(model.eval()), tmp_path / "net.onnx"
    to_onnx(network, path, input_size=(3, 8, 8))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["exit1", "logits"]
    images = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        expected = network(images)
    for name, found in zip(expected, session.run(None, {"images": images.numpy()}), strict=True):
        np.testing.assert_allclose(found, expected[name].numpy(), rtol=1e-4, atol=1e-5)
