"""A predicted clip beside its true one, and what a set of them is written down as: JSON, CSV and one static page."""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wan_alpha.media.atomic import beside
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.write import webp_bytes
from wan_alpha.metrics.measure import Clip
from wan_alpha.page import Page, Picture, Row, write_page
from wan_alpha.rgba import to_uint8

GAP = 8  # transparent pixels between the parts of a preview
LOSSLESS_PIXELS = 3 << 20  # of all frames of a preview; larger ones have lossy colour and exact alpha
LOSSY_QUALITY = 90
ERROR_GAIN = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Compared:
    """Truth and prediction of one clip, original frames only: (rgb (3, T, H, W), alpha (1, T, H, W)) in [0, 1]."""

    name: str
    fps: float
    truth: Clip
    prediction: Clip

    def previews(self) -> tuple[Picture, ...]:
        """Truth and prediction in one animation, so that they run together, with their real alpha; then both mattes and their error."""
        mattes = (self.truth[1], self.prediction[1].clamp(0, 1))
        error = (ERROR_GAIN * (mattes[1] - mattes[0]).abs()).clamp(0, 1)
        opaque = torch.ones_like(error)
        greys = [(grey.expand(3, -1, -1, -1), opaque) for grey in (*mattes, error)]
        return (
            Picture(label="truth, prediction", data=self._animation([self.truth, self.prediction])),
            Picture(label=f"alpha: truth, prediction, {ERROR_GAIN} x |difference|", data=self._animation(greys)),
        )

    def _animation(self, parts: list[Clip]) -> bytes:
        clip = to_clip((_beside([rgb for rgb, _ in parts]), _beside([alpha for _, alpha in parts])), fps=self.fps)
        return webp_bytes(clip, quality=None if clip.alpha.size <= LOSSLESS_PIXELS else LOSSY_QUALITY)


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """What was measured: means over clips, values of each clip, and what each name means (of the main ones; the page shows those)."""

    mean: Mapping[str, float]
    clips: Mapping[str, Mapping[str, float]]
    meanings: Mapping[str, str]


def to_clip(clip: Clip, *, fps: float) -> RgbaClip:
    """Rounded once to 8 bits, as export does."""
    rgb, alpha = clip
    return RgbaClip(rgb=to_uint8(rgb).permute(1, 2, 3, 0).numpy(), alpha=to_uint8(alpha)[0].numpy(), fps=fps)


def write_json(numbers: Numbers, path: Path, *, grade: str) -> Path:
    """{"mean": ..., "grade": ..., "clips": ..., "meanings": ...}"""
    record = {"mean": numbers.mean, "grade": grade, "clips": numbers.clips, "meanings": numbers.meanings}
    with beside(path) as partial:
        partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return path


def write_csv(numbers: Numbers, path: Path) -> Path:
    """A row per clip, a column per number; the last row, `mean`, is that of the clips."""
    with beside(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, ["clip", *numbers.mean], lineterminator="\n")
        table.writeheader()
        table.writerows({"clip": name, **values} for name, values in (*numbers.clips.items(), ("mean", numbers.mean)))
    return path


def write_comparison_page(
    numbers: Numbers, path: Path, *, title: str, lead: tuple[str, ...], previews: Mapping[str, tuple[Picture, ...]]
) -> Path:
    """The main numbers as a table, and the previews of the clips that have some."""
    rows = tuple(Row(name=name, cells=values, pictures=previews.get(name, ())) for name, values in numbers.clips.items())
    totals = Row(name="mean", cells=numbers.mean)
    return write_page(Page(title=title, lead=lead, columns=numbers.meanings, rows=rows, totals=totals), path)


def _beside(parts: list[Tensor]) -> Tensor:
    """Clips (C, T, H, W) side by side, GAP columns of zeros between them."""
    gap = parts[0].new_zeros(*parts[0].shape[:-1], GAP)
    return torch.cat([piece for part in parts for piece in (gap, part)][1:], dim=-1)
