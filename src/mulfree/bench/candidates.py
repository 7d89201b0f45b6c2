"""The files that the benchmark of the runtime compares: one architecture, five ways to run it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mulfree.bench.candidate_process import runner
from mulfree.cost.counting import BASELINE
from mulfree.errors import BackendUnavailableError
from mulfree.export import to_onnx
from mulfree.models import create_model, save_weights
from mulfree.quantization import quantize
from mulfree.runtime import save

TORCH = "torch fp32"
ONNX_FLOAT, ONNX_INT8 = "onnxruntime fp32", "onnxruntime int8"

CNNS = (TORCH, ONNX_FLOAT, ONNX_INT8)
"""Convolutional networks in other libraries, with which the runtime is compared."""

_CALIBRATION_IMAGES = 4


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A network in a file and the library that runs it.

    Attributes:
        name: Name in the results.
        library: One of `candidate_process.LIBRARIES`.
        path: The file.
    """

    name: str
    library: str
    path: Path

    def runner(self, shape: Sequence[int], threads: int) -> Callable[[], Any]:
        """A function that runs it, see `candidate_process.runner`."""
        return runner(self.library, str(self.path), shape, threads)


def make_candidates(
    model: str,
    operator: str,
    directory: Path,
    *,
    input_size: Sequence[int],
    num_classes: int,
) -> list[Candidate]:
    """Networks with random weights, quantised on random images, in files.

    Args:
        model: Name for `create_model`.
        operator: Operator of the network that is compared with the convolutional ones.
        directory: Folder of the files.
        input_size: C, H, W.
        num_classes: Number of logits.

    Returns:
        The operator's network and the convolutional one in the runtime, then `CNNS`.

    Raises:
        BackendUnavailableError: ONNX Runtime is missing.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(_CALIBRATION_IMAGES, *input_size, generator=generator)
    candidates = []
    for name in (operator, BASELINE):
        network = create_model(
            model, operator=name, in_channels=input_size[0], num_classes=num_classes
        )
        _settle(network, images)
        path = directory / f"{model}_{name}.artifact"
        save(quantize(network, [images]), path)
        candidates.append(Candidate(name=f"mulfree int8 {name}", library="mulfree", path=path))
    weights, plain, static = (
        directory / f"{model}{suffix}" for suffix in (".safetensors", ".onnx", "_int8.onnx")
    )
    save_weights(network, weights)
    to_onnx(network, plain, input_size=input_size)
    _quantise_statically(plain, static, images.numpy())
    return [
        *candidates,
        Candidate(name=TORCH, library="torch", path=weights),
        Candidate(name=ONNX_FLOAT, library="onnxruntime", path=plain),
        Candidate(name=ONNX_INT8, library="onnxruntime", path=static),
    ]


def _settle(network: nn.Module, images: torch.Tensor) -> None:
    """Set batch norms to the statistics of the images, and the network to evaluation."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            # None averages over all batches; there is one.
            module.momentum = None
    network.train()
    with torch.no_grad():
        network(images)
    network.eval()


def _quantise_statically(path: Path, quantised: Path, images: np.ndarray[Any, Any]) -> None:
    """ONNX Runtime's own int8: QDQ, one scale for every channel of a weight, calibrated."""
    try:
        from onnxruntime import quantization as ort
    except ModuleNotFoundError as error:
        raise BackendUnavailableError(
            "bench: `runtime` needs ONNX Runtime: pip install mulfree[onnx]"
        ) from error

    class Reader(ort.CalibrationDataReader):  # type: ignore[misc]
        """Returns one image after the other."""

        def __init__(self) -> None:
            self.images = iter(images)

        def get_next(self) -> dict[str, Any] | None:
            image = next(self.images, None)
            return None if image is None else {"images": image[None]}

    prepared = quantised.with_suffix(".prepared.onnx")
    with _quiet():
        ort.shape_inference.quant_pre_process(str(path), str(prepared))
        ort.quantize_static(
            str(prepared),
            str(quantised),
            Reader(),
            quant_format=ort.QuantFormat.QDQ,
            per_channel=True,
            activation_type=ort.QuantType.QUInt8,
            weight_type=ort.QuantType.QInt8,
        )
    prepared.unlink()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice that ONNX Runtime's quantiser gives through the root logger."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
