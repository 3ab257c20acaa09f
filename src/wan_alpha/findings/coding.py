"""Whether a matte has been through a lossy codec before. Alpha is (T, H, W), 0..255."""

import numpy as np
from jaxtyping import Bool, UInt8

from wan_alpha.findings.finding import MAX_SAMPLED, Alpha
from wan_alpha.media.recode import recoded

CRF = 18
SIDE = 256
"""Pixels of the square that is coded again, a multiple of every codec's block."""
PAD = 8
BESIDE = ((2, 2), (6, 6))
"""Shifts that meet neither a grid of 4 nor one of 8 pixels."""


def loss_on_grid(alpha: Alpha) -> float:
    """What one more encoding costs where blocks lie as they are, over what it costs with the matte moved off the grid.

    mean |a - code(a)| over the mean of the same for shifts of (2, 2) and (6, 6) pixels, code being H.264 at crf 18. A matte that never
    was coded does not care where blocks begin: 1. One that was has lost before what its own blocks lose; measured 0.4 to 0.95. Coding
    again is the test of H. Farid, "Exposing Digital Forgeries from JPEG Ghosts" (IEEE TIFS 4 (1), 2009), the moved copy as its own
    reference that of J. Fridrich, M. Goljan and D. Hogea, "Steganalysis of JPEG Images: Breaking the F5 Algorithm" (2002). 1 where
    nothing is lost. Resizing destroys the grid.
    """
    beside = [_loss(alpha, shift) for shift in BESIDE]
    return _loss(alpha, (0, 0)) / (sum(beside) / len(beside)) if sum(beside) else 1.0


def rough_part(alpha: Alpha, *, rough: Bool[np.ndarray, "F H W"], frames: list[int]) -> UInt8[np.ndarray, "t h w"]:
    """At most 9 frames in a row of the 256 x 256 square, on the codec's grid, that holds most of ROUGH (of the frames FRAMES).

    They begin where roughness does, at a tenth of its most: files begin with a picture coded by itself, and so does the comparison.
    """
    height, width = alpha.shape[1:]
    corners = [(y, x) for y in range(0, height, SIDE) for x in range(0, width, SIDE)]
    y, x = max(corners, key=lambda corner: int(rough[:, corner[0] : corner[0] + SIDE, corner[1] : corner[1] + SIDE].sum()))
    counts = rough.sum(axis=(1, 2))
    start = min(frames[int((10 * counts >= counts.max()).argmax())], max(0, len(alpha) - MAX_SAMPLED))
    return alpha[start : start + MAX_SAMPLED, y : y + SIDE, x : x + SIDE]


def _loss(alpha: Alpha, shift: tuple[int, int]) -> float:
    """Mean |a - code(a)|, the matte moved by SHIFT within an edge of 8 pixels that repeats its border."""
    height, width = alpha.shape[1:]
    down, right = shift
    # An odd side is made even behind the picture.
    frame = (0, 0), (down, PAD - down + height % 2), (right, PAD - right + width % 2)
    moved = np.pad(alpha, frame, mode="edge")
    error = np.abs(recoded(moved, crf=CRF).astype(np.int16) - moved)
    return float(error[:, down : down + height, right : right + width].mean())
