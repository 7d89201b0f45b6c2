"""The adder operator on GPUs: list of kernel launches for a problem.

Operands are brought into the one layout the kernels read, channels next to each other; for images
and weights in torch's channels_last format that costs nothing. Nothing is unfolded. Launches
need shapes only, so they can be made for meta tensors and compiled where there is no GPU.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mulfree._triton import Launch, multiprocessors
from mulfree.errors import ShapeError
from mulfree.operators.adder2d import triton_kernels as kernels
from mulfree.operators.adder2d.gradient import GradientRule
from mulfree.operators.window import Pair, Sliding

DTYPES = (torch.float32, torch.float16, torch.bfloat16)

# Positions, and offsets inside one image, are 32-bit numbers in the kernels, up to a tile's end.
_MAX_INDEX = 2**31 - 2**16


class _Tile(NamedTuple):
    """A program's tile of sums: registers times threads of its rows, and of its columns."""

    row_registers: int
    row_threads: int
    column_registers: int
    column_threads: int

    @property
    def rows(self) -> int:
        return self.row_registers * self.row_threads

    @property
    def columns(self) -> int:
        return self.column_registers * self.column_threads

    @property
    def warps(self) -> int:
        return self.row_threads * self.column_threads // 32

    @property
    def constants(self) -> dict[str, int]:
        return dict(zip(("RP", "LP", "RC", "LC"), self, strict=True))


# With 8 x 8 sums a thread reads 16 values for 64 taps. Smaller tiles are for problems that would
# leave multiprocessors idle, narrower ones for few filters.
_TILES = (
    _Tile(8, 16, 8, 8),
    _Tile(8, 16, 8, 16),
    _Tile(8, 32, 8, 4),
    _Tile(8, 64, 8, 2),
    _Tile(8, 8, 8, 8),
    _Tile(8, 16, 8, 4),
    _Tile(8, 32, 8, 2),
    _Tile(4, 8, 8, 4),
    _Tile(4, 16, 4, 2),
)
# Terms of a sum that go through shared memory together, and how many such steps are under way. With
# pairs of halves twice as many leave the registers full, and fewer short sums to be widened.
_TERMS, _PACKED_TERMS = 8, 16
_STAGES = 3
# Warps from which on a multiprocessor computes at its full rate, and that its registers hold.
_BUSY_WARPS, _RESIDENT_WARPS = 8, 8
# Positions that one program sums up for the gradient of the weight.
_SHARE = 4096
# More filters than this for every channel are no depthwise problem any more.
_MAX_MULTIPLIER = 4
_DEPTHWISE_TILE = 1024


@dataclass(frozen=True)
class _LaunchList:
    """Launches that fill `result`."""

    result: Tensor
    launches: list[Launch]

    def run(self) -> Tensor:
        for launch in self.launches:
            launch()
        return self.result


def forward(input: Tensor, weight: Tensor, sliding: Sliding, norm: float) -> Tensor:
    """`-sum |x - w|^norm`, in the dtype and memory format of `input`."""
    return _forward_launches(input, weight, sliding, norm).run()


def input_grad(
    grad: Tensor, input: Tensor, weight: Tensor, sliding: Sliding, rule: GradientRule
) -> Tensor:
    """GradientRule of the input by `rule`, in the dtype and memory format of `input`."""
    return _input_grad_launches(grad, input, weight, sliding, rule).run()


def weight_grad(
    grad: Tensor, input: Tensor, weight: Tensor, sliding: Sliding, rule: GradientRule
) -> Tensor:
    """GradientRule of the weight by `rule`, in the dtype of `weight`.

    By the adder rule it is a convolution's, less what the weights contribute:
    `sum (x - w) g = sum x g - w sum g`. The library's convolution follows
    `torch.backends.cudnn.allow_tf32`.
    """
    if rule.name != "adder":
        shares = _weight_grad_launches(grad, input, weight, sliding, rule).run()
        return shares.sum(0).permute(0, 3, 1, 2).to(weight.dtype)
    stride, padding, dilation, groups = sliding
    convolved = torch.ops.aten.convolution_backward(
        grad, input, weight, None, stride, padding, dilation, False, (0, 0), groups,
        (False, True, False),
    )[1]  # fmt: skip
    total = grad.sum((0, 2, 3), dtype=torch.float32)
    result: Tensor = convolved - weight * total[:, None, None, None]
    return result.to(weight.dtype)


def launches(
    which: str,
    tensors: Sequence[Tensor],
    sliding: Sliding,
    rule: GradientRule,
    norm: float = 1.0,
) -> list[Launch]:
    """The launches of "forward", "input_grad" or "weight_grad"; none where a library does it.

    Args:
        which: The part of the operator.
        tensors: Its tensors, on any device or none: input and weight, the gradient before them.
        sliding: How the window moves.
        rule: GradientRule rule.
        norm: Norm of the forward pass.
    """
    if which == "forward":
        input, weight = tensors
        return _forward_launches(input, weight, sliding, norm).launches
    grad, input, weight = tensors
    if which == "input_grad":
        return _input_grad_launches(grad, input, weight, sliding, rule).launches
    if rule.name == "adder":
        return []
    return _weight_grad_launches(grad, input, weight, sliding, rule).launches


def _forward_launches(input: Tensor, weight: Tensor, sliding: Sliding, norm: float) -> _LaunchList:
    output_hw = sliding.output_hw(input.shape[2:], weight.shape[2:])
    result = _empty((len(input), len(weight), *output_hw), input)
    if _is_depthwise(weight, sliding):
        return _depthwise_forward_launches(input, weight, sliding, norm, result)
    x, w = _channels_last(input), _filters_first(weight)
    channels, filters = weight.shape[1], len(weight) // sliding.groups
    packed = input.element_size() == 2 and channels % 2 == 0 and norm == 1.0
    if packed:
        x = _pairs(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        w, channels = _pairs(w), channels // 2
    terms = _PACKED_TERMS if packed and channels % _PACKED_TERMS == 0 else _TERMS
    made = _LaunchList(result, [])
    for x_part, y in _parts(result.shape[2] * result.shape[3], x, result):
        positions = len(y) * y.shape[2] * y.shape[3]
        tile = _choose(positions, filters, sliding.groups, input.device)
        made.launches.append(
            Launch(
                kernel=kernels.forward_kernel,
                grid=_grid(tile, positions, filters, sliding.groups),
                arguments={
                    "x": x_part,
                    "w": w,
                    "y": y,
                    "positions": positions,
                    "channels": channels,
                    "filters": filters,
                    **_sizes(x_part, y),
                    **_strides("x", x_part, "nhw"),
                    **_strides("y", y, "ncp"),
                },
                constants={
                    **_window(weight, sliding),
                    **tile.constants,
                    "GROUPS": sliding.groups,
                    "NORM": norm,
                    "PACKED": packed,
                    "U": terms,
                    "EVEN": channels % terms == 0,
                    "ROWS_LAST": not _is_channels_last(result),
                    "STAGES": _STAGES,
                },
                warps=tile.warps,
                stages=_STAGES,
            )
        )
    return made


def _input_grad_launches(
    grad: Tensor, input: Tensor, weight: Tensor, sliding: Sliding, rule: GradientRule
) -> _LaunchList:
    result = _empty(input.shape, input)
    if _is_depthwise(weight, sliding):
        return _depthwise_input_grad_launches(grad, input, weight, sliding, rule, result)
    g, x = _channels_last(grad), _channels_last(input)
    # `[K_h, K_w, C, C_out]`: the terms of a sum are the filters.
    w = weight.permute(2, 3, 1, 0).contiguous()
    channels, filters = weight.shape[1], len(weight) // sliding.groups
    phases = math.prod(sliding.stride)
    made = _LaunchList(result, [])
    for g_part, x_part, out in _parts(x.shape[2] * x.shape[3], g, x, result):
        height, width = (
            -(-size // stride) for size, stride in zip(x.shape[2:], sliding.stride, strict=True)
        )
        positions = len(x_part) * height * width
        tile = _choose(positions, channels, sliding.groups * phases, input.device)
        made.launches.append(
            Launch(
                kernel=kernels.input_grad_kernel,
                grid=_grid(tile, positions, channels, sliding.groups * phases),
                arguments={
                    "g": g_part,
                    "x": x_part,
                    "w": w,
                    "out": out,
                    "channels": channels,
                    "filters": filters,
                    **_sizes(x_part, g_part),
                    "phase_height": height,
                    "phase_width": width,
                    "positions": positions,
                    **_strides("g", g_part, "nhw"),
                    **_strides("x", x_part, "nhw"),
                    **_strides("out", out, "nchw"),
                },
                constants={
                    **_window(weight, sliding),
                    **tile.constants,
                    **_rule_constants(rule, towards="input"),
                    "GROUPS": sliding.groups,
                    "U": _TERMS,
                    "EVEN": filters % _TERMS == 0,
                    "ROWS_LAST": not _is_channels_last(result),
                    "STAGES": _STAGES,
                },
                warps=tile.warps,
                stages=_STAGES,
            )
        )
    return made


def _weight_grad_launches(
    grad: Tensor, input: Tensor, weight: Tensor, sliding: Sliding, rule: GradientRule
) -> _LaunchList:
    """Its result is `[shares, C_out, K_h, K_w, C]`, in float32."""
    g, x, w = _channels_last(grad), _channels_last(input), _filters_first(weight)
    channels, filters = weight.shape[1], len(weight) // sliding.groups
    taps = weight.shape[2] * weight.shape[3]
    parts = list(_parts(g.shape[2] * g.shape[3], g, x))
    positions = [len(g_part) * g.shape[2] * g.shape[3] for g_part, _ in parts]
    shares = [-(-count // _SHARE) for count in positions]
    shape = (sum(shares), len(weight), *weight.shape[2:], channels)
    made = _LaunchList(torch.empty(shape, dtype=torch.float32, device=weight.device), [])
    first = 0
    for (g_part, x_part), count, share in zip(parts, positions, shares, strict=True):
        tile = _choose(filters, channels, sliding.groups * taps * share, input.device)
        blocks = -(-channels // tile.columns)
        made.launches.append(
            Launch(
                kernel=kernels.weight_grad_kernel,
                grid=(sliding.groups * taps * share, -(-filters // tile.rows) * blocks, 1),
                arguments={
                    "g": g_part,
                    "x": x_part,
                    "w": w,
                    "out": made.result[first : first + share],
                    "positions": count,
                    "share": min(_SHARE, -(-count // _TERMS) * _TERMS),
                    "channels": channels,
                    "filters": filters,
                    **_sizes(x_part, g_part),
                    **_strides("g", g_part, "np"),
                    **_strides("x", x_part, "nhw"),
                },
                constants={
                    **_window(weight, sliding),
                    **tile.constants,
                    **_rule_constants(rule, towards="weight"),
                    "GROUPS": sliding.groups,
                    "BLOCKS": blocks,
                    "U": _TERMS,
                    "STAGES": _STAGES,
                },
                warps=tile.warps,
                stages=_STAGES,
            )
        )
        first += share
    return made


def _depthwise_forward_launches(
    input: Tensor, weight: Tensor, sliding: Sliding, norm: float, result: Tensor
) -> _LaunchList:
    x, w = _like(input, result), _taps_first(weight)
    last = not _is_channels_last(result)
    made = _LaunchList(result, [])
    for x_part, y in _parts(result.shape[2] * result.shape[3], x, result):
        positions = len(y) * y.shape[2] * y.shape[3]
        tile = _depthwise_tile(len(weight), last=last)
        made.launches.append(
            Launch(
                kernel=kernels.depthwise_forward_kernel,
                grid=(-(-positions // tile["ROWS"]), -(-len(weight) // tile["COLUMNS"]), 1),
                arguments={
                    "x": x_part,
                    "w": w,
                    "y": y,
                    "positions": positions,
                    "filters": len(weight),
                    **_sizes(x_part, y),
                    **_strides("x", x_part, "nchw"),
                    **_strides("y", y, "ncp"),
                },
                constants={
                    **_window(weight, sliding),
                    "MULTIPLIER": len(weight) // sliding.groups,
                    "NORM": norm,
                    **tile,
                    "LAST": last,
                },
            )
        )
    return made


def _depthwise_input_grad_launches(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    sliding: Sliding,
    rule: GradientRule,
    result: Tensor,
) -> _LaunchList:
    g, x, w = _like(grad, result), _like(input, result), _taps_first(weight)
    last = not _is_channels_last(result)
    channels = input.shape[1]
    made = _LaunchList(result, [])
    for g_part, x_part, out in _parts(x.shape[2] * x.shape[3], g, x, result):
        pixels = len(x_part) * x.shape[2] * x.shape[3]
        tile = _depthwise_tile(channels, last=last)
        made.launches.append(
            Launch(
                kernel=kernels.depthwise_input_grad_kernel,
                grid=(-(-pixels // tile["ROWS"]), -(-channels // tile["COLUMNS"]), 1),
                arguments={
                    "g": g_part,
                    "x": x_part,
                    "w": w,
                    "out": out,
                    "pixels": pixels,
                    "channels": channels,
                    **_sizes(x_part, g_part),
                    **_strides("g", g_part, "ncp"),
                    **_strides("x", x_part, "nchw"),
                    **_strides("out", out, "nchw"),
                },
                constants={
                    **_window(weight, sliding),
                    "MULTIPLIER": len(weight) // sliding.groups,
                    **_rule_constants(rule, towards="input"),
                    **tile,
                    "LAST": last,
                },
            )
        )
    return made


# --- operands ---------------------------------------------------------------------------------


def _is_channels_last(tensor: Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


def _like(tensor: Tensor, other: Tensor) -> Tensor:
    """`tensor` in the memory format of `other`."""
    return _channels_last(tensor) if _is_channels_last(other) else tensor.contiguous()


def _empty(shape: Sequence[int], like: Tensor) -> Tensor:
    layout = torch.channels_last if _is_channels_last(like) else torch.contiguous_format
    return torch.empty(tuple(shape), dtype=like.dtype, device=like.device, memory_format=layout)


def _filters_first(weight: Tensor) -> Tensor:
    """`[C_out, K_h, K_w, C]`, contiguous."""
    return weight.permute(0, 2, 3, 1).contiguous()


def _pairs(tensor: Tensor) -> Tensor:
    """`[..., C / 2]`: neighbouring halves of a contiguous tensor as 32-bit words."""
    words = tensor.reshape(-1).view(torch.uint32)
    return words.view(*tensor.shape[:-1], tensor.shape[-1] // 2)


def _taps_first(weight: Tensor) -> Tensor:
    """`[K_h, K_w, C_out]` of a depthwise weight, contiguous."""
    return weight.permute(1, 2, 3, 0).contiguous()


def _is_depthwise(weight: Tensor, sliding: Sliding) -> bool:
    multiplier = len(weight) // sliding.groups
    return weight.shape[1] == 1 and sliding.groups > 1 and multiplier <= _MAX_MULTIPLIER


def _parts(positions: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The tensors for as many images at a time as kernels can number the positions of."""
    for tensor in tensors:
        size = math.prod(tensor.shape[1:])
        if size > _MAX_INDEX:
            raise ShapeError(
                f"adder2d: an image must have at most {_MAX_INDEX} values on a GPU, "
                f"got shape {list(tensor.shape)}"
            )
    images = max(1, _MAX_INDEX // max(1, positions))
    yield from zip(*(tensor.split(images) for tensor in tensors), strict=True)


# --- arguments --------------------------------------------------------------------------------


def _sizes(image: Tensor, output: Tensor) -> dict[str, int]:
    return dict(
        zip(
            ("height", "width", "out_height", "out_width"),
            (*image.shape[2:], *output.shape[2:]),
            strict=True,
        )
    )


def _strides(name: str, tensor: Tensor, axes: str) -> dict[str, int]:
    """Strides by the letters of the axes; p numbers the pixels of an image."""
    strides = dict(zip("nchw", tensor.stride(), strict=True))
    # Stride of the last axis, which is arbitrary if there is one column.
    strides["p"] = strides["w"] if tensor.shape[3] > 1 else strides["h"]
    return {f"{name}_{axis}": strides[axis] for axis in axes}


def _window(weight: Tensor, sliding: Sliding) -> dict[str, int]:
    pairs: dict[str, Pair] = {
        "KERNEL": (weight.shape[2], weight.shape[3]),
        "STRIDE": sliding.stride,
        "PAD": sliding.padding,
        "DILATION": sliding.dilation,
    }
    return {
        f"{name}_{axis}": value
        for name, pair in pairs.items()
        for axis, value in zip("HW", pair, strict=True)
    }


def _rule_constants(rule: GradientRule, *, towards: str) -> dict[str, Any]:
    if rule.name == "adder":
        return {"RULE": "clamp" if towards == "input" else "identity", "NORM": 1.0}
    if rule.name == "sign" or rule.p == 1.0:
        return {"RULE": "sign", "NORM": 1.0}
    return {"RULE": "lp", "NORM": rule.p}


def _grid(tile: _Tile, rows: int, columns: int, problems: int) -> tuple[int, int, int]:
    """Programs; only the first axis may be long."""
    return (-(-rows // tile.rows) * problems, -(-columns // tile.columns), 1)


def _choose(rows: int, columns: int, problems: int, device: torch.device) -> _Tile:
    """The tile that should finish first on the device."""
    return _fastest(rows, columns, problems, multiprocessors(device))


@functools.lru_cache(maxsize=4096)
def _fastest(rows: int, columns: int, problems: int, processors: int) -> _Tile:
    def time(tile: _Tile) -> float:
        programs = math.prod(_grid(tile, rows, columns, problems))
        rounds = -(-programs // processors)
        warps = min(rounds * tile.warps, _RESIDENT_WARPS)
        # Of the instructions of a thread, what is taps rather than reading their operands.
        taps, reads = tile.row_registers * tile.column_registers, sum(tile[::2])
        share = taps / (taps + reads / 2)
        return rounds * tile.rows * tile.columns / (min(1.0, warps / _BUSY_WARPS) * share)

    return min(_TILES, key=time)


def _depthwise_tile(columns: int, *, last: bool) -> dict[str, int]:
    """Rows of positions and columns of filters; a warp takes neighbours in memory."""
    most = 4 if last else 64
    width = min(most, 1 << (columns - 1).bit_length())
    return {"ROWS": _DEPTHWISE_TILE // width, "COLUMNS": width}
