from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.parameter import UninitializedParameter

from mulfree.errors import DTypeError, ShapeError
from mulfree.functional import adder2d, adder_linear
from mulfree.operators.operand import check_tensor

_FOREIGN: dict[str, Any] = {
    "numpy": np.zeros((2, 3)),
    "list": [[0.0]],
    "none": None,
    "text": "x",
    "class": torch.Tensor,
}
_NOT_DENSE: dict[str, Callable[[], Tensor]] = {
    "coo": lambda: torch.zeros(2, 3).to_sparse(),
    "csr": lambda: torch.zeros(2, 3).to_sparse_csr(),
    "mkldnn": lambda: torch.zeros(2, 3).to_mkldnn(),
    "nested": lambda: torch.nested.nested_tensor([torch.zeros(2, 3)]),
}
pytestmark = pytest.mark.filterwarnings(
    "ignore:Sparse CSR tensor support", "ignore:The PyTorch API of nested tensors"
)


@pytest.mark.parametrize("value", _FOREIGN.values(), ids=_FOREIGN)
def test_refuses_what_is_no_tensor(value: Any) -> None:
    with pytest.raises(DTypeError, match=r"^f: `input` must be a torch.Tensor, got \w+\."):
        check_tensor("f", "input", value)


@pytest.mark.parametrize("make", _NOT_DENSE.values(), ids=_NOT_DENSE)
def test_refuses_what_is_not_dense(make: Callable[[], Tensor]) -> None:
    with pytest.raises(
        ShapeError, match=r"^f: `input` must be a dense tensor, got a tensor of lay"
    ):
        check_tensor("f", "input", make())


def test_refuses_what_has_no_size() -> None:
    with pytest.raises(ShapeError, match=r"^f: `weight` must have a size, got a parameter that is"):
        check_tensor("f", "weight", UninitializedParameter())


@pytest.mark.parametrize("function", [adder2d, adder_linear])
@pytest.mark.parametrize("argument", [0, 1, 2], ids=["input", "weight", "bias"])
@pytest.mark.parametrize("make", [lambda: np.zeros((2, 3)), *_NOT_DENSE.values()])
def test_every_tensor_of_a_function_is_checked(
    make: Callable[[], Any], argument: int, function: Callable[..., Tensor]
) -> None:
    operands: list[Any] = [torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 3, 3), torch.zeros(1)]
    operands[argument] = make()
    name = ("input", "weight", "bias")[argument]
    with pytest.raises((DTypeError, ShapeError), match=f"^{function.__name__}: `{name}` must be a"):
        function(*operands)
