r"""What the layers of two networks say of the same images, made comparable: kernels and 1x1 layers.

Legend: N images, C channels, H W rows and columns, :math:`y` the response of a layer
`[N, C, H, W]`.

References:
    arXiv 2009.13044, Eq. 7-13. What of these formulas is not certain is an option, with the form
    that is remembered as its default; see docs/distillation.md.
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
from mulfree.training.losses.layer_outputs import STAGES, Recorder, choose_layers, layers_of

LIMIT = 8.0
"""Exponents beyond it stay at it: e^8 is 2981, whose square is far from the limits of float32."""

Sigma: TypeAlias = float | Literal["learned", "matched"]

# Weight of a batch in the running statistics of a response.
_MOMENTUM = 0.1
# Least deviation that responses are divided by.
_NARROWEST = 1e-6
# As in batch normalisation.
_EPSILON = 1e-5


@dataclass(frozen=True, kw_only=True)
class MatchingConfig:
    """How the responses of two networks are made comparable.

    Attributes:
        layers: Layers of the student's operator: their names, glob patterns of names, or "stages"
            for the last one at each size of map.
        where: Compare what a layer itself says (layer), or its normalisation (norm).
        kernel: Compare kernels of these responses, or else the responses.
        linear: Compare them behind 1x1 convolutions, which exist in training only: one for each
            network (both), one for the student, which has to foretell the teacher (student), or
            none.
        sigma: Width of the kernels: a number, one that fits the running deviation of the responses
            (matched), or that times a factor that each layer learns (learned).
        sign: The kernel of a convolution falls with its response and that of an adder layer rises
            with its response (opposite), or both rise (same).
        normalise: Compare results of unit variance, which cannot agree by vanishing.
    """

    layers: tuple[str, ...] = (STAGES,)
    where: Literal["layer", "norm"] = "layer"
    kernel: bool = True
    linear: Literal["both", "student", "none"] = "both"
    sigma: Sigma = "learned"
    sign: Literal["opposite", "same"] = "opposite"
    normalise: bool = True

    def __post_init__(self) -> None:
        require_choice("pkkd", "where", self.where, ("layer", "norm"))
        require_choice("pkkd", "linear", self.linear, ("both", "student", "none"))
        require_choice("pkkd", "sign", self.sign, ("opposite", "same"))
        if isinstance(self.sigma, str):
            require_choice("pkkd", "sigma", self.sigma, ("learned", "matched"))
        else:
            require("pkkd", "sigma", self.sigma, self.sigma > 0, "be positive")
        if not self.layers:
            raise ConfigError("pkkd: `layers` must name at least one layer, got none")


class Kernel(nn.Module):
    r"""A kernel on the responses of a layer.

    .. math:: k = \exp\left(\pm \frac{y - \mu}{2 \sigma^2}\right)

    The mean :math:`\mu` of each channel over the images divides its kernel by a constant. That is
    nothing to a 1x1 convolution behind it, and it keeps the exponential of a sum of hundreds of
    distances, all of one sign, from vanishing; exponents are cut at `LIMIT`, so that it cannot
    overflow either. Like the normalisation behind the layer, the kernel does not tell a constant
    that is added to a channel, and its gradient has none to add. Where sigma is matched,
    :math:`2 \sigma^2` is the running deviation of the responses about the means of their channels,
    where it is learned a multiple of it.

    Args:
        sign: 1 or -1.
        config: With `kernel` false the result is the exponent, without its sign.
    """

    deviation: Tensor
    seen: Tensor

    def __init__(self, sign: float, config: MatchingConfig) -> None:
        super().__init__()
        self.exponential = config.kernel
        self.sign = sign if config.kernel else 1.0
        self.sigma = config.sigma
        # A vector, because a lone number cannot be divided among processes.
        self.width = nn.Parameter(torch.zeros(1)) if config.sigma == "learned" else None
        self.register_buffer("deviation", torch.ones(()))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, y: Tensor) -> Tensor:
        """`[N, C, H, W]` to the same, in float32 at least."""
        y = y.to(torch.promote_types(y.dtype, torch.float32))
        count = y.numel() / y.shape[1]
        y = y - average(y.flatten(2).sum(2).sum(0) / count).view(-1, 1, 1)
        if self.training:
            self._see(y.detach())
        if isinstance(self.sigma, str):
            factor = self.sign / self.deviation
        else:
            factor = torch.full_like(self.deviation, self.sign / (2 * self.sigma**2))
        if self.width is not None:
            factor = factor * self.width.exp()
        exponent = y * factor
        return exponent.clamp(-LIMIT, LIMIT).exp_() if self.exponential else exponent

    @torch.no_grad()
    def _see(self, centred: Tensor) -> None:
        """Takes the deviation of a batch into the running one, which is that of all processes."""
        variance = average(torch.linalg.vector_norm(centred).square() / centred.numel())
        deviation = variance.sqrt().clamp_min(_NARROWEST)
        # The first batch alone makes it.
        weight = torch.where(self.seen > 0, _MOMENTUM, 1.0).to(deviation.dtype)
        self.deviation.copy_(self.deviation.lerp(deviation.to(self.deviation.dtype), weight))
        self.seen.add_(1)


class Pair(nn.Module):
    r"""Mean squared difference of what two layers say, after a kernel and a 1x1 convolution each.

    .. math:: \frac{1}{N H W C} \sum \left(W_s k_s + b_s - W_t k_t - b_t\right)^2

    It is worked out from the means of the kernels and of their products, which are all it depends
    on: neither the convolutions nor the difference is computed position by position. They are those
    of the images of all processes together.

    Args:
        name: Of the layers.
        channels: C.
        signs: Of the exponents of student and teacher.
        config: Options.
    """

    def __init__(
        self, name: str, channels: int, signs: tuple[float, float], config: MatchingConfig
    ) -> None:
        super().__init__()
        self.name = name
        self.normalise = config.normalise
        self.student_kernel, self.teacher_kernel = (Kernel(s, config) for s in signs)
        wanted = config.linear in ("both", "student"), config.linear == "both"
        # A normalisation takes a bias away again.
        bias = not config.normalise
        self.student_linear, self.teacher_linear = (
            nn.Conv2d(channels, channels, 1, bias=bias) if there else None for there in wanted
        )

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Responses `[N, C, H, W]` to a scalar; the teacher's get no gradient."""
        if student.shape != teacher.shape:
            raise ShapeError(
                f"pkkd: `teacher` must answer in layer {self.name} with the student's shape "
                f"{list(student.shape)}, got {list(teacher.shape)}"
            )
        with torch.autocast(student.device.type, enabled=False):
            s, t = self.student_kernel(student), self.teacher_kernel(teacher.detach())
            s_mean, t_mean = average(torch.stack([s.mean((0, 2, 3)), t.mean((0, 2, 3))])).unbind()
            # Of what has no mean any more, the means of the products are the covariances, and so
            # are their gradients; a difference of large numbers would leave little of them.
            s, t = (k - mean.detach().view(-1, 1, 1) for k, mean in ((s, s_mean), (t, t_mean)))
            products = torch.stack([_products(s, s), _products(t, t), _products(s, t)])
            ss, tt, st = average(products).unbind()
            # Covariances and means behind the convolutions.
            if self.student_linear is not None:
                w = self.student_linear.weight.flatten(1)
                ss, st, s_mean = w @ ss @ w.T, w @ st, w @ s_mean
                if self.student_linear.bias is not None:
                    s_mean = s_mean + self.student_linear.bias
            if self.teacher_linear is not None:
                w = self.teacher_linear.weight.flatten(1)
                tt, st, t_mean = w @ tt @ w.T, st @ w.T, w @ t_mean
                if self.teacher_linear.bias is not None:
                    t_mean = t_mean + self.teacher_linear.bias
            ss, tt, st = ss.diagonal(), tt.diagonal(), st.diagonal()
            if self.normalise:
                # What batch normalisation makes of them: means of 0, variances of nearly 1.
                a, b = (ss + _EPSILON).rsqrt(), (tt + _EPSILON).rsqrt()
                squares = ss * a * a + tt * b * b - 2 * st * a * b
            else:
                squares = ss + tt - 2 * st + (s_mean - t_mean).square()
            return squares.mean()


def _products(x: Tensor, y: Tensor) -> Tensor:
    """Mean over images and positions of the products of channels, `[C, C]`."""
    images, channels, *sides = x.shape
    if channels > math.prod(sides):
        # As many matrices as there are images would take more memory than the responses.
        total: Tensor = torch.tensordot(x, y, dims=([0, 2, 3], [0, 2, 3]))
    else:
        total = torch.bmm(x.flatten(2), y.flatten(2).transpose(1, 2)).sum(0)
    return total / (images * math.prod(sides))


class Matching(nn.Module):
    r"""The sum over pairs of layers :math:`m` of the mean squared difference of two networks.

    .. math:: L_{mid} = \sum_m \mathrm{mean} (\rho_s^m(k_s^m) - \rho_t^m(k_t^m))^2

    It reads the networks in their forward: `start` before, the call after that of both.

    Args:
        student: A network of `create_model`.
        teacher: One with layers of the same names and channels.
        config: Options.

    Raises:
        ConfigError: A name in `config.layers` matches nothing, or the networks do not fit.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, config: MatchingConfig) -> None:
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
            signs = _sign(layer, config), _sign(other, config)
            pairs.append(Pair(name, layer.out_channels, signs, config))
        self.pairs = nn.Sequential(*pairs)
        self._readers = tuple(Recorder(net, names, config.where) for net in (student, teacher))

    def start(self) -> None:
        """From now on what the networks' layers say is kept."""
        for reader in self._readers:
            reader.listening = True

    def forward(self) -> Tensor:
        """The loss of what was said since `start`, a scalar; nothing is kept any more."""
        student, teacher = (reader.taken() for reader in self._readers)
        losses = [
            pair(student[name], teacher[name])
            for name, pair in zip(self.names, self.pairs, strict=True)
        ]
        return torch.stack(losses).sum()


def _sign(layer: nn.Module, config: MatchingConfig) -> float:
    """That of the exponents of a layer's kernel."""
    falls = config.sign == "opposite" and isinstance(layer, nn.Conv2d)
    return -1.0 if falls else 1.0
