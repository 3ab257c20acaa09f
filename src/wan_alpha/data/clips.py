"""Clips as tensors at one size: window, resize, crop. What item i is follows from (seed, i) alone, whatever the workers do.

Resampling happens in premultiplied float32: in straight colour the hidden colour of transparent pixels bleeds into edges.
"""

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from wan_alpha.data.manifest import ClipEntry
from wan_alpha.data.panning import pan_path
from wan_alpha.data.survey import survey_clips
from wan_alpha.errors import DatasetError, MediaError
from wan_alpha.geometry import ClipSize
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.read import count_frames, read_clip

Crop = Literal["random", "centre"]
# Below half a level of 8-bit alpha the premultiplied colour says nothing about the straight one.
VISIBLE = 0.5 / 255


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """One clip: straight sRGB and alpha in [0, 1]. Frames past original_frames repeat earlier ones; metrics leave them out."""

    rgb: Float[Tensor, "3 T H W"]
    alpha: Float[Tensor, "1 T H W"]
    prompt: str
    name: str
    original_frames: int
    fps: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Samples stacked along B."""

    rgb: Float[Tensor, "B 3 T H W"]
    alpha: Float[Tensor, "B 1 T H W"]
    prompts: tuple[str, ...]
    names: tuple[str, ...]
    original_frames: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Random changes of a training clip. A still (a clip of one frame) becomes a panned clip besides (data/panning.py)."""

    flip: float = 0.5
    """Probability of a left-right mirror."""
    max_scale: float = 2.0
    """Clips are enlarged by up to this factor before the random crop; 1 to 2."""


class ClipDataset(Dataset):
    """Windows of num_frames from every entry.

    crop = "random" draws the window's place and the crop; "centre" takes the first frames and the middle of the picture. A clip
    shorter than the window plays forth and back (0 1 2 1 0 1 ...), end frames not doubled. Item i belongs to entry
    i mod len(entries) and draws from (seed, i): i may go on past the length, so that every epoch draws anew.
    """

    def __init__(
        self,
        entries: Sequence[ClipEntry],
        *,
        size: ClipSize | Sequence[ClipSize],
        seed: int = 0,
        crop: Crop = "random",
        augment: Augment | None = None,
        repeat: int = 1,
        cache_bytes: int = 1 << 30,
    ) -> None:
        """SIZE is one for all or one per entry (buckets). REPEAT counts each entry that often in one epoch; CACHE_BYTES bounds the
        decoded clips kept in memory (per worker)."""
        if not entries:
            raise DatasetError("dataset", got="no clips", expected="at least one", do="run wan-alpha prepare")
        self.entries = tuple(entries)
        self.sizes = (size,) * len(entries) if isinstance(size, ClipSize) else tuple(size)
        if len(self.sizes) != len(self.entries):
            raise DatasetError("dataset", got=f"{len(self.sizes)} sizes for {len(self.entries)} clips", expected="one size per clip")
        self.seed, self.crop, self.augment, self.repeat = seed, crop, augment, repeat
        self._cache = _ClipCache(cache_bytes)

    @property
    def fingerprint(self) -> str:
        """Names and sizes, in order: a resumed run must draw from the same clips."""
        return " ".join(f"{entry.name}:{size.text}" for entry, size in zip(self.entries, self.sizes, strict=True))

    def __len__(self) -> int:
        return len(self.entries) * self.repeat

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Sample:
        if index < 0:
            raise IndexError(index)
        return self.sample(index % len(self.entries), draw=index)

    def sample(self, i: int, *, draw: int) -> Sample:
        """Entry i; everything random about it follows from (seed, draw)."""
        rng = np.random.default_rng((self.seed, draw))
        entry, size = self.entries[i], self.sizes[i]
        total = self._cache.num_frames(entry)
        start = int(rng.integers(0, max(total - size.num_frames, 0) + 1)) if self.crop == "random" else 0
        original = min(total, size.num_frames)
        clip = self._cache.window(entry, start=start, count=original)
        rgb, alpha = fit(*to_tensors(clip), size=size, crop=self.crop, augment=self.augment, rng=rng)
        original = rgb.shape[1]
        order = torch.tensor(back_and_forth(original, num_frames=size.num_frames))
        return Sample(
            rgb=rgb[:, order], alpha=alpha[:, order], prompt=entry.prompt, name=entry.name, original_frames=original, fps=clip.fps
        )


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples of one size (the collate_fn of a DataLoader)."""
    return Batch(
        rgb=torch.stack([sample.rgb for sample in samples]),
        alpha=torch.stack([sample.alpha for sample in samples]),
        prompts=tuple(sample.prompt for sample in samples),
        names=tuple(sample.name for sample in samples),
        original_frames=tuple(sample.original_frames for sample in samples),
    )


def usable_entries(entries: Sequence[ClipEntry], *, on_bad_sample: Literal["error", "skip"]) -> tuple[list[ClipEntry], list[str]]:
    """`survey_clips` without the shapes: the entries that work, and one line for each that does not."""
    survey = survey_clips(entries, on_bad_sample=on_bad_sample)
    return survey.entries, list(survey.skipped)


def back_and_forth(count: int, *, num_frames: int) -> list[int]:
    """Indices of NUM_FRAMES frames out of COUNT.

    >>> back_and_forth(3, num_frames=8)
    [0, 1, 2, 1, 0, 1, 2, 1]
    """
    period = list(range(count)) + list(range(count - 2, 0, -1))
    return [period[i % len(period)] for i in range(num_frames)]


def to_tensors(clip: RgbaClip) -> tuple[Float[Tensor, "3 T H W"], Float[Tensor, "1 T H W"]]:
    """Bytes / 255 as float32, channels first."""
    rgb = torch.from_numpy(clip.rgb).permute(3, 0, 1, 2).float().div(255)
    return rgb, torch.from_numpy(clip.alpha)[None].float().div(255)


def fit(
    rgb: Float[Tensor, "3 T H W"],
    alpha: Float[Tensor, "1 T H W"],
    *,
    size: ClipSize,
    crop: Crop,
    augment: Augment | None,
    rng: np.random.Generator,
) -> tuple[Float[Tensor, "3 t h w"], Float[Tensor, "1 t h w"]]:
    """Scale so that both sides cover the target, then crop. A clip of the target's size comes back untouched; a still comes back as
    a panned clip of the target's length where clips are augmented, as one frame elsewhere."""
    height, width = rgb.shape[-2:]
    zoom = float(rng.uniform(1, augment.max_scale)) if augment else 1.0
    mirror = bool(augment and rng.random() < augment.flip)
    scale = zoom * max(size.height / height, size.width / width)
    scaled = max(size.height, math.floor(height * scale + 0.5)), max(size.width, math.floor(width * scale + 0.5))
    if scaled != (height, width):
        rgb, alpha = resize(rgb, alpha, height=scaled[0], width=scaled[1])
    room = scaled[0] - size.height, scaled[1] - size.width
    if augment and crop == "random" and rgb.shape[1] == 1:
        path = pan_path(room=room, num_frames=size.num_frames, rng=rng)
        rgb, alpha = (torch.cat([_window(x, at, size) for at in path], dim=1) for x in (rgb, alpha))
    else:
        corner = [int(rng.integers(0, space + 1)) if crop == "random" else space // 2 for space in room]
        rgb, alpha = (_window(x, (corner[0], corner[1]), size) for x in (rgb, alpha))
    return (rgb.flip(-1), alpha.flip(-1)) if mirror else (rgb, alpha)


def _window(x: Tensor, at: tuple[int, int], size: ClipSize) -> Tensor:
    top, left = at
    return x[..., top : top + size.height, left : left + size.width]


def resize(
    rgb: Float[Tensor, "3 T H W"], alpha: Float[Tensor, "1 T H W"], *, height: int, width: int
) -> tuple[Float[Tensor, "3 T h w"], Float[Tensor, "1 T h w"]]:
    """Antialiased bilinear resampling of premultiplied colour and alpha; where alpha ends at 0 the straight colour is resampled."""
    premul = torch.cat([rgb * alpha, alpha, rgb]).transpose(0, 1)
    premul = F.interpolate(premul, (height, width), mode="bilinear", align_corners=False, antialias=True).transpose(0, 1)
    colour_premul, new_alpha, hidden = premul[:3], premul[3:4].clamp(0, 1), premul[4:]
    straight = torch.where(new_alpha >= VISIBLE, colour_premul / new_alpha.clamp_min(VISIBLE), hidden)
    return straight.clamp(0, 1), new_alpha


class _ClipCache:
    """Whole decoded clips, least recently used out first; clips larger than the budget are read window by window."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._clips: OrderedDict[ClipEntry, RgbaClip] = OrderedDict()
        self._counts: dict[ClipEntry, int] = {}
        self._too_large: set[ClipEntry] = set()

    def num_frames(self, entry: ClipEntry) -> int:
        if entry in self._clips:
            return self._clips[entry].num_frames
        if entry not in self._counts:
            self._counts[entry] = _count(entry)
        return self._counts[entry]

    def window(self, entry: ClipEntry, *, start: int, count: int) -> RgbaClip:
        if entry in self._too_large:
            return read_clip(rgba=entry.rgba, rgb=entry.rgb, alpha=entry.alpha, start=start, count=count)
        clip = self._clips.pop(entry, None) or self._load(entry, start, count)
        if entry not in self._too_large:
            self._keep(entry, clip)
            clip = RgbaClip(rgb=clip.rgb[start : start + count], alpha=clip.alpha[start : start + count], fps=clip.fps)
        return clip

    def _load(self, entry: ClipEntry, start: int, count: int) -> RgbaClip:
        window = read_clip(rgba=entry.rgba, rgb=entry.rgb, alpha=entry.alpha, start=start, count=count)
        whole_bytes = 4 * window.height * window.width * self.num_frames(entry)
        if whole_bytes > self.budget:
            self._too_large.add(entry)
            return window
        whole = start == 0 and count == self.num_frames(entry)
        return window if whole else read_clip(rgba=entry.rgba, rgb=entry.rgb, alpha=entry.alpha)

    def _keep(self, entry: ClipEntry, clip: RgbaClip) -> None:
        self._clips[entry] = clip
        while sum(kept.rgb.nbytes + kept.alpha.nbytes for kept in self._clips.values()) > self.budget:
            self._clips.popitem(last=False)


def _count(entry: ClipEntry) -> int:
    """Frames of an entry; both halves of a pair must agree."""
    if entry.rgba is not None:
        return count_frames(entry.rgba)
    if entry.rgb is None or entry.alpha is None:
        raise DatasetError(entry.name, got="half a pair", expected="colour and matte")
    frames, matte_frames = count_frames(entry.rgb), count_frames(entry.alpha)
    if frames != matte_frames:
        raise MediaError(
            entry.alpha, got=f"{matte_frames} frames", expected=f"{frames} as in {entry.rgb.name}", do="run wan-alpha prepare again"
        )
    return frames
