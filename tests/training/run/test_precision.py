"""A training step in mixed precision: bfloat16 where it computes, float32 where it keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tests.training.runs import make_config
from torch import Tensor, nn
from torch.nn import functional

from mulfree.functional import adder2d
from mulfree.nn import Adder2d
from mulfree.training import OptimizerConfig, build_optimizer, load_checkpoint, train


class Rounded(torch.autograd.Function):
    """A tensor rounded to bfloat16, and so its gradient: as by a cast there and back."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return tensor.bfloat16().float()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0].bfloat16().float()


def rounded(tensor: Tensor) -> Tensor:
    result = Rounded.apply(tensor)  # type: ignore[no-untyped-call]
    assert isinstance(result, Tensor)
    return result


def exact(tensor: Tensor) -> Tensor:
    return tensor


class Network(nn.Module):
    """A small adder network; `keep` is applied to what an operator takes and gives."""

    def __init__(self, keep: Any = exact) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.keep = keep
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.adder = Adder2d(8, 8, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        keep = self.keep
        x = keep(functional.conv2d(keep(images), keep(self.conv.weight), padding=1))
        x = keep(self.bn1(x)).relu()
        x = keep(adder2d(keep(x), keep(self.adder.weight), padding=1))
        x = keep(self.bn2(x)).relu()
        x = keep(x.mean((2, 3)))
        logits: Tensor = keep(functional.linear(x, keep(self.fc.weight), keep(self.fc.bias)))
        return logits.float()


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(16, 3, 8, 8, generator=generator), torch.arange(16) % 4


def step(network: Network, *, mixed: bool) -> dict[str, Tensor]:
    """Change of each entry of the state by one step."""
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    optimizer = build_optimizer(network, OptimizerConfig())
    images, labels = batch()
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        loss = functional.cross_entropy(network(images), labels)
    loss.backward()
    for p in network.parameters():
        assert p.grad is not None
        assert p.dtype == p.grad.dtype == torch.float32
    optimizer.step()
    return {name: tensor - before[name] for name, tensor in network.state_dict().items()}


def test_a_mixed_step_is_the_float32_step_up_to_rounding() -> None:
    expected = step(Network(), mixed=False)
    naive = step(Network(rounded), mixed=False)
    mixed = step(Network(), mixed=True)
    for name, value in expected.items():
        if not value.is_floating_point():
            assert torch.equal(mixed[name], value)
            continue
        error = (mixed[name] - value).norm()
        # Twice what rounding by hand costs, the house's rule for kernels: it has no constant of
        # its own. The last term is for sums in another order.
        allowed = 2 * (naive[name] - value).norm() + value.numel() ** 0.5 * 1e-6
        assert error <= allowed, name
        # And within 30 degrees of it.
        assert error <= 0.5 * value.norm(), name
        assert (naive[name] - value).norm() > 0


def test_a_mixed_run_keeps_float32(tmp_path: Path) -> None:
    trainer = {"epochs": 1, "precision": "bf16-mixed", "ema": 0.5}
    train(make_config(tmp_path, trainer=trainer))
    content = load_checkpoint(tmp_path / "last.ckpt").content
    (state,) = content["optimizer_states"]
    buffers = [entry["momentum_buffer"] for entry in state["state"].values()]
    for tensor in (*content["state_dict"].values(), *buffers):
        assert tensor.dtype in (torch.float32, torch.int64)
    assert len(buffers) > 10
