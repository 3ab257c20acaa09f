"""preview: any RGBA clip or folder of clips -> one PNG, a row of frames per clip over checkerboard, black and white, and its alpha.

Only the frames shown are decoded.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from wan_alpha.config import PreviewConfig
from wan_alpha.data.clips import resize, to_tensors
from wan_alpha.errors import UsageError
from wan_alpha.media.find import FoundClip, find_clips
from wan_alpha.media.read import count_frames, read_clip
from wan_alpha.preview import write_sheet


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What was drawn. `pictures` are shown on terminals that can."""

    pictures: tuple[Path, ...]
    rows: tuple[str, ...]
    left_out: int

    def summary(self) -> list[str]:
        more = f", {self.left_out} more left out (--max_rows)" if self.left_out else ""
        return [f"{self.pictures[0]}: {', '.join(self.rows)}{more}"]


def preview(config: PreviewConfig) -> Preview:
    """Draw the sheet. Clips of different sizes stand in the middle of rows of the largest one's size."""
    if config.output_path.suffix.lower() != ".png":
        raise UsageError("--output_path", got=config.output_path, expected="a name that ends in .png")
    found = find_clips(config.source)
    shown = found[: config.max_rows]
    clips = [_frames(clip, config) for clip in shown]
    write_sheet(clips, config.output_path, frames=config.frames)
    return Preview(pictures=(config.output_path,), rows=tuple(clip.name for clip in shown), left_out=len(found) - len(shown))


def _frames(found: FoundClip, config: PreviewConfig) -> tuple[Float[Tensor, "3 T H W"], Float[Tensor, "1 T H W"]]:
    """The frames that the sheet shows of one clip, scaled down to max_side."""
    if found.problem is not None:
        raise found.problem
    total = count_frames(found.files[0])
    chosen = torch.linspace(0, total - 1, min(config.frames, total)).round().long().tolist()
    windows = [to_tensors(read_clip(rgba=found.rgba, rgb=found.rgb, alpha=found.alpha, start=i, count=1)) for i in chosen]
    rgb, alpha = (torch.cat(parts, dim=1) for parts in zip(*windows, strict=True))
    scale = config.max_side / max(alpha.shape[-2:])
    if scale >= 1:
        return rgb, alpha
    return resize(rgb, alpha, height=max(1, round(alpha.shape[-2] * scale)), width=max(1, round(alpha.shape[-1] * scale)))
