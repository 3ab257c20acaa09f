"""Colour under alpha 0. Players that scale or mip-map straight RGBA mix it into edges, so it should continue the subject's own."""

from dataclasses import replace
from typing import Literal

import numpy as np
from PIL import Image

from wan_alpha.media.clip import Colour, Matte, RgbaClip

MatteFill = Literal["bleed", "black", "keep"]


def fill_hidden(clip: RgbaClip, fill: MatteFill) -> RgbaClip:
    """The clip with its colour under alpha 0 bled outward from the subject, black, or as it is. Visible pixels stay as they are."""
    if fill == "bleed":
        return replace(clip, rgb=bleed(clip.rgb, clip.alpha))
    return replace(clip, rgb=np.where(clip.alpha[..., None] > 0, clip.rgb, clip.rgb.dtype.type(0))) if fill == "black" else clip


def bleed(rgb: Colour, alpha: Matte) -> Colour:
    """Colour of visible pixels continued over fully transparent ones, by a pyramid of alpha-weighted means (push and pull)."""
    filled = np.empty_like(rgb)
    for out, colour, matte in zip(filled, rgb, alpha, strict=True):
        out[...] = _bleed_frame(colour, matte)
    return filled


def _bleed_frame(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    hidden = alpha == 0
    if not hidden.any() or hidden.all():
        return rgb
    top = np.iinfo(alpha.dtype).max
    weight = alpha.astype(np.float32) / top
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
    return np.where(hidden[..., None], np.clip(np.rint(colour), 0, top), rgb).astype(rgb.dtype)


def _halve(values: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 pixels; an odd last line repeats."""
    padded = np.pad(values, ((0, values.shape[0] % 2), (0, values.shape[1] % 2), (0, 0)), mode="edge")
    return (padded[::2, ::2] + padded[1::2, ::2] + padded[::2, 1::2] + padded[1::2, 1::2]) / 4


def _enlarge(values: np.ndarray, height: int, width: int) -> np.ndarray:
    image = Image.fromarray(values.astype(np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
