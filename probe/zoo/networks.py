"""The bundled architectures: a small VGG for 8x8 digits and a ResNet-20 for 32x32 images, both with QCFS activations.

They use only operations that commute with averaging over time (convolution, batch norm in evaluation, average
pooling, addition, linear layers), so that the same network is an ANN with QCFS and an SNN with IF in its place.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from probe.neurons import QCFS


def _named(**modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(modules))


def _convolution(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False), nn.BatchNorm2d(outputs)
    )


def digits_vgg(levels: int = 8, classes: int = 10) -> nn.Sequential:
    """A VGG-like network for (sample, 1, 8, 8) images: five convolutions, one hidden linear layer, six QCFS layers."""

    def block(inputs: int, outputs: int, **pool: nn.Module) -> nn.Sequential:
        convolution, norm = _convolution(inputs, outputs)
        return _named(conv=convolution, norm=norm, act=QCFS(levels, threshold=2.0), **pool)

    return _named(
        block1=block(1, 16),
        block2=block(16, 16, pool=nn.AvgPool2d(2)),
        block3=block(16, 32),
        block4=block(32, 32, pool=nn.AvgPool2d(2)),
        block5=block(32, 32),
        flatten=nn.Flatten(),
        hidden=_named(linear=nn.Linear(32 * 2 * 2, 64), act=QCFS(levels, threshold=2.0)),
        output=nn.Linear(64, classes),
    )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut (a 1x1 convolution where the shape changes); two QCFS layers."""

    def __init__(self, inputs: int, outputs: int, stride: int, levels: int) -> None:
        super().__init__()
        self.conv1 = _convolution(inputs, outputs, stride=stride)
        self.act1 = QCFS(levels, threshold=2.0)
        self.conv2 = _convolution(outputs, outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = _convolution(inputs, outputs, size=1, stride=stride)
        self.act2 = QCFS(levels, threshold=4.0)

    def forward(self, x: Tensor) -> Tensor:
        """(sample, inputs, height, width) to (sample, outputs, height / stride, width / stride)."""
        y = self.conv2(self.act1(self.conv1(x)))
        out: Tensor = self.act2(y + self.shortcut(x))
        return out


def resnet20(levels: int = 8, classes: int = 10) -> nn.Sequential:
    """ResNet-20 (He et al., CVPR 2016, section 4.2) for (sample, 3, 32, 32) images; 19 QCFS layers, 0.27 M weights."""
    stages: dict[str, nn.Module] = {}
    inputs = 16
    for stage, (outputs, first_stride) in enumerate(((16, 1), (32, 2), (64, 2)), start=1):
        blocks = []
        for stride in (first_stride, 1, 1):
            blocks.append(ResidualBlock(inputs, outputs, stride, levels))
            inputs = outputs
        stages[f"stage{stage}"] = nn.Sequential(*blocks)
    return _named(
        stem=_convolution(3, 16),
        stem_act=QCFS(levels, threshold=2.0),
        **stages,
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        output=nn.Linear(64, classes),
    )
