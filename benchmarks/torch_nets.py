"""ResNet-20, ResNet-50 and GoogLeNet-BN in PyTorch, with which `train.py` compares ours.

ResNet-50 is timm's. The other two have the same layers and the same distributions of the initial
weights as the networks in `keras_cnns.models`.
"""

from typing import Any

import torch
from torch import Tensor, nn

# Name of a module -> its numbers of filters in table 1: 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool
# projection. An empty tuple is a max-pool.
GOOGLENET = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "pool3": (),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "pool4": (),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


def conv_bn(inputs: int, filters: int, size: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, filters, size, stride, size // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(filters))


def conv_bn_relu(inputs: int, filters: int, size: int, stride: int = 1) -> nn.Sequential:
    return conv_bn(inputs, filters, size, stride).append(nn.ReLU(inplace=True))


class Block(nn.Module):
    """Two 3x3 convolutions and an identity shortcut, which fills new channels with 0 (option A)."""

    def __init__(self, inputs: int, filters: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *conv_bn_relu(inputs, filters, 3, stride), *conv_bn(filters, filters, 3)
        )
        self.stride, self.new = stride, filters - inputs

    def forward(self, x: Tensor) -> Tensor:
        z = self.body(x)
        if self.new:
            x = x[:, :, :: self.stride, :: self.stride]
            x = nn.functional.pad(x, (0, 0, 0, 0, self.new // 2, self.new - self.new // 2))
        return nn.functional.relu(z + x, inplace=True)


def resnet20(classes: int = 10, channels: int = 3) -> nn.Module:
    blocks, inputs = [], 16
    for filters in (16, 32, 64):
        for number in range(3):
            blocks.append(Block(inputs, filters, 2 if filters > 16 and number == 0 else 1))
            inputs = filters
    ends = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))
    return nn.Sequential(*conv_bn_relu(channels, 16, 3), *blocks, *ends)


class Inception(nn.Module):
    """The inception module with its four parallel branches (figure 2b)."""

    def __init__(self, inputs: int, row: tuple[int, ...]) -> None:
        super().__init__()
        one, reduce3, three, reduce5, five, projection = row
        self.branches = nn.ModuleList(
            [
                conv_bn_relu(inputs, one, 1),
                conv_bn_relu(inputs, reduce3, 1).append(conv_bn_relu(reduce3, three, 3)),
                conv_bn_relu(inputs, reduce5, 1).append(conv_bn_relu(reduce5, five, 5)),
                nn.Sequential(nn.MaxPool2d(3, 1, 1), conv_bn_relu(inputs, projection, 1)),
            ]
        )
        self.filters = one + three + five + projection

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class GoogLeNet(nn.Module):
    """GoogLeNet with batch normalisation and both auxiliary classifiers, at 224x224."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            conv_bn_relu(3, 64, 7, 2),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            conv_bn_relu(64, 64, 1),
            conv_bn_relu(64, 192, 3),
            nn.MaxPool2d(3, 2, ceil_mode=True),
        )
        self.body, inputs = nn.ModuleDict(), 192
        for name, row in GOOGLENET.items():
            self.body[name] = Inception(inputs, row) if row else nn.MaxPool2d(3, 2, ceil_mode=True)
            inputs = sum((row[0], row[2], *row[4:])) if row else inputs
        self.top = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.4), nn.Linear(inputs, classes)
        )
        self.auxiliary = nn.ModuleDict(
            {
                stage: nn.Sequential(
                    nn.AvgPool2d(5, 3),
                    conv_bn_relu(filters, 128, 1),
                    nn.Flatten(),
                    nn.Linear(128 * 4 * 4, 1024),
                    nn.ReLU(inplace=True),
                    nn.Dropout(0.7),
                    nn.Linear(1024, classes),
                )
                for stage, filters in (("4a", 512), ("4d", 528))
            }
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the logits of the main classifier and of the auxiliary classifiers."""
        x, logits = self.stem(x), []
        for name, module in self.body.items():
            x = module(x)
            if name in self.auxiliary:
                logits.append(self.auxiliary[name](x))
        return [self.top(x), *logits]


def import_torchvision() -> Any:
    """Return torchvision, without its compiled operators.

    They may be built for another version of PyTorch, and the networks do not use them.
    """
    operators = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        operators.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

    return torchvision


def make(name: str) -> nn.Module:
    """Return the PyTorch network with the name that it has in `keras_cnns.models`."""
    if name == "resnet20":
        return resnet20()
    if name == "googlenet_bn":
        return GoogLeNet()
    import_torchvision()  # first, because timm imports torchvision, too
    import timm

    net: nn.Module = timm.create_model(name)
    return net
