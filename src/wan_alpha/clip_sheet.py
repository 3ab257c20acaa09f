"""Contact sheets of clips in files: a row of frames for each, over checkerboard, black and white, and its alpha.

Only the frames shown are decoded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wan_alpha.data.clips import resize, to_tensors
from wan_alpha.errors import WanAlphaError
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.find import FoundClip
from wan_alpha.media.read import BY_FILE, ReadSettings, count_frames, read_clip
from wan_alpha.preview import write_sheet

FRAMES, MAX_SIDE, MAX_ROWS = 3, 192, 24
Row = tuple[Float[Tensor, "3 T H W"], Float[Tensor, "1 T H W"]]


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Names of the clips on a sheet, and what is wrong with each one that could not be drawn."""

    rows: tuple[str, ...]
    problems: tuple[str, ...]


def draw_sheet(
    found: Sequence[FoundClip], path: Path, *, frames: int = FRAMES, max_side: int = MAX_SIDE, settings: ReadSettings = BY_FILE
) -> Drawn:
    """Draw the clips that can be read, pictures larger than max_side scaled down to it. WanAlphaError of the first one where none can."""
    rows: dict[str, Row] = {}
    problems: list[WanAlphaError] = []
    for clip in found:
        try:
            rows[clip.name] = thumbnails(_few_frames(clip, frames=frames, settings=settings), frames=frames, max_side=max_side)
        except WanAlphaError as error:
            problems.append(error)
    if problems and not rows:
        raise problems[0]
    write_sheet(list(rows.values()), path, frames=frames)
    return Drawn(rows=tuple(rows), problems=tuple(str(problem) for problem in problems))


def thumbnails(clip: RgbaClip, *, frames: int = FRAMES, max_side: int = MAX_SIDE) -> Row:
    """FRAMES frames of a clip, spread evenly (all, if it has fewer), at most max_side high and wide; [0, 1]."""
    chosen = _spread(clip.num_frames, frames)
    rgb, alpha = to_tensors(RgbaClip(rgb=clip.rgb[chosen], alpha=clip.alpha[chosen], fps=clip.fps).with_bits(8))
    scale = max_side / max(alpha.shape[-2:])
    if scale >= 1:
        return rgb, alpha
    return resize(rgb, alpha, height=max(1, round(alpha.shape[-2] * scale)), width=max(1, round(alpha.shape[-1] * scale)))


def _few_frames(found: FoundClip, *, frames: int, settings: ReadSettings) -> RgbaClip:
    if found.problem is not None:
        raise found.problem
    chosen = _spread(count_frames(found.files[0]), frames)
    single = [read_clip(rgba=found.rgba, rgb=found.rgb, alpha=found.alpha, start=i, count=1, settings=settings) for i in chosen]
    rgb, alpha = (np.concatenate(parts) for parts in zip(*((clip.rgb, clip.alpha) for clip in single), strict=True))
    return RgbaClip(rgb=rgb, alpha=alpha, fps=single[0].fps)


def _spread(total: int, frames: int) -> list[int]:
    return torch.linspace(0, total - 1, min(frames, total)).round().long().tolist()
