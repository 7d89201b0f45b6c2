"""Cost of a network of dynamic resolution: of its predictor and at each resolution."""

from __future__ import annotations

from typing import Any

import torch

from mulfree.cost.counting import count
from mulfree.cost.profile import Profile
from mulfree.models.claims import blueprint
from mulfree.models.dynamic_resolution import PREDICTOR, DynamicResolutionNetwork
from mulfree.models.registry import config_of


def count_resolutions(model: DynamicResolutionNetwork, **options: Any) -> dict[str, Profile]:
    """Count the predictor and the classifier at each resolution, for one image.

    Args:
        model: A network of `create_model`.
        **options: Options of `count`.

    Returns:
        Profiles by name: `predictor`, and the resolutions in their order, such as "32".

    Raises:
        ConfigError: The model was not built by `create_model`, or an option is unknown.
    """
    # Without values: a network is copied for every resolution.
    copied = blueprint(config_of(model))
    assert isinstance(copied, DynamicResolutionNetwork)
    channels = model.in_channels
    return {
        name: count(network, (channels, side, side), name=name, **options)
        for name, (network, side) in copied.extract_all().items()
    }


def resolution_costs(model: DynamicResolutionNetwork) -> torch.Tensor:
    """Operations of the classifier at each resolution, `C_j` of Eq. 6, `[m]`, float64.

    Multiplications, additions and all other operations are counted alike; the predictor, which runs
    for every image, is left out.
    """
    profiles = count_resolutions(model)
    totals = [profile.total.cost.total for name, profile in profiles.items() if name != PREDICTOR]
    return torch.tensor(totals, dtype=torch.float64)
