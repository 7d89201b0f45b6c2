"""Networks that choose the resolution of every image: a predictor and one classifier for all.

References:
    Dynamic Resolution Network, arXiv 2106.02898.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mulfree import operators
from mulfree.errors import ConfigError, choices_message
from mulfree.models.parts import check_images
from mulfree.models.registry import (
    ModelOptions,
    build_network,
    config_of,
    create_model,
    set_images,
)
from mulfree.models.switchable_norm import SwitchableBatchNorm2d, make_switchable, switch

PREDICTOR = "predictor"
"""Name of the predictor, a submodule and an entry of `extract_all`."""


class DynamicResolutionNetwork(nn.Module):
    r"""A classifier at several resolutions, and a predictor that chooses one for each image.

    The predictor :math:`R` maps an image to probabilities :math:`p \in R^m` of the candidate
    resolutions :math:`r_1 > ... > r_m`. In evaluation mode every image is resized to the most
    probable one, and images of one resolution are one batch. In training mode the logits are
    differentiable by all parameters, the mean over the resolutions by these probabilities:

    .. math:: z(x) = \sum_j p_j(x) \, f_j(x_{r_j})

    Images are resized to squares bilinearly, with antialiasing (a triangle of the width of the
    scale, as Pillow does) and corners not aligned; images of the resolution are left as they are.

    Args:
        predictor: Name and options of the registered model that maps images to a logit for each
            resolution.
        network: Name and options of the classifier.
        in_channels: Channels of the images.
        resolutions: Candidate sides, falling.
        predictor_size: Side of the predictor's images.
        private_norms: Give every resolution batch norms of its own (Eq. 3).

    References:
        arXiv 2106.02898, section 3.
    """

    def __init__(
        self,
        predictor: tuple[str, ModelOptions],
        network: tuple[str, ModelOptions],
        *,
        in_channels: int,
        resolutions: Sequence[int],
        predictor_size: int,
        private_norms: bool,
    ) -> None:
        super().__init__()
        # In this order: the first layer of the model is the predictor's, the last the classifier.
        self.predictor = build_network(*predictor)
        layers = [m for m in self.predictor.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        # As PyTorch does, uniform by the inputs. Uniform by the few outputs, as published networks
        # are, logits would be so large that hardly any other resolution is ever sampled.
        layers[-1].reset_parameters()
        self.network = build_network(*network)
        self.parts = {PREDICTOR: predictor, "network": network}
        self.in_channels = in_channels
        self.resolutions = tuple(resolutions)
        self.predictor_size = predictor_size
        self.private_norms = private_norms and len(self.resolutions) > 1
        if self.private_norms:
            branches = [_branch(side) for side in self.resolutions]
            make_switchable(self.network, lambda _: branches)

    def forward(self, images: Tensor) -> Tensor:
        """Images `[N, C_in, H, W]` to logits `[N, classes]`, in the order of the images."""
        check_images(type(self).__name__, images, self.in_channels, 1)
        predicted = self.predictor_logits(images)
        if not self.training:
            return self.logits_by(images, predicted.argmax(1))
        weights = predicted.softmax(1)
        parts = [self.logits_at(images, side) for side in self.resolutions]
        return torch.stack([w[:, None] * z for w, z in zip(weights.T, parts, strict=True)]).sum(0)

    def predictor_logits(self, images: Tensor) -> Tensor:
        """Logits of the candidate resolutions, `[N, m]`."""
        logits: Tensor = self.predictor(resized(images, self.predictor_size))
        return logits

    def predict_resolution(self, images: Tensor) -> Tensor:
        """Most probable resolution of each image, its side in pixels, `[N]`, int64."""
        sides = torch.tensor(self.resolutions, device=images.device)
        return sides[self.predictor_logits(images).argmax(1)]

    def logits_at(self, images: Tensor, resolution: int) -> Tensor:
        """Logits `[N, classes]` of images at one candidate resolution.

        Raises:
            ConfigError: It is no candidate.
        """
        if resolution not in self.resolutions:
            raise ConfigError(
                choices_message("logits_at", "resolution", resolution, map(str, self.resolutions))
            )
        if self.private_norms:
            switch(self.network, _branch(resolution))
        logits: Tensor = self.network(resized(images, resolution))
        return logits

    def logits_by(self, images: Tensor, choice: Tensor) -> Tensor:
        """Logits of images at the resolutions chosen for them, computed in a batch for each.

        Args:
            images: `[N, C_in, H, W]`.
            choice: Index of the resolution of each image, `[N]`.
        """
        if images.is_meta:
            # There are no values to choose by, and all resolutions give logits of one shape.
            return self.logits_at(images, self.resolutions[0])
        rows = [(choice == index).nonzero().flatten() for index in range(len(self.resolutions))]
        parts = [
            self.logits_at(images[own], side)
            for own, side in zip(rows, self.resolutions, strict=True)
            # Without images one resolution has to give the shape of the logits.
            if len(own) or (not len(images) and side == self.resolutions[0])
        ]
        return torch.cat(parts)[torch.cat(rows).argsort()]

    # --- networks of its parts ----------------------------------------------------------------

    @torch.no_grad()
    def extract(self, resolution: int) -> nn.Module:
        """Return the classifier at one resolution as an ordinary network, with copied tensors.

        Its logits of the resized images equal `logits_at` to the last bit.

        Raises:
            ConfigError: The resolution is no candidate, or the model was not built by
                `create_model`.
        """
        if resolution not in self.resolutions:
            raise ConfigError(
                choices_message("extract", "resolution", resolution, map(str, self.resolutions))
            )
        state = self.network.state_dict()
        for name, module in self.network.named_modules():
            if isinstance(module, SwitchableBatchNorm2d):
                own = module.branches[_branch(resolution)].state_dict(prefix=f"{name}.")
                state = {k: t for k, t in state.items() if not k.startswith(f"{name}.")} | own
        made = self._extracted(self.network, self.parts["network"], state)
        images = config_of(self).images
        if images is not None:
            set_images(made, images.resized(resolution))
        return made

    @torch.no_grad()
    def extract_predictor(self) -> nn.Module:
        """Return the predictor as an ordinary network, whose classes are the resolutions.

        Raises:
            ConfigError: The model was not built by `create_model`.
        """
        state = self.predictor.state_dict()
        made = self._extracted(self.predictor, self.parts[PREDICTOR], state)
        images = config_of(self).images
        if images is not None:
            classes = tuple(map(str, self.resolutions))
            set_images(made, images.resized(self.predictor_size, classes))
        return made

    def extract_all(self) -> dict[str, tuple[nn.Module, int]]:
        """Return the predictor and the classifier at each resolution, with the sides of images.

        Returns:
            `predictor` and the resolutions as texts, such as "32".
        """
        predictor = {PREDICTOR: (self.extract_predictor(), self.predictor_size)}
        return predictor | {str(side): (self.extract(side), side) for side in self.resolutions}

    def _extracted(
        self, part: nn.Module, design: tuple[str, ModelOptions], state: Mapping[str, Tensor]
    ) -> nn.Module:
        """Network of the registry with the layers and the tensors of a part of this one."""
        name, options = design
        found = ((n, operators.operator_of(m)) for n, m in part.named_modules())
        layers = {n: operator.name for n, operator in found if operator is not None}
        placement: dict[str, Any] = {}
        if set(layers.values()) != {"conv2d"}:
            arguments = config_of(self).arguments
            placement = {key: arguments[key] for key in ("operator", "gradient")}
            kept = [n for n, operator in layers.items() if operator == "conv2d"]
            if kept != [next(iter(layers)), next(reversed(layers))]:
                placement["keep"] = kept
        with torch.random.fork_rng(devices=()):
            made = create_model(name, **placement, **asdict(options))
        tensor = next(part.parameters())
        made.to(tensor.device, tensor.dtype).load_state_dict(state)
        return made.train(part.training)


def is_dynamic_resolution(model: nn.Module) -> bool:
    """Return whether a network chooses the resolution of its images."""
    return isinstance(model, DynamicResolutionNetwork)


def resized(images: Tensor, side: int) -> Tensor:
    """Images as squares of a side; see `DynamicResolutionNetwork`."""
    if images.shape[2:] == (side, side):
        return images
    if not len(images):
        return images.new_empty(0, images.shape[1], side, side)
    return functional.interpolate(
        images, (side, side), mode="bilinear", antialias=True, align_corners=False
    )


def _branch(side: int) -> str:
    return f"at_{side}"
