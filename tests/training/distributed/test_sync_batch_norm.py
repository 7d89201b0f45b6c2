"""Batch normalisation over processes, here of one; `test_distributed` has two."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mulfree.training.distributed.sync_batch_norm import SyncBatchNorms


@pytest.mark.usefixtures("mesh")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "options", [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}]
)
def test_one_process_is_plain_batch_normalisation(
    dtype: torch.dtype, options: dict[str, bool]
) -> None:
    plain, other = (nn.BatchNorm2d(3, **options) for _ in range(2))
    if dtype == torch.float64:
        plain, other = plain.double(), other.double()
    synced = SyncBatchNorms(plain=True).apply(nn.Sequential(other))
    # The mean is large next to the deviation: the squares may not cancel.
    batches = [(100 + torch.randn(4, 3, 2, 5)).to(dtype) for _ in range(2)]
    weight = torch.randn(4, 3, 2, 5).to(dtype)
    # Of the sums in either order.
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-4, torch.bfloat16: 2**-7}[dtype]

    def run(layer: nn.Module) -> list[Tensor]:
        results = []
        for batch in batches:
            x = batch.clone().requires_grad_()
            y = layer(x)
            assert y.dtype == dtype
            (y * weight).sum().backward()
            assert x.grad is not None
            results += [y.detach(), x.grad]
        layer.eval()
        return [*results, layer(batches[0]).detach(), *layer.state_dict().values()]

    for one, two in zip(run(plain), run(synced), strict=True):
        torch.testing.assert_close(one, two, rtol=tolerance, atol=tolerance)


def test_names_stay_and_nothing_is_undone() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.BatchNorm1d(2))
    names = list(network.state_dict())
    sync = SyncBatchNorms(plain=True)
    assert sync.revert(sync.apply(network)) is network
    assert list(network.state_dict()) == names


def test_accelerators_have_torch_s_own() -> None:
    network = SyncBatchNorms(plain=False).apply(nn.Sequential(nn.BatchNorm2d(2)))
    assert isinstance(network[0], nn.SyncBatchNorm)  # type: ignore[index]


@pytest.mark.usefixtures("mesh")
# torch 2.13 makes one while it compiles.
@pytest.mark.compile
@pytest.mark.filterwarnings("ignore:.*Function'> should not be instantiated:DeprecationWarning")
def test_it_is_compiled_as_one_graph() -> None:
    network = SyncBatchNorms(plain=True).apply(nn.Sequential(nn.BatchNorm2d(2)))
    # A backend that needs no compiler.
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    images = torch.randn(4, 2, 3, 3, requires_grad=True)
    results = []
    for layer in (network, compiled):
        y = layer(images)
        results.append((y.detach(), *torch.autograd.grad((y**3).sum(), images)))
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two)
