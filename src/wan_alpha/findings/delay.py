"""The matte's time beside the colour's, in frames. Arrays are 0..255, (T, H, W[, 3])."""

import numpy as np
from jaxtyping import Float, Int

from wan_alpha.findings.finding import Alpha, Measure, Rgb, sampled
from wan_alpha.findings.outline import Lines, Positions, closeness, colour_ends, flat_colour, outline

MAX_LAG = 4
"""Frames, and at most a third of a short clip's steps."""
MIN_LINES, MAX_LINES = 150, 1000
MIN_AGREEMENT, MIN_GAIN = 0.105, 1.25
RIMS, WIDE_RIMS = np.arange(-1, 3.1, 0.25), np.arange(-1, 9.1, 0.25)


def time_lag(rgb: Rgb, alpha: Alpha) -> Measure | None:
    """Whole frames between the matte and the colour, up to 4: the lag at which the colour ends where most of the matte's outline does.

    Agreement at lag k is the share of lines across the outline of frame t on which the colour of frame t - k ends at the matte's end,
    give or take one rim for all: mean of exp(-((e - s) / 0.5)^2), the largest over rims s of -1 to 3 pixels, e the end's distance in
    pixels; a line without an end counts as 0. Without a lag each frame may have its own rim, up to 9 pixels: a glow's colour ends far
    outside, the farther the larger it grows. A lag counts where it agrees 25 % more than none does. None for fewer than 7 frames or 150
    lines, and where no lag reaches an agreement of 0.105 (a smooth or bled colour).
    """
    farthest = min(MAX_LAG, (len(alpha) - 1) // 3)
    if farthest < 2:
        return None
    frames = sampled(len(alpha))
    lines, flat = outline(alpha, frames, at_most=MAX_LINES), flat_colour(rgb, alpha, frames)
    if len(lines.frame) < MIN_LINES:
        return None
    agreement = {lag: _agreement(_ends(rgb, lines, flat, lag=lag), RIMS) for lag in range(-farthest, farthest + 1) if lag}
    still = _ends(rgb, lines, flat, lag=0)
    agreement[0] = sum(_agreement(still[lines.frame == t], WIDE_RIMS) * np.mean(lines.frame == t) for t in np.unique(lines.frame))
    best = max(agreement, key=lambda lag: agreement[lag])
    if agreement[best] < MIN_AGREEMENT:
        return None
    late = best if agreement[best] >= MIN_GAIN * agreement[0] else 0
    return Measure(value=float(abs(late)), detail="ahead of" if late < 0 else "behind")


def _ends(rgb: Rgb, lines: Lines, flat: Int[np.ndarray, "3"] | None, *, lag: int) -> Positions:
    """The colour's ends at LAG beyond the matte's, on the lines whose frame has one that much earlier; infinity where there is none."""
    inside = lines.of((lines.frame - lag >= 0) & (lines.frame - lag < len(rgb)))
    return np.nan_to_num(colour_ends(rgb, inside, flat=flat, behind=lag), nan=np.inf)


def _agreement(beyond: Positions, rims: Float[np.ndarray, "R"]) -> float:
    """Share of the ends that lie one rim BEYOND the matte's, the largest over RIMS."""
    return float(closeness(beyond[:, None] - rims).mean(axis=0).max()) if len(beyond) else 0.0
