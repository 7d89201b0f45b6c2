from __future__ import annotations

import torch
from benchmarks.plain_step import plain


def test_the_plain_network_has_the_parameters_of_the_paper() -> None:
    with torch.device("meta"):
        network = plain()
    # torchvision's efficientnet_b0.
    assert sum(p.numel() for p in network.parameters()) == 5_288_548
