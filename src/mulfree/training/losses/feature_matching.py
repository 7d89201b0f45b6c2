r"""Feature-distillation loss between layers of student and teacher: kernels and 1x1 projections.

Legend: N images, C channels, H W rows and columns, :math:`y` the output of a layer
`[N, C, H, W]`.

References:
    arXiv 2009.13044, Eq. 7-13; docs/distillation.md lists the parts that are options because the
    paper leaves them open.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from mulfree import models, operators
from mulfree.errors import ConfigError, ShapeError
from mulfree.training.checks import require, require_choice
from mulfree.training.distributed.collective import average
from mulfree.training.losses.layer_outputs import STAGES, OutputRecorder, choose_layers, layers_of

LIMIT = 8.0
"""Largest magnitude of an exponent: e^8 is 2981, whose square is far below float32's largest."""

Sigma: TypeAlias = float | Literal["learned", "matched"]

# Weight of a batch in the running deviation of a layer's output.
_MOMENTUM = 0.1
# Smallest deviation to divide by.
_MIN_DEVIATION = 1e-6
# As in batch normalisation.
_EPSILON = 1e-5


@dataclass(frozen=True, kw_only=True)
class FeatureMatchingConfig:
    """Options of the feature-distillation loss.

    Attributes:
        layers: Layers of the student's operator: their names, glob patterns of names, or "stages"
            for the last one at each size of map.
        use_kernel: Compare kernels of the layers' outputs, or else the outputs.
        projection: 1x1 convolutions before the comparison, which exist in training only: one for
            each network (both), one for the student, which then predicts the teacher (student), or
            none.
        sigma: Width of the kernels: a number, the running deviation of the outputs (matched), or
            that times a factor that each layer learns (learned).
    """

    layers: tuple[str, ...] = (STAGES,)
    use_kernel: bool = True
    projection: Literal["both", "student", "none"] = "both"
    sigma: Sigma = "learned"

    def __post_init__(self) -> None:
        require_choice("pkkd", "projection", self.projection, ("both", "student", "none"))
        if isinstance(self.sigma, str):
            require_choice("pkkd", "sigma", self.sigma, ("learned", "matched"))
        else:
            require("pkkd", "sigma", self.sigma, self.sigma > 0, "be positive")
        if not self.layers:
            raise ConfigError("pkkd: `layers` must name at least one layer, got none")


class Kernel(nn.Module):
    r"""Kernel transform of a layer's output.

    .. math:: k = \exp\left(\pm \frac{y - \mu}{2 \sigma^2}\right)

    Subtracting the mean :math:`\mu` of each channel over the images scales the kernel by a
    constant, which the following 1x1 convolution absorbs. It keeps the exponential of a sum of
    hundreds of distances, all of one sign, from underflowing; exponents are clamped to `LIMIT`
    against overflow. Like the layer's batch norm, the kernel is invariant to a constant added to a
    channel, and so its gradient sums to 0 over a channel. With sigma matched, :math:`2 \sigma^2` is
    the running deviation of the outputs about the means of their channels; with sigma learned, a
    multiple of it.

    Args:
        sign: 1 or -1.
        config: With `use_kernel` false the result is the exponent, without its sign.
    """

    deviation: Tensor
    seen: Tensor

    def __init__(self, sign: float, config: FeatureMatchingConfig) -> None:
        super().__init__()
        self.exponential = config.use_kernel
        self.sign = sign if config.use_kernel else 1.0
        self.sigma = config.sigma
        # A vector, because a scalar parameter cannot be sharded.
        self.width = nn.Parameter(torch.zeros(1)) if config.sigma == "learned" else None
        self.register_buffer("deviation", torch.ones(()))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, y: Tensor) -> Tensor:
        """`[N, C, H, W]` to the same, in float32 at least."""
        y = y.to(torch.promote_types(y.dtype, torch.float32))
        count = y.numel() / y.shape[1]
        y = y - average(y.flatten(2).sum(2).sum(0) / count).view(-1, 1, 1)
        if self.training:
            self._update(y.detach())
        if isinstance(self.sigma, str):
            factor = self.sign / self.deviation
        else:
            factor = torch.full_like(self.deviation, self.sign / (2 * self.sigma**2))
        if self.width is not None:
            factor = factor * self.width.exp()
        exponent = y * factor
        return exponent.clamp(-LIMIT, LIMIT).exp_() if self.exponential else exponent

    @torch.no_grad()
    def _update(self, centred: Tensor) -> None:
        """Update the running deviation by a batch, over all ranks."""
        variance = average(torch.linalg.vector_norm(centred).square() / centred.numel())
        deviation = variance.sqrt().clamp_min(_MIN_DEVIATION)
        # The first batch replaces the initial value.
        weight = torch.where(self.seen > 0, _MOMENTUM, 1.0).to(deviation.dtype)
        self.deviation.copy_(self.deviation.lerp(deviation.to(self.deviation.dtype), weight))
        self.seen.add_(1)


class Pair(nn.Module):
    r"""Mean squared difference of two layers' outputs after kernel, 1x1 convolution and batch norm.

    .. math:: \frac{1}{N H W C} \sum \left(\mathrm{BN}(W_s k_s) - \mathrm{BN}(W_t k_t)\right)^2

    The normalisation to unit variance keeps the two linear maps from agreeing by vanishing. The
    loss depends only on the means of the kernels and of their products, over the images of all
    ranks, so neither the convolutions nor the difference is computed position by position.

    Args:
        name: Name of both layers.
        channels: C.
        signs: Signs of the exponents of student and teacher.
        config: Options.
    """

    def __init__(
        self, name: str, channels: int, signs: tuple[float, float], config: FeatureMatchingConfig
    ) -> None:
        super().__init__()
        self.name = name
        self.student_kernel, self.teacher_kernel = (Kernel(s, config) for s in signs)
        wanted = config.projection in ("both", "student"), config.projection == "both"
        # Without bias, which the normalisation would remove.
        self.student_linear, self.teacher_linear = (
            nn.Conv2d(channels, channels, 1, bias=False) if there else None for there in wanted
        )

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Outputs `[N, C, H, W]` to a scalar; the teacher's get no gradient."""
        if student.shape != teacher.shape:
            raise ShapeError(
                f"pkkd: `teacher` must answer in layer {self.name} with the student's shape "
                f"{list(student.shape)}, got {list(teacher.shape)}"
            )
        with torch.autocast(student.device.type, enabled=False):
            s, t = self.student_kernel(student), self.teacher_kernel(teacher.detach())
            means = average(torch.stack([s.mean((0, 2, 3)), t.mean((0, 2, 3))])).detach().unbind()
            # Centred, the means of the products are the covariances; as differences of large
            # numbers these would lose most of their digits.
            s, t = (k - mean.view(-1, 1, 1) for k, mean in zip((s, t), means, strict=True))
            products = torch.stack([_products(s, s), _products(t, t), _products(s, t)])
            ss, tt, st = average(products).unbind()
            # Covariances of the outputs of the 1x1 convolutions.
            if self.student_linear is not None:
                w = self.student_linear.weight.flatten(1)
                ss, st = w @ ss @ w.T, w @ st
            if self.teacher_linear is not None:
                w = self.teacher_linear.weight.flatten(1)
                tt, st = w @ tt @ w.T, st @ w.T
            ss, tt, st = ss.diagonal(), tt.diagonal(), st.diagonal()
            # As after batch normalisation: means of 0, variances of nearly 1.
            a, b = (ss + _EPSILON).rsqrt(), (tt + _EPSILON).rsqrt()
            return (ss * a * a + tt * b * b - 2 * st * a * b).mean()


def _products(x: Tensor, y: Tensor) -> Tensor:
    """Mean over images and positions of the products of channels, `[C, C]`."""
    images, channels, *sides = x.shape
    if channels > math.prod(sides):
        # One matrix per image would take more memory than the outputs.
        total: Tensor = torch.tensordot(x, y, dims=([0, 2, 3], [0, 2, 3]))
    else:
        total = torch.bmm(x.flatten(2), y.flatten(2).transpose(1, 2)).sum(0)
    return total / (images * math.prod(sides))


class FeatureMatching(nn.Module):
    r"""Sum over pairs of layers :math:`m` of the mean squared difference of two networks.

    .. math:: L_{mid} = \sum_m \mathrm{mean} (\rho_s^m(k_s^m) - \rho_t^m(k_t^m))^2

    It records the layers in the networks' forward: call `start`, then both networks, then this.

    Args:
        student: A network of `create_model`.
        teacher: One with layers of the same names and channels.
        config: Options.

    Raises:
        ConfigError: A name in `config.layers` matches nothing, or the networks do not fit.
    """

    def __init__(
        self, student: nn.Module, teacher: nn.Module, config: FeatureMatchingConfig
    ) -> None:
        super().__init__()
        own = models.config_of(student).arguments["operator"]
        layers, others = layers_of(student, [own]), layers_of(teacher, operators.OPERATORS)
        self.names = names = choose_layers(student, layers, config.layers)
        pairs = []
        for name in names:
            layer, other = layers[name], others.get(name)
            if other is None or other.out_channels != layer.out_channels:
                raise ConfigError(
                    f"pkkd: `teacher` must have a layer {name} of {layer.out_channels} channels as "
                    f"the student has, got {other and other.out_channels}"
                )
            pairs.append(Pair(name, layer.out_channels, (_sign(layer), _sign(other)), config))
        self.pairs = nn.Sequential(*pairs)
        self._recorders = tuple(OutputRecorder(network, names) for network in (student, teacher))

    def start(self) -> None:
        """Record the outputs of the layers from now on."""
        for recorder in self._recorders:
            recorder.active = True

    def forward(self) -> Tensor:
        """Scalar loss over the outputs recorded since `start`; clears them."""
        student, teacher = (recorder.pop() for recorder in self._recorders)
        losses = [
            pair(student[name], teacher[name])
            for name, pair in zip(self.names, self.pairs, strict=True)
        ]
        return torch.stack(losses).sum()


def _sign(layer: nn.Module) -> float:
    """Sign of a layer's exponents: a convolution's kernel falls with its output, others rise."""
    return -1.0 if isinstance(layer, nn.Conv2d) else 1.0
