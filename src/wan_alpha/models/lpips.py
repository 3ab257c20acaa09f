"""VGG16 up to relu5_3 and LPIPS on it, defined here and loaded from public files; without torchvision and without the lpips package.

LPIPS: Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, CVPR 2018, version 0.1.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from wan_alpha.checkpoints.files import read_tensors, require_keys, require_shapes
from wan_alpha.errors import UsageError
from wan_alpha.models.perceptual import vgg16_file, vgg16_weights

STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))  # torchvision's numbers of the convolutions between poolings
WIDTHS = (64, 128, 256, 512, 512)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, for [0, 1]; LPIPS writes the same numbers for [-1, 1]
MIN_SIDE = 16  # four poolings
EPSILON = 1e-10

Features = tuple[Float[Tensor, "N _ _ _"], ...]
"""relu1_2, relu2_2, relu3_3, relu4_3, relu5_3 of N frames."""
Heads = tuple[Float[Tensor, " _"], ...]
"""Weights of the channels, one vector for each of them."""


class VGG16Stages(nn.Module):
    """Frames (N, 3, H, W) in [0, 1] -> Features. Frozen. UsageError for sides below 16 pixels."""

    def __init__(self, *, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        self.features = nn.ModuleDict()
        channels = 3
        for stage, width in zip(STAGES, widths, strict=True):
            for index in stage:
                self.features[str(index)] = nn.Conv2d(channels, width, 3, padding=1)
                channels = width
        self.widths = widths
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(STD)[:, None, None], persistent=False)
        self.requires_grad_(False)

    def forward(self, frames: Float[Tensor, "N 3 H W"]) -> Features:
        height, width = frames.shape[-2:]
        if min(height, width) < MIN_SIDE:
            raise UsageError("VGG16 features", got=f"frames of {width}x{height}", expected=f"sides of at least {MIN_SIDE} pixels")
        x, found = (frames - self.get_buffer("mean")) / self.get_buffer("std"), []
        for number, stage in enumerate(STAGES):
            x = F.max_pool2d(x, 2) if number else x
            for index in stage:
                x = F.relu(self.features[str(index)](x))
            found.append(x)
        return tuple(found)


def lpips(features: Features, *, others: Features, heads: Heads) -> Float[Tensor, " N"]:
    """Distance of frames, 0 for equal ones: squared differences of unit features, weighed by the heads, mean of places, sum of stages."""
    stages = zip(features, others, heads, strict=True)
    parts = [((_unit(x) - _unit(y)).square() * head[:, None, None]).sum(dim=1).mean(dim=(1, 2)) for x, y, head in stages]
    return torch.stack(parts).sum(dim=0)


def load_vgg16_stages(path: Path | None) -> VGG16Stages:
    """From torchvision's vgg16-397923af.pth (None: torch.hub's copy), checked by hash; CheckpointError when it is another file."""
    tensors = vgg16_weights(path, advice=f"give torchvision's {vgg16_file().name} as --perceptual_weights PATH or --fid_weights PATH")
    return stages_from_tensors(tensors, what=vgg16_file(path))


def stages_from_tensors(tensors: Mapping[str, Tensor], *, what: object) -> VGG16Stages:
    """From torchvision's names `features.N.{weight,bias}`; CheckpointError when one is missing or of another shape."""
    names = [f"features.{index}.{part}" for stage in STAGES for index in stage for part in ("weight", "bias")]
    found = {name: tensors[name].float() for name in names if name in tensors}
    require_keys(found, names, what=what)
    network = VGG16Stages(widths=tuple(found[f"features.{stage[0]}.bias"].shape[0] for stage in STAGES))
    require_shapes(found, network.state_dict(), what=what)
    network.load_state_dict(found)
    return network.eval()


def load_lpips_heads(path: Path, *, widths: tuple[int, ...] = WIDTHS) -> Heads:
    """lpips' weights/v0.1/vgg.pth: lin0.model.1.weight ... lin4.model.1.weight, (1, width, 1, 1); CheckpointError for anything else."""
    tensors = read_tensors(path)
    expected = {f"lin{i}.model.1.weight": torch.empty(1, width, 1, 1) for i, width in enumerate(widths)}
    require_shapes(tensors, expected, what=f"LPIPS heads for VGG16 {path}")
    return tuple(tensors[name].float().flatten() for name in expected)


def _unit(features: Float[Tensor, "N F h w"]) -> Float[Tensor, "N F h w"]:
    return features / (features.norm(dim=1, keepdim=True) + EPSILON)
