"""Pictures of a training under way: STEM.png, a few frames side by side, and STEM.webp, the same moving."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.write import write_png, write_webp
from wan_alpha.preview import Panel, contact_sheet
from wan_alpha.rgba import to_uint8

Clip = tuple[Tensor, Tensor]
"""(rgb (3, T, H, W), alpha (1, T, H, W)), straight, in [0, 1]."""
RECONSTRUCTION_PANELS: tuple[Panel, ...] = ("checkerboard", "black", "white", "magenta", "alpha")
FPS = 16.0


def write_comparison(stem: Path, truths: list[Clip], predictions: list[Clip]) -> None:
    """Two rows per clip, truth above reconstruction, on every panel of RECONSTRUCTION_PANELS. Clips of one height and width."""
    pairs = list(zip(truths, predictions, strict=True))
    _write(stem, [clip for pair in pairs for clip in pair], panels=RECONSTRUCTION_PANELS)


def write_samples(stem: Path, clips: list[Clip]) -> None:
    """One row per clip on checkerboard, black, white, and its alpha."""
    _write(stem, clips, panels=("checkerboard", "black", "white", "alpha"))


def _write(stem: Path, clips: list[Clip], *, panels: tuple[Panel, ...]) -> None:
    still = contact_sheet(clips, panels=panels)
    write_png(to_uint8(still).permute(1, 2, 0).numpy(), stem.with_suffix(".png"))
    longest = max(rgb.shape[1] for rgb, _ in clips)
    moving = torch.stack([contact_sheet([_frame(clip, t) for clip in clips], frames=1, panels=panels) for t in range(longest)], dim=1)
    write_webp(_opaque(moving), stem.with_suffix(".webp"))


def _frame(clip: Clip, t: int) -> Clip:
    """Frame t alone; a clip that has ended shows its last."""
    t = min(t, clip[0].shape[1] - 1)
    return clip[0][:, t : t + 1], clip[1][:, t : t + 1]


def _opaque(moving: Float[Tensor, "3 T H W"]) -> RgbaClip:
    rgb = to_uint8(moving).permute(1, 2, 3, 0).numpy()
    return RgbaClip(rgb=rgb, alpha=np.full(rgb.shape[:3], 255, np.uint8), fps=FPS)
