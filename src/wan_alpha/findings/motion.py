"""Mattes that are late or early, that flicker, or whose edges boil. Arrays are 0..255, (T, H, W[, 3])."""

import numpy as np
from numpy.typing import NDArray

from wan_alpha.findings.filters import Floats, gradients, largest, smallest
from wan_alpha.findings.finding import Alpha, Measure, Rgb

MAX_LAG = 4
MAX_CONSECUTIVE = 33
VISIBLE_STEP = 8
MIN_AREA = 0.002
STILL = 12
SMALL = 256
MIN_SIDE = 0.1
CLEAR_CONTRAST = 1.4
"""Edges of colour count where they stand out by this factor: smooth or bled colour has none to compare."""
SURE = 4.0
"""Standard errors that chance hardly gives."""


def time_lag(rgb: Rgb, alpha: Alpha) -> Measure | None:
    """Frames between the matte and the colour: the lag at which the colour's edges stand out most along the matte's.

    Contrast at lag k is the mean of the colour's edges in frame t, weighted with the matte's in frame t + k, over their mean in all
    the places that the matte's edge passes; a lag needs 5 % more than none. It is taken along edges that appear and along those
    that go, and the mean counts: colour that ends a little outside the matte leads on one side and trails on the other.
    Frames are halved until a side is below 256 pixels. None for fewer than 13 frames, for what only grows or shrinks, and where
    colour has no edge along the matte.
    """
    if len(alpha) < 3 * MAX_LAG + 1:
        return None
    start = max(0, (len(alpha) - MAX_CONSECUTIVE) // 2)
    span = slice(start, start + MAX_CONSECUTIVE)
    values, pixels = _small(alpha[span][..., None])[..., 0], _small(rgb[span])
    matte, change = _edges(values[..., None]), np.gradient(values, axis=0)
    colour = _edges(pixels) * (matte.max(axis=0) > 0)
    sides = matte * (change > VISIBLE_STEP), matte * (change < -VISIBLE_STEP)
    if min(float(side.sum()) for side in sides) < MIN_SIDE * float(matte.sum()):
        return None
    lags = [lag for side in sides if (lag := _clear_lag(colour, side)) is not None]
    mean = sum(lags) / 2
    return Measure(value=abs(mean), detail="ahead of" if mean < 0 else "behind") if len(lags) == 2 else None


def _small(values: NDArray[np.uint8]) -> Floats:
    """Frames (T, H, W, C) as floats, by means of 2 x 2 pixels, until the smaller side is below 256 pixels."""
    small: Floats = values.astype(np.float32)
    while min(small.shape[1:3]) >= SMALL:
        even = small[:, : small.shape[1] // 2 * 2, : small.shape[2] // 2 * 2]
        small = (even[:, ::2, ::2] + even[:, 1::2, ::2] + even[:, ::2, 1::2] + even[:, 1::2, 1::2]) / 4
    return small


def _clear_lag(colour: Floats, matte: Floats) -> int | None:
    """The lag of the highest contrast, or 0 when none is clearly better than that; None without contrast at any."""
    passed = matte.max(axis=0) > 0
    background = float(colour[:, passed].mean()) if passed.any() else 0.0
    contrast = {lag: _contrast(colour, matte, lag=lag) / max(background, 1e-6) for lag in range(-MAX_LAG, MAX_LAG + 1)}
    best = max(contrast, key=lambda lag: contrast[lag])
    if contrast[best] < CLEAR_CONTRAST:
        return None
    return best if contrast[best] > 1.05 * contrast[0] else 0


def _edges(values: Floats) -> Floats:
    dy, dx = gradients(values)
    return np.sqrt((dy * dy + dx * dx).max(axis=-1))


def _contrast(colour: Floats, matte: Floats, *, lag: int) -> float:
    """Mean colour edge in frame t, weighted with the matte's edge in frame t + LAG."""
    count = len(colour) - abs(lag)
    c, m = colour[max(0, -lag) :][:count], matte[max(0, lag) :][:count]
    return float(np.sum(c * m) / max(1e-6, float(np.sum(m))))


def flicker(alpha: Alpha) -> Measure | None:
    """How much of the whole matte goes up and down from frame to frame; the largest of three shares.

    min(|d1|, |d2|, |d3|) / S, mean over time, where d1, d2, d3 are three steps in a row, of alternating sign, of the sum S of
    alpha; the same in clips that grow, shrink or change besides (_steady_flicker); and, at half weight, what a single frame has less
    than both of its neighbours.
    """
    if len(alpha) < 4:
        return None
    total = alpha.sum(axis=(1, 2), dtype=np.float64)
    least = 255 * MIN_AREA * alpha[0].size
    whole = _alternation(np.diff(total))
    lower = np.minimum(total[:-2], total[2:])
    dips = np.where(lower > least, (lower - total[1:-1]) / np.maximum(lower, 1), 0).clip(min=0)
    shares = float(whole.sum() / max(1.0, total[1:-2].sum())), _steady_flicker(np.maximum(total, least)), float(dips.max()) / 2
    frame = int((dips if shares[2] == max(shares) else whole).argmax()) + 1
    return Measure(value=max(shares), frame=frame)


def _steady_flicker(total: Floats) -> float:
    """Depth by which every other frame's sum S is weaker: |mean of (-1)^t e_t|, where e_t = log S_t - (log S_t-1 + log S_t+1) / 2 is free
    of steady growth. 0 unless it stands out of its own scatter (4 standard errors) in seven frames or more."""
    x = np.log(total)
    signed = (x[1:-1] - (x[:-2] + x[2:]) / 2) * (-1.0) ** np.arange(len(x) - 2)
    if len(signed) < 5:
        return 0.0
    # Of independent x, neighbours in this series correlate by 2/3 and 1/6: the variance of its mean is 1 + 2 (2/3 + 1/6) times as large.
    error = float(signed.std(ddof=1)) * (8 / 3 / len(signed)) ** 0.5
    depth = abs(float(signed.mean()))
    return depth if depth >= SURE * error else 0.0


def boiling(rgb: Rgb, alpha: Alpha) -> Measure | None:
    """How much of the matte's edges goes up and down, of those along which the colour stands still.

    Per pixel min(|d1|, |d2|, |d3|) of three alternating steps of alpha, of more than 8 levels each, summed, over the sum of the edges
    (3 x 3 maximum - minimum); both where no channel of the colour changes by more than 12 in these four frames. A passing edge
    reverses once, and fire or smoke changes colour with its alpha; an automatic matte does neither. 0 where a tenth of the edges, or
    less, has a colour that stands still.
    """
    if len(alpha) < 4:
        return None
    amount, still_edges, edges = np.zeros((3, len(alpha) - 3))
    for t in range(len(amount)):
        least = _alternation(np.diff(alpha[t : t + 4].astype(np.float32), axis=0))[0]
        edge = (largest(alpha[t + 1 : t + 2]).astype(np.float32) - smallest(alpha[t + 1 : t + 2]))[0]
        rows, columns = np.nonzero((edge > 0) | (least > VISIBLE_STEP))
        colour = rgb[t : t + 4, rows, columns].astype(np.int16)
        still = np.abs(np.diff(colour, axis=0)).max(axis=(0, -1), initial=0) <= STILL
        steps, sizes = least[rows, columns], edge[rows, columns]
        amount[t] = float(steps[still & (steps > VISIBLE_STEP)].sum())
        still_edges[t], edges[t] = float(sizes[still].sum()), float(sizes.sum())
    if still_edges.sum() <= MIN_SIDE * edges.sum():
        return Measure(value=0.0)
    return Measure(value=float(amount.sum() / max(1.0, still_edges.sum())), frame=int(amount.argmax()) + 1)


def _alternation(steps: Floats) -> Floats:
    """min(|d1|, |d2|, |d3|) where three steps in a row alternate in sign, else 0; along the first axis."""
    d1, d2, d3 = steps[:-2], steps[1:-1], steps[2:]
    least = np.minimum(np.minimum(np.abs(d1), np.abs(d2)), np.abs(d3))
    return np.where((d1 * d2 < 0) & (d2 * d3 < 0), least, 0)
