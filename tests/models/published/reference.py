"""Published mobile networks, written from the papers as functions of their state dicts.

Names, shapes and strides are those of torchvision; no module of mulfree is used.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.nn import functional

# expansion, kernel, stride, channels, blocks
EFFICIENTNET = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
MOBILENET_V2 = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 3, 2, 32, 3),
    (6, 3, 2, 64, 4),
    (6, 3, 1, 96, 3),
    (6, 3, 2, 160, 3),
    (6, 3, 1, 320, 1),
)
SCALING = {
    0: (1.0, 1.0),
    1: (1.0, 1.1),
    2: (1.1, 1.2),
    3: (1.2, 1.4),
    4: (1.4, 1.8),
    5: (1.6, 2.2),
    6: (1.8, 2.6),
    7: (2.0, 3.1),
}


def rounded(channels: float) -> int:
    """The nearest multiple of 8, or the next one if that is below 90 %."""
    nearest = max(8, 8 * math.floor(channels / 8 + 0.5))
    return nearest + 8 if nearest < 0.9 * channels else nearest


def conv(name: str, *shape: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", shape


def bn(name: str, channels: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for key in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.{key}", (channels,)
    yield f"{name}.num_batches_tracked", ()


def efficientnet_shapes(
    width: float, depth: float, classes: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of torchvision's EfficientNet."""
    before = rounded(32 * width)
    yield from conv("features.0.0", before, 3, 3, 3)
    yield from bn("features.0.1", before)
    for stage, (expansion, kernel, _, base, blocks) in enumerate(EFFICIENTNET, 1):
        after = rounded(base * width)
        for index in range(math.ceil(blocks * depth)):
            block, part = f"features.{stage}.{index}.block", 0
            inner = before * expansion
            if expansion > 1:
                yield from conv(f"{block}.0.0", inner, before, 1, 1)
                yield from bn(f"{block}.0.1", inner)
                part = 1
            yield from conv(f"{block}.{part}.0", inner, 1, kernel, kernel)
            yield from bn(f"{block}.{part}.1", inner)
            squeezed = before // 4
            for name, rows, columns in (("fc1", squeezed, inner), ("fc2", inner, squeezed)):
                yield f"{block}.{part + 1}.{name}.weight", (rows, columns, 1, 1)
                yield f"{block}.{part + 1}.{name}.bias", (rows,)
            yield from conv(f"{block}.{part + 2}.0", after, inner, 1, 1)
            yield from bn(f"{block}.{part + 2}.1", after)
            before = after
    head = rounded(1280 * width)
    yield from conv("features.8.0", head, before, 1, 1)
    yield from bn("features.8.1", head)
    yield "classifier.1.weight", (classes, head)
    yield "classifier.1.bias", (classes,)


def mobilenet_v2_shapes(classes: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of torchvision's MobileNetV2."""
    before, number = 32, 0
    yield from conv("features.0.0", before, 3, 3, 3)
    yield from bn("features.0.1", before)
    for expansion, kernel, _, after, blocks in MOBILENET_V2:
        for _ in range(blocks):
            number += 1
            block, part = f"features.{number}.conv", 0
            inner = before * expansion
            if expansion > 1:
                yield from conv(f"{block}.0.0", inner, before, 1, 1)
                yield from bn(f"{block}.0.1", inner)
                part = 1
            yield from conv(f"{block}.{part}.0", inner, 1, kernel, kernel)
            yield from bn(f"{block}.{part}.1", inner)
            yield from conv(f"{block}.{part + 1}", after, inner, 1, 1)
            yield from bn(f"{block}.{part + 2}", after)
            before = after
    yield from conv("features.18.0", 1280, before, 1, 1)
    yield from bn("features.18.1", 1280)
    yield "classifier.1.weight", (classes, 1280)
    yield "classifier.1.bias", (classes,)


def random_state(shapes: Iterator[tuple[str, tuple[int, ...]]]) -> dict[str, Tensor]:
    """Random numbers, with outputs of layers small enough for eps to matter."""
    state = {}
    for name, shape in shapes:
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif len(shape) > 1:
            state[name] = torch.randn(shape) * 0.1 / math.sqrt(math.prod(shape[1:]))
        else:
            state[name] = torch.rand(shape) * 0.5 + (0.75 if name.endswith("weight") else -0.25)
    for name in ("classifier.1.weight", "_fc.weight"):
        if name in state:
            state[name] *= 10
    return state


def norm(state: dict[str, Tensor], name: str, x: Tensor, eps: float) -> Tensor:
    """Batch norm by the running statistics; in float32 these become those of `x`."""
    if x.dtype == torch.float32:
        state[f"{name}.running_mean"] = x.mean((0, 2, 3))
        state[f"{name}.running_var"] = x.var((0, 2, 3))
    mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    scale = state[f"{name}.weight"] / (var + eps).sqrt()
    return (x - mean[:, None, None]) * scale[:, None, None] + state[f"{name}.bias"][:, None, None]


def layer(x: Tensor, weight: Tensor, stride: int, same: bool) -> Tensor:
    """Convolution, depthwise if the kernel has one input channel; padding as TensorFlow or even."""
    kernel = weight.shape[2]
    groups = x.shape[1] // weight.shape[1]
    if not same:
        return functional.conv2d(x, weight, None, stride, kernel // 2, 1, groups)
    frame = []
    for size in (x.shape[3], x.shape[2]):
        total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
        frame += [total // 2, total - total // 2]
    return functional.conv2d(functional.pad(x, frame), weight, None, stride, 0, 1, groups)


def swish(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def gated(state: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    """Squeeze-and-excitation, with linear layers on the means."""
    means = x.mean((2, 3))
    reduce, expand = (state[f"{name}.{key}.weight"].flatten(1) for key in ("fc1", "fc2"))
    squeezed = swish(means @ reduce.T + state[f"{name}.fc1.bias"])
    gate = 1 / (1 + (-(squeezed @ expand.T + state[f"{name}.fc2.bias"])).exp())
    return x * gate[:, :, None, None]


def classified(state: Mapping[str, Tensor], x: Tensor) -> Tensor:
    return x.mean((2, 3)) @ state["classifier.1.weight"].T + state["classifier.1.bias"]


def efficientnet(state: dict[str, Tensor], x: Tensor, eps: float, same: bool = False) -> Tensor:
    """Logits of torchvision's EfficientNet, or of one padded as in TensorFlow."""
    x = layer(x, state["features.0.0.weight"], 2, same)
    x = swish(norm(state, "features.0.1", x, eps))
    for stage, (expansion, _, stage_stride, _, _) in enumerate(EFFICIENTNET, 1):
        index = 0
        while f"features.{stage}.{index}.block.0.0.weight" in state:
            block, part, before = f"features.{stage}.{index}.block", 0, x
            stride = stage_stride if index == 0 else 1
            if expansion > 1:
                x = layer(x, state[f"{block}.0.0.weight"], 1, same)
                x = swish(norm(state, f"{block}.0.1", x, eps))
                part = 1
            x = layer(x, state[f"{block}.{part}.0.weight"], stride, same)
            x = swish(norm(state, f"{block}.{part}.1", x, eps))
            x = gated(state, f"{block}.{part + 1}", x)
            x = layer(x, state[f"{block}.{part + 2}.0.weight"], 1, same)
            x = norm(state, f"{block}.{part + 2}.1", x, eps)
            x = x + before if stride == 1 and x.shape == before.shape else x
            index += 1
    x = layer(x, state["features.8.0.weight"], 1, same)
    return classified(state, swish(norm(state, "features.8.1", x, eps)))


def mobilenet_v2(
    state: dict[str, Tensor], x: Tensor, eps: float = 1e-5, same: bool = False
) -> Tensor:
    """Logits of torchvision's MobileNetV2."""
    x = layer(x, state["features.0.0.weight"], 2, same)
    x = norm(state, "features.0.1", x, eps).clamp(0, 6)
    number = 0
    for expansion, _, stage_stride, _, blocks in MOBILENET_V2:
        for index in range(blocks):
            number += 1
            block, part, before = f"features.{number}.conv", 0, x
            stride = stage_stride if index == 0 else 1
            if expansion > 1:
                x = layer(x, state[f"{block}.0.0.weight"], 1, same)
                x = norm(state, f"{block}.0.1", x, eps).clamp(0, 6)
                part = 1
            x = layer(x, state[f"{block}.{part}.0.weight"], stride, same)
            x = norm(state, f"{block}.{part}.1", x, eps).clamp(0, 6)
            x = layer(x, state[f"{block}.{part + 1}.weight"], 1, same)
            x = norm(state, f"{block}.{part + 2}", x, eps)
            x = x + before if stride == 1 and x.shape == before.shape else x
    x = layer(x, state["features.18.0.weight"], 1, same)
    return classified(state, norm(state, "features.18.1", x, eps).clamp(0, 6))


def lite_shapes(width: float, depth: float, classes: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of EfficientNet-Lite in the names of EfficientNet-PyTorch."""
    before, number = 32, 0
    yield from conv("_conv_stem", before, 3, 3, 3)
    yield from bn("_bn0", before)
    for stage, (expansion, kernel, _, base, blocks) in enumerate(EFFICIENTNET):
        after = rounded(base * width)
        for _ in range(blocks if stage in (0, 6) else math.ceil(blocks * depth)):
            block, inner = f"_blocks.{number}", before * expansion
            if expansion > 1:
                yield from conv(f"{block}._expand_conv", inner, before, 1, 1)
                yield from bn(f"{block}._bn0", inner)
            yield from conv(f"{block}._depthwise_conv", inner, 1, kernel, kernel)
            yield from bn(f"{block}._bn1", inner)
            yield from conv(f"{block}._project_conv", after, inner, 1, 1)
            yield from bn(f"{block}._bn2", after)
            before, number = after, number + 1
    yield from conv("_conv_head", 1280, before, 1, 1)
    yield from bn("_bn1", 1280)
    yield "_fc.weight", (classes, 1280)
    yield "_fc.bias", (classes,)


def lite(state: dict[str, Tensor], x: Tensor, depth: float) -> Tensor:
    """Logits of EfficientNet-Lite: ReLU6, padding of TensorFlow, eps of 1e-3."""
    eps, number = 1e-3, 0
    x = layer(x, state["_conv_stem.weight"], 2, same=True)
    x = norm(state, "_bn0", x, eps).clamp(0, 6)
    for stage, (expansion, _, stage_stride, _, blocks) in enumerate(EFFICIENTNET):
        for index in range(blocks if stage in (0, 6) else math.ceil(blocks * depth)):
            block, before = f"_blocks.{number}", x
            stride = stage_stride if index == 0 else 1
            if expansion > 1:
                x = layer(x, state[f"{block}._expand_conv.weight"], 1, same=True)
                x = norm(state, f"{block}._bn0", x, eps).clamp(0, 6)
            x = layer(x, state[f"{block}._depthwise_conv.weight"], stride, same=True)
            x = norm(state, f"{block}._bn1", x, eps).clamp(0, 6)
            x = layer(x, state[f"{block}._project_conv.weight"], 1, same=True)
            x = norm(state, f"{block}._bn2", x, eps)
            x = x + before if stride == 1 and x.shape == before.shape else x
            number += 1
    x = layer(x, state["_conv_head.weight"], 1, same=True)
    x = norm(state, "_bn1", x, eps).clamp(0, 6)
    return x.mean((2, 3)) @ state["_fc.weight"].T + state["_fc.bias"]
