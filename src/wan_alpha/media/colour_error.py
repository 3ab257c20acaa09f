"""How far a decoded frame's colour may be from what was written. A codec loses detail; an encoder that is wrong moves whole areas."""

from dataclasses import dataclass

import numpy as np

from wan_alpha.media.colour import Levels, Rgb
from wan_alpha.media.yuv import BT709

SQUARE = 8
_KR, _KB = BT709
_LUMA = np.array([_KR, 1 - _KR - _KB, _KB])
TO_YUV = np.array([_LUMA, (np.eye(3)[2] - _LUMA) / (2 - 2 * _KB), (np.eye(3)[0] - _LUMA) / (2 - 2 * _KR)], np.float32)
"""R'G'B' to luma and two colour differences of BT.709 (yuv.py)."""


@dataclass(frozen=True, kw_only=True)
class ColourBound:
    """The largest colour_error of a frame, in levels of 255: the sum of what its parts allow."""

    mean: float
    """In every frame."""
    pixel: float = 0.0
    """Besides, where n pixels are visible, pixel / sqrt(n): a codec's errors cancel out over many pixels, not over one."""
    rounding: float = 0.0
    """Besides, rounding / the mean alpha of visible pixels: premultiplied colour is rounded before it is divided by alpha."""
    halved: float = 0.0
    """Besides, this many times what halved chroma alone does to the frame (half_chroma)."""


def colour_error(got: Rgb, written: Rgb, alpha: Levels) -> float:
    """Mean error, in levels of 255, of the visible colour of squares of 8 x 8 pixels; 0 where nothing is visible.

    sum over squares and channels of |sum of a (got - written)| / (3 sum of a), a: the written alpha. Got, written and alpha have equal
    bits. Grain that a codec adds or drops cancels within a square, another colour does not.
    """
    share = alpha[..., None].astype(np.float32) * (255 / np.iinfo(alpha.dtype).max)
    total = share.sum(dtype=np.float64)
    if total == 0:
        return 0.0
    differences = share * (got.astype(np.float32) - written) * (255 / np.iinfo(alpha.dtype).max)
    rows, columns = (np.arange(0, length, SQUARE) for length in alpha.shape)
    squares = np.add.reduceat(np.add.reduceat(differences, rows, axis=0), columns, axis=1)
    return float(np.abs(squares).sum(dtype=np.float64) / (3 * total))


def allowed_error(bound: ColourBound, written: Rgb, alpha: Levels) -> float:
    """The largest colour_error of a frame under a bound."""
    visible = alpha[alpha > 0]
    if not visible.size:
        return bound.mean
    share = float(visible.mean(dtype=np.float64)) / np.iinfo(alpha.dtype).max
    halved = bound.halved * colour_error(half_chroma(written), written, alpha) if bound.halved else 0.0
    return float(bound.mean + bound.pixel / np.sqrt(visible.size) + bound.rounding / share + halved)


def half_chroma(rgb: Rgb) -> Rgb:
    """The frame with one chroma for every 2 x 2 pixels, their mean, in BT.709: what 4:2:0 does to it, without any codec."""
    top = np.iinfo(rgb.dtype).max
    yuv = rgb.astype(np.float32) @ TO_YUV.T
    height, width = rgb.shape[:2]
    chroma = np.pad(yuv[..., 1:], ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    means = chroma.reshape(chroma.shape[0] // 2, 2, chroma.shape[1] // 2, 2, 2).mean(axis=(1, 3))
    yuv[..., 1:] = means.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
    return np.rint((yuv @ np.linalg.inv(TO_YUV).T).clip(0, top)).astype(rgb.dtype)
