from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mulfree import inspection, models
from mulfree.errors import ConfigError, DataError


class Halves(nn.Module):
    """Two features, the sums of the left and the right half, and three classes."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 3, bias=False)
        with torch.no_grad():
            self.fc.weight.copy_(torch.tensor([[1.0, 0], [0, 1], [-1, -1]]))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(images.unflatten(-1, (2, -1)).sum((1, 2, 4)))
        return logits


def test_points_labels_and_accuracy() -> None:
    model = Halves().train()
    one, two = torch.ones(1, 1, 1, 2), torch.tensor([[[[-1.0, -2]]], [[[0.0, 3]]]])
    batches = [(one, torch.tensor([2])), (two, torch.tensor([2, 1]))]
    found = inspection.features(model, batches)
    assert found.points.dtype == np.float64
    assert found.points.tolist() == [[1, 1], [-1, -2], [0, 3]]
    assert found.labels.tolist() == [2, 2, 1]
    assert found.accuracy == pytest.approx(2 / 3)
    assert model.training
    assert not model.fc._forward_pre_hooks


@pytest.mark.parametrize("operator", ["conv2d", "adder2d"])
def test_features_of_an_embedding_make_the_logits(operator: str) -> None:
    model = models.create_model(
        "lenet5_bn", operator=operator, in_channels=1, width=0.25, embedding=2
    )
    images, labels = torch.randn(6, 1, 8, 8), torch.zeros(6, dtype=torch.int64)
    found = inspection.features(model, [(images, labels)])
    assert found.points.shape == (6, 2)
    features = torch.from_numpy(found.points).float()[:, :, None, None]
    model.eval()
    logits = model.get_submodule("bn_fc")(inspection.classifier_of(model)(features))
    torch.testing.assert_close(logits.flatten(1), model(images))


def test_no_images() -> None:
    model = Halves()
    with pytest.raises(DataError, match="must hold at least one batch"):
        inspection.features(model, [])
    assert not model.fc._forward_pre_hooks


@pytest.mark.parametrize(
    ("model", "count"), [(nn.Linear(84, 10), 84), (nn.Conv2d(2, 10, 4), 32), (nn.ReLU(), 0)]
)
def test_another_number_of_features(model: nn.Module, count: int) -> None:
    message = f"`model` must have 2 features in front .* option embedding=2, got {count}$"
    with pytest.raises(ConfigError, match=message):
        inspection.features(model, [])
