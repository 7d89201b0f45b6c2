"""Choices of a network of dynamic resolution, counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mulfree import cost, inspection, models
from mulfree.errors import DataError
from mulfree.models.dynamic_resolution import DynamicResolutionNetwork


class _ByPixel(nn.Module):
    """A predictor by two channels of the first pixel."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :2, 0, 0]


def test_choices_accuracies_and_extremes() -> None:
    torch.manual_seed(0)
    model = models.create_model(
        "dynamic_resolution", resolutions=[8, 4], width=0.125, num_classes=3
    )
    assert isinstance(model, DynamicResolutionNetwork)
    costs = cost.count_resolutions(model)
    images, labels = torch.randn(10, 3, 8, 8), torch.arange(10) % 3
    images[:, 0, 0, 0] = torch.tensor([3.0, -2, 1, 0.5, -1, 2, -3, 4, -0.5, -4])
    images[:, 1, 0, 0] = 0
    model(images)
    shown_model = model.eval()
    parts = [(images[:4], labels[:4]), (images[4:], labels[4:])]
    plain = inspection.inspect_resolutions(shown_model, parts)
    model.predictor = _ByPixel()
    chosen = model.predictor_logits(images).argmax(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspection.resolutions, "count_resolutions", lambda _: costs)
        found = inspection.inspect_resolutions(model, parts, shown=3)
    assert found.sides == plain.sides == (8, 4)
    assert found.images == (5, 5)
    with torch.no_grad():
        logits = [model.logits_at(images, side) for side in (8, 4)]
    right = [part.argmax(1) == labels for part in logits]
    assert found.accuracies == pytest.approx([float(r.float().mean()) for r in right])
    own = torch.where(chosen == 0, right[0], right[1])
    assert found.accuracy == pytest.approx(float(own.float().mean()))
    totals = [costs[name].total.cost.total for name in ("predictor", "8", "4")]
    assert found.operations == tuple(totals[1:])
    assert found.mean_operations == pytest.approx(totals[0] + sum(totals[1:]) / 2)
    assert torch.equal(found.easiest, images[[9, 6, 1]])
    assert torch.equal(found.hardest, images[[7, 0, 5]])
    figure = inspection.plot_resolutions(found, (0.5,) * 3, (0.25,) * 3)
    assert [len(axes.images) for axes in figure.axes].count(1) == 6
    with pytest.raises(DataError, match="`batches` must hold at least one image, got none"):
        inspection.inspect_resolutions(model, [])
