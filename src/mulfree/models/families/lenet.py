"""LeNet-5 with batch normalisation, the MNIST network of the AdderNet paper.

References:
    LeNet-5: LeCun et al., Proc. IEEE 86 (1998), Fig. 2. With adders: arXiv 1912.13200.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from mulfree.models.parts import check_images, logit_norm
from mulfree.models.registry import ModelOptions, check_count, register_model

_SIDE = 32


@dataclass(frozen=True, kw_only=True)
class Config(ModelOptions):
    """Options of LeNet-5.

    Attributes:
        embedding: Units of a further layer before the classifier; 2 give features that can be
            drawn. None for no such layer.
    """

    image_size: ClassVar[int] = 28

    embedding: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.embedding is not None:
            check_count("embedding", self.embedding)


class LeNet5BN(nn.Module):
    """Three 5x5 layers, the first two followed by 2x2 max pooling, and two 1x1 layers.

    Images below 32x32 pixels are zero-padded to that size, the 28x28 pixels of MNIST by two pixels
    a side as in LeNet-5; tiny ones are first upsampled by repeating pixels, 8x8 four times. Larger
    images are average-pooled to the 5x5 positions of the third layer.

    An embedding is a 1x1 layer with batch norm, required after an adder layer, but without ReLU:
    its features may have either sign.
    """

    def __init__(self, options: Config) -> None:
        super().__init__()
        self.in_channels = options.in_channels
        channels = [options.in_channels, *map(options.scaled, (6, 16, 120, 84))]
        self.conv1 = nn.Conv2d(channels[0], channels[1], 5, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[1])
        self.relu1 = nn.ReLU(inplace=True)
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(channels[1], channels[2], 5, bias=False)
        self.bn2 = nn.BatchNorm2d(channels[2])
        self.relu2 = nn.ReLU(inplace=True)
        self.pool2 = nn.MaxPool2d(2)
        self.avgpool = nn.AdaptiveAvgPool2d(5)
        self.conv3 = nn.Conv2d(channels[2], channels[3], 5, bias=False)
        self.bn3 = nn.BatchNorm2d(channels[3])
        self.relu3 = nn.ReLU(inplace=True)
        self.conv4 = nn.Conv2d(channels[3], channels[4], 1, bias=False)
        self.bn4 = nn.BatchNorm2d(channels[4])
        self.relu4 = nn.ReLU(inplace=True)
        features = channels[4]
        self.embedding = nn.Sequential()
        if options.embedding is not None:
            self.embedding.append(nn.Conv2d(features, options.embedding, 1, bias=False))
            self.embedding.append(nn.BatchNorm2d(options.embedding))
            features = options.embedding
        self.fc = nn.Conv2d(features, options.num_classes, 1, bias=not options.norm_logits)
        self.bn_fc = logit_norm(options.num_classes, options.norm_logits)

    def forward(self, images: Tensor) -> Tensor:
        """Images `[N, C_in, H, W]` to logits `[N, classes]`."""
        check_images(type(self).__name__, images, self.in_channels, 1)
        x = self.pool1(self.relu1(self.bn1(self.conv1(_padded(images)))))
        x = self.pool2(self.relu2(self.bn2(self.conv2(x))))
        x = self.relu3(self.bn3(self.conv3(self.avgpool(x))))
        x = self.relu4(self.bn4(self.conv4(x)))
        logits: Tensor = self.bn_fc(self.fc(self.embedding(x)))
        return logits.flatten(1)


def _padded(images: Tensor) -> Tensor:
    """Upsample images below 32x32 pixels by repeating pixels, then pad with zeros."""
    height, width = images.shape[2:]
    factor = _SIDE // max(height, width)
    if factor > 1:
        images = functional.interpolate(images, scale_factor=factor)
    rows, columns = (max(0, _SIDE - size) for size in images.shape[2:])
    if rows or columns:
        frame = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        images = functional.pad(images, frame)
    return images


@register_model
def lenet5_bn(options: Config) -> nn.Module:
    """LeNet-5 with batch norm: 61,932 parameters and 416,520 taps on a 28x28 grey image."""
    return LeNet5BN(options)
