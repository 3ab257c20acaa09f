"""Repairs that are safe: each undoes one finding and leaves pixels alone that do not show it. Arrays are 0..255, (T, H, W[, 3])."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from wan_alpha.findings.alpha import NEAR
from wan_alpha.findings.filters import largest, median, smallest
from wan_alpha.findings.finding import Alpha, Repair, Rgb
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.fill import bleed

ORDER: tuple[Repair, ...] = ("trim", "stretch", "denoise", "unpremultiply", "bleed")
"""Alpha before colour, for colour is divided by alpha; hidden colour last. Trimming happens where a pair is read."""
PASSES = 4


def repair(clip: RgbaClip, kinds: Iterable[Repair]) -> RgbaClip:
    """The clip with the repairs made, in the order in which they build on each other."""
    rgb, alpha, wanted = clip.rgb, clip.alpha, set(kinds)
    if "stretch" in wanted:
        alpha = stretch(alpha)
    if "denoise" in wanted:
        alpha = denoise(alpha)
    if "unpremultiply" in wanted:
        rgb = unpremultiply(rgb, alpha)
    if "bleed" in wanted or "unpremultiply" in wanted:
        rgb = bleed(rgb, alpha)
    return replace(clip, rgb=rgb, alpha=alpha)


def stretch(alpha: Alpha) -> Alpha:
    """16-235 to 0-255: round((a - 16) * 255 / 219), clamped."""
    table = np.clip(np.rint((np.arange(256) - 16) * 255 / 219), 0, 255).astype(np.uint8)
    return table[alpha]


def denoise(alpha: Alpha) -> Alpha:
    """Within 12 levels of 0 and of 255, the median of 3 x 3 pixels, four times; what is then within 2 levels becomes 0 or 255.

    Only where the neighbourhood stays within 24 levels, so that edges and thin strands keep every level. Soft tails, which are
    monotone, equal their median. One pass leaves a fifth of the noise of mattes that are rough everywhere, four are not reported again.
    """
    for _ in range(PASSES):
        alpha = _denoise_once(alpha)
    return alpha


def _denoise_once(alpha: Alpha) -> Alpha:
    middle = median(alpha)
    near_zero = (largest(alpha) <= 2 * NEAR) & (alpha <= NEAR)
    near_full = (smallest(alpha) >= 255 - 2 * NEAR) & (alpha >= 255 - NEAR)
    lower = np.where(middle <= 2, 0, middle)
    upper = np.where(middle >= 253, 255, middle)
    return np.where(near_zero, lower, np.where(near_full, upper, alpha)).astype(np.uint8)


def unpremultiply(rgb: Rgb, alpha: Alpha) -> Rgb:
    """c = round(255 c_premul / a), clamped, where a > 0; as it is where a = 0."""
    out = rgb.copy()
    for frame, matte in zip(out, alpha, strict=True):
        seen = matte > 0
        frame[seen] = np.clip(np.rint(frame[seen] * (255 / matte[seen, None].astype(np.float32))), 0, 255)
    return out
