"""Clips at one rate, one size, one length. Everything is blended in premultiplied float32, so that hidden colour stays hidden."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import numpy as np

from wan_alpha.geometry import ClipSize
from wan_alpha.media.clip import RgbaClip

Rate = Literal["nearest", "blend"]
Fill = Literal["crop", "pad"]
FRAMES_AT_ONCE, PIXELS_AT_ONCE = 16, 2**25


def frames_at(clip: RgbaClip, *, fps: float) -> int:
    """Frames of the clip at another rate."""
    return max(1, round(clip.num_frames * fps / clip.fps))


def scaled_size(clip: RgbaClip, *, height: int, width: int, fill: Fill) -> tuple[int, int]:
    """(height, width) to which the clip is scaled: crop covers height x width with it, pad fits it in."""
    scale = (max if fill == "crop" else min)(height / clip.height, width / clip.width)
    return max(1, round(clip.height * scale)), max(1, round(clip.width * scale))


def at_rate(clip: RgbaClip, *, fps: float, kind: Rate) -> RgbaClip:
    """A clip of constant rate at FPS, over the same time.

    Frame i shows the moment i / fps: the nearest frame, or the two around it blended.
    """
    count = frames_at(clip, fps=fps)
    moments = np.minimum(np.arange(count) * clip.fps / fps, clip.num_frames - 1)
    if kind == "nearest":
        chosen = np.ceil(moments - 0.5).astype(int)
        return replace(clip, rgb=clip.rgb[chosen], alpha=clip.alpha[chosen], fps=fps)
    before = np.floor(moments).astype(int)
    frames = [_blend(clip, int(t), share=float(m - t)) for t, m in zip(before, moments, strict=True)]
    return replace(clip, rgb=np.stack([rgb for rgb, _ in frames]), alpha=np.stack([alpha for _, alpha in frames]), fps=fps)


def _blend(clip: RgbaClip, t: int, *, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Frame t, or a mixture with SHARE of the next: alpha linear, colour weighted with alpha (straight where both are transparent)."""
    if share < 1e-6:
        return clip.rgb[t], clip.alpha[t]
    a0, a1 = (1 - share) * clip.alpha[t].astype(np.float32), share * clip.alpha[t + 1].astype(np.float32)
    alpha = a0 + a1
    seen = alpha > 0
    w0 = np.where(seen, a0 / np.maximum(alpha, 1e-6), 1 - share)[..., None]
    rgb = w0 * clip.rgb[t] + (1 - w0) * clip.rgb[t + 1]
    return np.rint(rgb).astype(np.uint8), np.rint(alpha).astype(np.uint8)


def at_size(clip: RgbaClip, *, height: int, width: int, fill: Fill) -> RgbaClip:
    """The clip at height x width: crop covers the frame and cuts the middle, pad fits it in between transparent borders."""
    if (clip.height, clip.width) == (height, width):
        return clip
    pieces = list(_resized(clip, height, width, fill))
    return replace(clip, rgb=np.concatenate([rgb for rgb, _ in pieces]), alpha=np.concatenate([alpha for _, alpha in pieces]))


def _resized(clip: RgbaClip, height: int, width: int, fill: Fill) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    from wan_alpha.data.clips import fit, resize, to_tensors  # torch, which most runs of prepare do without
    from wan_alpha.rgba import to_uint8

    inner = scaled_size(clip, height=height, width=width, fill=fill)
    size = ClipSize(num_frames=1, height=height, width=width)
    largest = max(math.prod(frame) for frame in ((clip.height, clip.width), inner, (height, width)))
    step = max(1, min(FRAMES_AT_ONCE, PIXELS_AT_ONCE // largest))
    for start in range(0, clip.num_frames, step):
        part = slice(start, start + step)
        rgb, alpha = to_tensors(RgbaClip(rgb=clip.rgb[part], alpha=clip.alpha[part], fps=clip.fps))
        if fill == "crop":
            rgb, alpha = fit(rgb, alpha, size=size, crop="centre", augment=None, rng=np.random.default_rng(0))
        else:
            rgb, alpha = resize(rgb, alpha, height=inner[0], width=inner[1])
        colour, matte = to_uint8(rgb).permute(1, 2, 3, 0).numpy(), to_uint8(alpha)[0].numpy()
        border = [(0, 0), *(((full - now) // 2, full - now - (full - now) // 2) for full, now in zip((height, width), matte.shape[1:]))]
        yield np.pad(colour, [*border, (0, 0)], mode="edge"), np.pad(matte, border)


def fixed_windows(num_frames: int, *, length: int) -> list[tuple[int, int]]:
    """(start, end) of consecutive windows; frames that fill no window are left out, a clip shorter than one stays whole.

    >>> fixed_windows(40, length=17)
    [(0, 17), (17, 34)]
    """
    starts = range(0, num_frames - length + 1, length)
    return [(start, start + length) for start in starts] or [(0, num_frames)]


def scene_windows(num_frames: int, *, cuts: list[int]) -> list[tuple[int, int]]:
    """(start, end) of the scenes between cuts.

    >>> scene_windows(10, cuts=[4])
    [(0, 4), (4, 10)]
    """
    marks = [0, *cuts, num_frames]
    return list(itertools.pairwise(marks))
