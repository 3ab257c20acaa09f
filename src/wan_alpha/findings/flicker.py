"""Mattes that flicker: as a whole, frame by frame. Alpha is 0..255, (T, H, W)."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from wan_alpha.findings.filters import Floats
from wan_alpha.findings.finding import TRANSPARENT, Alpha, Measure

MIN_AREA = 0.002
MIN_COMMON = 0.5
"""Share of all change in alpha that has one direction: less is another picture, not another strength."""
SURE = 4.0
"""Standard errors that chance hardly gives."""
PERCENTILES = (0.99, 0.9)
MIN_SHOWN = 8
"""Frames that show something: in fewer, an effect that comes and goes looks like irregular flicker."""
DEPTH_OF_MEAN = 2 / (0.798 * 20**0.5 / 4)
"""Two standard deviations of independent gains, as a steady flicker of that depth has, over the mean of their absolute third difference:
that has sqrt(1 + 9 + 9 + 1) / 4 of their standard deviation, and a normal variable's mean is 0.798 of it."""


def flicker(alpha: Alpha) -> Measure | None:
    """How much of the whole matte goes up and down from frame to frame; the largest of three kinds of shares.

    Series x tell it: the sum S of alpha and its levels P and Q, the 99th and 90th percentile of what is visible. Flicker scales all
    three; content that moves, grows or bursts changes S much and P little, and not in the same way.
    1. min(|d1|, |d2|, |d3|) / S, mean over time, of three steps of S in a row, of alternating sign.
    2. What a single frame has less than both of its neighbours (_dips), of S and P, whichever is less.
    3. The steady rhythm of S or P, in clips that grow, shrink or change besides (_steady_flicker); without one, what
       S, P and Q have in common of changes without any (_irregular_flicker).
    In 1 a step of S counts where at least half of all change has its direction, |sum of d| >= sum of |d| / 2: where every frame
    is another picture, sums go up and down too. Where it is so before and after a frame, P alone is enough in 2.
    """
    if len(alpha) < 4:
        return None
    total, levels = alpha.sum(axis=(1, 2), dtype=np.float64), _levels(alpha)
    common = _is_common(alpha, np.diff(total))
    whole = alternation(np.diff(total) * common)
    series = np.stack([np.maximum(total, 255 * MIN_AREA * alpha[0].size), *np.maximum(levels, TRANSPARENT)])
    low, low_level = _dips(series[0]), _dips(series[1])
    dips = np.maximum(np.minimum(low, low_level), low_level * (common[:-1] & common[1:]))
    steady = max(_steady_flicker(series[0]), _steady_flicker(series[1]))
    irregular = _irregular_flicker(series, shown=levels[0] > 0)
    shares = [(whole.sum() / max(1.0, total[1:-2].sum()), whole), (dips.max(), dips)]
    shares.append((steady, whole) if steady else irregular)
    value, by_frame = max(shares, key=lambda share: share[0])
    return Measure(value=float(value), frame=int(by_frame.argmax()) + 1)


def alternation(steps: Floats) -> Floats:
    """min(|d1|, |d2|, |d3|) where three steps in a row alternate in sign, else 0; along the first axis."""
    d1, d2, d3 = steps[:-2], steps[1:-1], steps[2:]
    least = np.minimum(np.minimum(np.abs(d1), np.abs(d2)), np.abs(d3))
    return np.where((d1 * d2 < 0) & (d2 * d3 < 0), least, 0)


def _dips(series: Floats) -> Floats:
    """(T - 2,): the share by which x_t is below both neighbours, d = 1 - x_t / min(x_t-1, x_t+1); half of it, or what it is beyond the
    difference between the two, which content makes."""
    before, after = series[:-2], series[2:]
    low = np.minimum(before, after)
    depth, content = 1 - series[1:-1] / low, np.abs(after - before) / low
    return np.maximum(depth / 2, depth - content).clip(min=0)


def _levels(alpha: Alpha) -> Floats:
    """(2, T): 99th and 90th percentile of each frame's visible levels (alpha > 8); 0 where less than 0.2 % of the frame is visible."""
    levels = np.zeros((len(PERCENTILES), len(alpha)))
    for t, frame in enumerate(alpha):
        counts = np.bincount(frame.ravel(), minlength=256)
        counts[: TRANSPARENT + 1] = 0
        if counts.sum() >= MIN_AREA * frame.size:
            levels[:, t] = np.searchsorted(np.cumsum(counts), np.array(PERCENTILES) * counts.sum())
    return levels


def _is_common(alpha: Alpha, net: Floats) -> NDArray[np.bool_]:
    """(T - 1,): whether at least half of all change between two frames has the direction of its sum NET."""
    gross = [np.abs(after.astype(np.int16) - before).sum(dtype=np.float64) for before, after in pairwise(alpha)]
    return np.abs(net) >= MIN_COMMON * np.array(gross)


def _steady_flicker(series: Floats) -> float:
    """Depth by which every other frame of a series S is weaker: |mean of (-1)^t e_t|, e_t = log S_t - (log S_t-1 + log S_t+1) / 2 free
    of steady growth. 0 unless it stands out of its own scatter (4 standard errors) in seven frames or more."""
    x = np.log(series)
    signed = (x[1:-1] - (x[:-2] + x[2:]) / 2) * (-1.0) ** np.arange(len(x) - 2)
    if len(signed) < 5:
        return 0.0
    # Of independent x, neighbours in this series correlate by 2/3 and 1/6: the variance of its mean is 1 + 2 (2/3 + 1/6) times as large.
    error = float(signed.std(ddof=1)) * (8 / 3 / len(signed)) ** 0.5
    depth = abs(float(signed.mean()))
    return depth if depth >= SURE * error else 0.0


def _irregular_flicker(series: Floats, *, shown: NDArray[np.bool_]) -> tuple[float, Floats]:
    """Depth of a gain that has no rhythm, and that all of SERIES (N, T) have in common, as a share; and (T - 3,) where it is.

    g = min |d| of third differences d = (x_t - 3 x_t+1 + 3 x_t+2 - x_t+3) / 4, over all series, of x / mean of the four and of log x; 0
    where their signs differ. What moves, grows or fades does so smoothly over four frames, in levels or in proportion. The depth is
    1 - exp(-DEPTH_OF_MEAN mean(g)), from the first frame SHOWN to the last; 0 where fewer than 8 frames are shown.
    """
    frames, gain = np.flatnonzero(shown), np.zeros(series.shape[1] - 3)
    if len(frames) < MIN_SHOWN:
        return 0.0, gain
    x = series[:, frames[0] : frames[-1] + 1]
    mean = (x[:, :-3] + x[:, 1:-2] + x[:, 2:-1] + x[:, 3:]) / 4
    differences = np.concatenate([_third_difference(np.log(x)), _third_difference(x) / mean])
    same_sign = (differences > 0).all(axis=0) | (differences < 0).all(axis=0)
    within = gain[frames[0] :][: mean.shape[1]]
    within[:] = np.abs(differences).min(axis=0) * same_sign
    return float(-np.expm1(-DEPTH_OF_MEAN * within.mean())), gain


def _third_difference(x: Floats) -> Floats:
    return (x[:, :-3] - 3 * x[:, 1:-2] + 3 * x[:, 2:-1] - x[:, 3:]) / 4
