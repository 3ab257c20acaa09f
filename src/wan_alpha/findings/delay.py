"""The matte's time beside the colour's, in frames. Arrays are 0..255, (T, H, W[, 3])."""

import numpy as np
from jaxtyping import Float, Int

from wan_alpha.findings.finding import Alpha, Measure, Rgb, sampled
from wan_alpha.findings.outline import Lines, colour_ends, flat_colour, outline

MAX_LAG = 4
"""Frames, and at most a third of a short clip's steps."""
MIN_LINES, MAX_LINES = 150, 1000
MIN_AGREEMENT, MIN_GAIN = 0.105, 1.15
TOLERANCE = 0.5
RIMS, UNMOVED_RIMS = np.arange(-1, 3.1, 0.25), np.arange(-1, 6.1, 0.25)


def time_lag(rgb: Rgb, alpha: Alpha) -> Measure | None:
    """Whole frames between the matte and the colour, up to 4: the lag at which the colour ends where most of the matte's outline does.

    Agreement at lag k is the share of lines across the outline of frame t on which the colour of frame t - k ends at the matte's end,
    give or take one rim for all: mean of exp(-((e - s) / 0.5)^2), the largest over rims s of -1 to 3 pixels (to 6 without a lag, for a
    glow's colour may end far outside), e the end's distance in pixels; a line without an end counts as 0. A lag counts where it agrees
    15 % more than none does. None for fewer than 7 frames and where no lag reaches an agreement of 0.105 (a smooth or bled colour).
    """
    farthest = min(MAX_LAG, (len(alpha) - 1) // 3)
    if farthest < 2:
        return None
    frames = sampled(len(alpha))
    lines, flat = outline(alpha, frames, at_most=MAX_LINES), flat_colour(rgb, alpha, frames)
    agreement = {lag: _agreement(rgb, lines, flat, lag=lag, rims=RIMS if lag else UNMOVED_RIMS) for lag in range(-farthest, farthest + 1)}
    best = max(agreement, key=lambda lag: agreement[lag])
    if agreement[best] < MIN_AGREEMENT:
        return None
    late = best if agreement[best] >= MIN_GAIN * agreement[0] else 0
    return Measure(value=float(abs(late)), detail="ahead of" if late < 0 else "behind")


def _agreement(rgb: Rgb, lines: Lines, flat: Int[np.ndarray, "3"] | None, *, lag: int, rims: Float[np.ndarray, "R"]) -> float:
    """At LAG, over the lines whose frame has one that much earlier; 0 for fewer than 150."""
    inside = lines.of((lines.frame - lag >= 0) & (lines.frame - lag < len(rgb)))
    if len(inside.frame) < MIN_LINES:
        return 0.0
    beyond = colour_ends(rgb, inside, flat=flat, behind=lag)
    distance = np.nan_to_num(beyond, nan=np.inf)[:, None] - rims
    return float(np.exp(-((distance / TOLERANCE) ** 2)).mean(axis=0).max())
