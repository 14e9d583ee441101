"""Residual convolution networks with group norms, without classifiers."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from genpolicy.networks.checks import check_sizes

__all__ = ["ResNet18", "SmallResNet"]


class ResNet18(nn.Module):
    """The convolutions of a ResNet-18; each batch norm is a group norm of 16 channels a group.

    Batch norms would mix the rows of a batch, and their running statistics go wrong under averaged
    weights. Convolutions start at He's normal initialization (fan out).

    Args:
        n_channels: channels of the images.

    Source: arXiv 1512.03385, table 1; group norm arXiv 1803.08494; the replacement arXiv
    2303.04137, section 3.2.
    """

    out_channels: ClassVar[int] = 512
    """Channels of the result."""

    def __init__(self, *, n_channels: int = 3) -> None:
        super().__init__()
        check_sizes("ResNet18", n_channels=n_channels)
        self.stem = nn.Conv2d(n_channels, 64, 7, stride=2, padding=3, bias=False)
        self.norm = _group_norm(64)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        blocks: list[nn.Module] = []
        for n_in, n_out, stride in ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)):
            blocks += [_Block(n_in, n_out, stride), _Block(n_out, n_out, 1)]
        self.blocks = nn.Sequential(*blocks)
        _initialize(self)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 512 h2 w2"]:
        """Return the last feature maps; their sides are those of the images over 32, rounded up."""
        h = F.relu(self.norm(self.stem(images)))  # (n, 64, h / 2, w / 2)
        h = self.pool(h)  # (n, 64, h / 4, w / 4)
        return self.blocks(h)  # (n, 512, h / 32, w / 32)


class SmallResNet(nn.Module):
    """Three residual blocks that see small images at an eighth of their sides, for a CPU.

    About a ninth of the arithmetic of ``ResNet18``, and 16 times its pixels in the last maps, from
    which a spatial softmax reads positions.

    Args:
        n_channels: channels of the images.
    """

    out_channels: ClassVar[int] = 64
    """Channels of the result."""

    def __init__(self, *, n_channels: int = 3) -> None:
        super().__init__()
        check_sizes("SmallResNet", n_channels=n_channels)
        self.stem = nn.Conv2d(n_channels, 32, 5, stride=2, padding=2, bias=False)
        self.norm = _group_norm(32)
        self.blocks = nn.Sequential(_Block(32, 32, 2), _Block(32, 64, 2), _Block(64, 64, 1))
        _initialize(self)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 64 h2 w2"]:
        """Return the last feature maps; their sides are those of the images over 8, rounded up."""
        return self.blocks(F.relu(self.norm(self.stem(images))))  # (n, 64, h / 8, w / 8)


class _Block(nn.Module):
    """Two 3x3 convolutions added to the input, which a 1x1 convolution fits to their shape."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False)
        self.norm1 = _group_norm(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.norm2 = _group_norm(n_out)
        self.skip = nn.Identity()
        if stride != 1 or n_in != n_out:
            fit = nn.Conv2d(n_in, n_out, 1, stride=stride, bias=False)
            self.skip = nn.Sequential(fit, _group_norm(n_out))

    def forward(self, h: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        out = F.relu(self.norm1(self.conv1(h)))  # (n, n_out, h / stride, w / stride)
        out = self.norm2(self.conv2(out))  # (n, n_out, h / stride, w / stride)
        return F.relu(out + self.skip(h))  # (n, n_out, h / stride, w / stride)


def _initialize(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _group_norm(n_channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(n_channels // 16, n_channels)
