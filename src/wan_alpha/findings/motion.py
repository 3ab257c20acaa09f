"""Mattes that are late or early, that flicker, or whose edges boil. Arrays are 0..255, (T, H, W[, 3])."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from wan_alpha.findings.filters import Floats, gradients, largest, smallest
from wan_alpha.findings.finding import TRANSPARENT, Alpha, Measure, Rgb

MAX_LAG = 4
MAX_CONSECUTIVE = 33
VISIBLE_STEP = 8
MIN_AREA = 0.002
STILL = 12
SMALL = 256
MIN_SIDE = 0.1
CLEAR_CONTRAST = 1.4
"""Edges of colour count where they stand out by this factor: smooth or bled colour has none to compare."""
MIN_COMMON = 0.5
"""Share of all change in alpha that has one direction: less is another picture, not another strength."""
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
    """How much of the whole matte goes up and down from frame to frame; the largest of three kinds of shares.

    Two series x tell it, the sum S of alpha and its level P, the 99th percentile of what is visible. Flicker scales both; content that
    moves, grows or bursts changes S much and P little.
    1. min(|d1|, |d2|, |d3|) / S, mean over time, of three steps of S in a row, of alternating sign.
    2. What a single frame's x has less than both of its neighbours (_dips).
    3. The steady rhythm of x, in clips that grow, shrink or change besides (_steady_flicker).
    In 1 and 2 a step of S counts where at least half of all change has its direction, |sum of d| >= sum of |d| / 2: where every frame
    is another picture, sums go up and down too.
    """
    if len(alpha) < 4:
        return None
    total, level = alpha.sum(axis=(1, 2), dtype=np.float64), _level(alpha)
    least = 255 * MIN_AREA * alpha[0].size
    common = _is_common(alpha, np.diff(total))
    whole = _alternation(np.diff(total) * common)
    dips = np.maximum(_dips(np.maximum(total, least)) * (common[:-1] & common[1:]), _dips(np.maximum(level, TRANSPARENT)))
    steady = max(_steady_flicker(np.maximum(total, least)), _steady_flicker(np.maximum(level, TRANSPARENT)))
    shares = [(whole.sum() / max(1.0, total[1:-2].sum()), whole), (dips.max(), dips), (steady, whole)]
    value, by_frame = max(shares, key=lambda share: share[0])
    return Measure(value=float(value), frame=int(by_frame.argmax()) + 1)


def _dips(series: Floats) -> Floats:
    """(T - 2,): the share by which x_t is below both neighbours, d = 1 - x_t / min(x_t-1, x_t+1); half of it, or what it is beyond the
    difference between the two, which content makes."""
    before, after = series[:-2], series[2:]
    low = np.minimum(before, after)
    depth, content = 1 - series[1:-1] / low, np.abs(after - before) / low
    return np.maximum(depth / 2, depth - content).clip(min=0)


def _level(alpha: Alpha) -> Floats:
    """(T,): 99th percentile of each frame's visible levels (alpha > 8); 0 where less than 0.2 % of the frame is visible."""
    levels = np.zeros(len(alpha))
    for t, frame in enumerate(alpha):
        counts = np.bincount(frame.ravel(), minlength=256)
        counts[: TRANSPARENT + 1] = 0
        if counts.sum() >= MIN_AREA * frame.size:
            levels[t] = np.searchsorted(np.cumsum(counts), 0.99 * counts.sum())
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
