"""VGG16 up to relu2_2, the features of the perceptual loss (Eq. 8; torchvision's ImageNet weights, without torchvision).

Input is (N, 3, H, W) in [0, 1]; as in the published training, ImageNet's mean and deviation are not applied.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from wan_alpha.checkpoints.files import read_tensors, require_shapes, sha256
from wan_alpha.checkpoints.kinds import describe
from wan_alpha.errors import CheckpointError

VGG16_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
VGG16_HASH = "397923af"
_ADVICE = "use --perceptual none, or give the file as --perceptual_weights PATH (vgg16-397923af.pth)"


class VGG16Features(nn.Module):
    """relu2_2 of VGG16: (N, 3, H, W) in [0, 1] -> (N, 128, H/2, W/2). Frozen; gradients pass to the input."""

    def __init__(self, *, widths: tuple[int, int] = (64, 128)) -> None:
        super().__init__()
        first, second = widths
        self.features = nn.Sequential(
            nn.Conv2d(3, first, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(first, first, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(first, second, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(second, second, 3, padding=1),
            nn.ReLU(),
        )
        self.requires_grad_(False)

    def forward(self, frames: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N F h w"]:
        return self.features(frames)


def vgg16_from_tensors(tensors: Mapping[str, Tensor], *, what: object = "VGG16 weights") -> VGG16Features:
    """Features from torchvision's names `features.{0,2,5,7}.{weight,bias}`; the deeper layers of the file are left out.

    Raises CheckpointError when one of the eight is missing or of another shape.
    """
    names = [f"features.{index}.{part}" for index in (0, 2, 5, 7) for part in ("weight", "bias")]
    found = {name: tensors[name].float() for name in names if name in tensors}
    if len(found) < len(names):
        raise CheckpointError(what, got=f"what looks like {describe(tensors.keys())}", expected="VGG16, features.{0,2,5,7}", do=_ADVICE)
    network = VGG16Features(widths=(found["features.0.weight"].shape[0], found["features.5.weight"].shape[0]))
    require_shapes(found, network.state_dict(), what=what)
    network.load_state_dict(found)
    return network.eval()


def load_vgg16(path: Path | None = None) -> VGG16Features:
    """The features of `vgg16_weights(path)`, whose errors it raises."""
    return vgg16_from_tensors(vgg16_weights(path), what=vgg16_file(path))


def vgg16_weights(path: Path | None = None, *, advice: str = _ADVICE) -> dict[str, Tensor]:
    """torchvision's vgg16-397923af.pth, from `path` or from torch.hub's folder (downloaded when missing); checked by hash each time.

    Raises CheckpointError, which ends with the advice, for a file of another hash, and when it must be downloaded but cannot be.
    """
    file = vgg16_file(path)
    if path is None and not file.is_file():
        _download(file, advice=advice)
    found = sha256(file)
    if not found.startswith(VGG16_HASH):
        raise CheckpointError(file, got=f"sha256 {found[:8]}...", expected=f"{VGG16_HASH}... (torchvision's file)", do=advice)
    return read_tensors(file)


def vgg16_file(path: Path | None = None) -> Path:
    """The file that `vgg16_weights(path)` reads: the one given, or torch.hub's copy."""
    return path or Path(torch.hub.get_dir()) / "checkpoints" / Path(VGG16_URL).name


def _download(file: Path, *, advice: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(VGG16_URL, str(file), hash_prefix=VGG16_HASH, progress=False)
    except (OSError, RuntimeError) as error:  # no network, no space, or what came has another hash
        raise CheckpointError("VGG16", got=f"no download ({error})", expected=file.name, do=advice) from error
