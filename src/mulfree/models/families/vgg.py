"""VGG-small: the plain network for 32x32 images in quantisation papers.

References:
    LQ-Nets, arXiv 1807.10029. With adders: arXiv 1912.13200.
"""

from __future__ import annotations

from torch import Tensor, nn

from mulfree.models.parts import check_images, logit_norm
from mulfree.models.registry import ModelOptions, register_model

Config = ModelOptions

# Channels of each layer, and whether its output is pooled.
_LAYERS = ((128, False), (128, True), (256, False), (256, True), (512, False), (512, True))


class VGGSmall(nn.Module):
    """Six 3x3 layers, every second one with 2x2 max pooling, and a classifier.

    Max pooling precedes batch norm: `relu(bn(maxpool(conv(x))))`. The input of the classifier is
    4x4, from 32x32 pixels; other sizes are average-pooled to 4x4.
    """

    def __init__(self, options: Config) -> None:
        super().__init__()
        self.in_channels = options.in_channels
        self.features = nn.Sequential()
        channels = options.in_channels
        for count, pools in _LAYERS:
            block = nn.Sequential(
                nn.Conv2d(channels, options.scaled(count), 3, padding=1, bias=False),
                nn.MaxPool2d(2) if pools else nn.Identity(),
                nn.BatchNorm2d(options.scaled(count)),
                nn.ReLU(inplace=True),
            )
            self.features.append(block)
            channels = options.scaled(count)
        self.avgpool = nn.AdaptiveAvgPool2d(4)
        # The kernel covers the map: a fully connected layer, without a change of layout.
        self.fc = nn.Conv2d(channels, options.num_classes, 4, bias=not options.norm_logits)
        self.bn_fc = logit_norm(options.num_classes, options.norm_logits)

    def forward(self, images: Tensor) -> Tensor:
        """Images `[N, C_in, H, W]` to logits `[N, classes]`."""
        check_images(type(self).__name__, images, self.in_channels, 8)
        x = self.avgpool(self.features(images))
        logits: Tensor = self.bn_fc(self.fc(x))
        return logits.flatten(1)


@register_model
def vgg_small(options: Config) -> nn.Module:
    """VGG-small: 4.7 M parameters, 0.608 G taps on a 32x32 image."""
    return VGGSmall(options)
