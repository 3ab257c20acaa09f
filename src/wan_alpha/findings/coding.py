"""Whether a matte has been through a lossy codec before. Alpha is (T, H, W), 0..255."""

import math

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from wan_alpha.findings.finding import MAX_SAMPLED, Alpha
from wan_alpha.media.recode import Coder, recoded

LOSS_OF_DRAWN, SCATTER = 0.955, 4.0
TRIALS: dict[float, tuple[tuple[Coder, int], ...]] = {1.0: (("H.264", 24), ("H.264", 20), ("VP9", 20)), 1.5: (("H.264", 24), ("H.264", 20))}
"""At how many times its present size a matte may have been coded: by what, how coarsely (CRF: the grid shows best near the first one)."""
SIDE = 192
"""Pixels of the square that is coded again."""
BLOCK = 64
"""A multiple of every codec's transforms."""
PAD = 8
BESIDE = ((2, 2), (6, 6), (2, 6), (6, 2))
"""Shifts that meet neither a grid of 4 nor one of 8 pixels."""


def was_coded(alpha: Alpha, *, rough: Bool[np.ndarray, "F H W"], frames: list[int]) -> bool:
    """Whether the part of the matte that is most ROUGH (of the frames FRAMES) lies on the grid of one of the codecs tried."""
    parts = ((rough_part(alpha, rough=rough, frames=frames, scale=scale), coders) for scale, coders in TRIALS.items())
    return any(lies_on_grid(part, coder=coder, crf=crf) for part, coders in parts for coder, crf in coders)


def lies_on_grid(alpha: Alpha, *, coder: Coder, crf: int) -> bool:
    """Whether one more encoding costs less where blocks lie as they are than with the matte moved off the grid.

    Cost: mean |a - code(a)|. On the grid it must stay below 0.955 of each of the costs beside it, moved by (2, 2), (6, 6), (2, 6) and
    (6, 2) pixels, and in parts of less than 89 pixels across, where costs scatter, below 1 - 4 / across. A matte that never was coded
    does not care where blocks begin; one that was has lost before what its own blocks lose: 0.4 to 0.95. Coding again is the test of
    H. Farid, "Exposing Digital Forgeries from JPEG Ghosts" (IEEE TIFS 4 (1), 2009), the moved copy as its own reference that of
    J. Fridrich, M. Goljan and D. Hogea, "Steganalysis of JPEG Images: Breaking the F5 Algorithm" (2002).
    """
    limit = min(LOSS_OF_DRAWN, 1 - SCATTER / math.sqrt(alpha[0].size))
    least = _loss(alpha, shift=(0, 0), coder=coder, crf=crf)
    return all(least < limit * _loss(alpha, shift=shift, coder=coder, crf=crf) for shift in BESIDE)


def rough_part(alpha: Alpha, *, rough: Bool[np.ndarray, "F H W"], frames: list[int], scale: float = 1.0) -> UInt8[np.ndarray, "t h w"]:
    """At most 9 frames in a row, at SCALE times the size (bicubic), of a square of 192 x 192 that holds most of ROUGH.

    The square lies on the grid of that size. A matte that was coded large and then made smaller has its blocks back that way: undoing
    the resize is the idea of T. Bianchi and A. Piva, "Reverse Engineering of Double JPEG Compression in the Presence of Image Resizing"
    (WIFS 2012). Frames begin where roughness does, at a tenth of its most: files begin with a picture coded by itself.
    """
    height, width = alpha.shape[1:]
    tall, wide = round(height * scale), round(width * scale)
    counts, total, reach = rough.sum(axis=(1, 2)), rough.sum(axis=0), round(SIDE / scale)

    def held(corner: tuple[int, int]) -> int:
        y, x = (int(at / scale) for at in corner)
        return int(total[y : y + reach, x : x + reach].sum())

    top, left = max(((y, x) for y in _starts(tall) for x in _starts(wide)), key=held)
    bottom, right = min(top + SIDE, tall), min(left + SIDE, wide)
    box = left * width / wide, top * height / tall, right * width / wide, bottom * height / tall
    size = right - left, bottom - top
    start = min(frames[int((10 * counts >= counts.max()).argmax())], max(0, len(alpha) - MAX_SAMPLED))
    pictures = [Image.fromarray(frame) for frame in alpha[start : start + MAX_SAMPLED]]
    return np.stack([np.asarray(one.resize(size, Image.Resampling.BICUBIC, box=box)) for one in pictures])


def _starts(length: int) -> range:
    """Where squares may begin along a side: every 64 pixels, up to the last that they all cover."""
    return range(0, max(1, length - SIDE + BLOCK), BLOCK)


def _loss(alpha: Alpha, *, shift: tuple[int, int], coder: Coder, crf: int) -> float:
    """Mean |a - code(a)|, the matte moved by SHIFT within an edge of 8 pixels that repeats its border."""
    height, width = alpha.shape[1:]
    down, right = shift
    # An odd side is made even behind the picture.
    frame = (0, 0), (down, PAD - down + height % 2), (right, PAD - right + width % 2)
    moved = np.pad(alpha, frame, mode="edge")
    error = np.abs(recoded(moved, coder=coder, crf=crf).astype(np.int16) - moved)
    return float(error[:, down : down + height, right : right + width].mean())
