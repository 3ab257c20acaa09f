"""Repairs that are safe: each undoes one finding and leaves pixels alone that do not show it. Arrays are 0..255, (T, H, W[, 3])."""

from collections.abc import Iterable

import numpy as np
from PIL import Image

from wan_alpha.findings.alpha import NEAR
from wan_alpha.findings.filters import largest, median, smallest
from wan_alpha.findings.finding import Alpha, Repair, Rgb
from wan_alpha.media.clip import RgbaClip

ORDER: tuple[Repair, ...] = ("trim", "stretch", "denoise", "unpremultiply", "bleed")
"""Alpha before colour, for colour is divided by alpha; hidden colour last. Trimming happens where a pair is read."""


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
    return RgbaClip(rgb=rgb, alpha=alpha, fps=clip.fps)


def stretch(alpha: Alpha) -> Alpha:
    """16-235 to 0-255: round((a - 16) * 255 / 219), clamped."""
    table = np.clip(np.rint((np.arange(256) - 16) * 255 / 219), 0, 255).astype(np.uint8)
    return table[alpha]


def denoise(alpha: Alpha) -> Alpha:
    """Within 12 levels of 0 and of 255, the median of 3 x 3 pixels; what is then within 2 levels becomes 0 or 255.

    Only where the neighbourhood stays within 24 levels, so that edges and thin strands keep every level. Soft tails, which are
    monotone, equal their median.
    """
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


def bleed(rgb: Rgb, alpha: Alpha) -> Rgb:
    """Colour of visible pixels continued over fully transparent ones, by a pyramid of alpha-weighted means (push and pull)."""
    return np.stack([_bleed_frame(colour, matte) for colour, matte in zip(rgb, alpha, strict=True)])


def _bleed_frame(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    hidden = alpha == 0
    if not hidden.any() or hidden.all():
        return rgb
    weight = alpha.astype(np.float32) / 255
    levels = [(rgb * weight[..., None], weight)]
    while max(levels[-1][1].shape) > 1:
        premul, weight = levels[-1]
        levels.append((_halve(premul), _halve(weight[..., None])[..., 0]))
    colour = levels[-1][0] / np.maximum(levels[-1][1], 1e-6)[..., None]
    for premul, weight in reversed(levels[:-1]):
        height, width = weight.shape
        above = np.stack([_enlarge(colour[..., channel], height, width) for channel in range(3)], axis=-1)
        share = np.minimum(weight * 4, 1)[..., None]
        colour = share * premul / np.maximum(weight, 1e-6)[..., None] + (1 - share) * above
    return np.where(hidden[..., None], np.clip(np.rint(colour), 0, 255), rgb).astype(np.uint8)


def _halve(values: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 pixels; an odd last line repeats."""
    padded = np.pad(values, ((0, values.shape[0] % 2), (0, values.shape[1] % 2), (0, 0)), mode="edge")
    return (padded[::2, ::2] + padded[1::2, ::2] + padded[::2, 1::2] + padded[1::2, 1::2]) / 4


def _enlarge(values: np.ndarray, height: int, width: int) -> np.ndarray:
    image = Image.fromarray(values.astype(np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
