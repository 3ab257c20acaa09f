"""Mattes that are late or early, or whose edges boil. Arrays are 0..255, (T, H, W[, 3])."""

import numpy as np
from numpy.typing import NDArray

from wan_alpha.findings.filters import Floats, gradients, largest, smallest
from wan_alpha.findings.finding import Alpha, Measure, Rgb
from wan_alpha.findings.flicker import alternation

MAX_LAG = 4
"""Frames, and at most a third of a short clip's steps."""
MAX_CONSECUTIVE = 33
VISIBLE_STEP = 8
STILL = 12
SMALL = 256
MIN_SIDE = 0.1
CLEAR_CONTRAST = 1.4
"""Edges of colour count where they stand out by this factor: smooth or bled colour has none to compare."""
MAX_SPREAD = 2
"""Frames between the lags of edges that appear and of those that go: more, and they do not follow one matte."""


def time_lag(rgb: Rgb, alpha: Alpha) -> Measure | None:
    """Frames between the matte and the colour: the lag at which the colour's edges stand out most along the matte's.

    Contrast at lag k is the mean of the colour's edges in frame t, weighted with the matte's in frame t + k, over their mean in all
    the places that the matte's edge passes; a lag needs 5 % more than none. It is taken along edges that appear and along those
    that go, and the mean counts: colour that ends a little outside the matte leads on one side and trails on the other.
    Frames are halved until a side is below 256 pixels. None for fewer than 7 frames, for what only grows or shrinks, where
    colour has no edge along the matte, and where the two lags are more than two frames apart.
    """
    farthest = min(MAX_LAG, (len(alpha) - 1) // 3)
    if farthest < 2:
        return None
    start = max(0, (len(alpha) - MAX_CONSECUTIVE) // 2)
    span = slice(start, start + MAX_CONSECUTIVE)
    values, pixels = _small(alpha[span][..., None])[..., 0], _small(rgb[span])
    matte, change = _edges(values[..., None]), np.gradient(values, axis=0)
    colour = _edges(pixels) * (matte.max(axis=0) > 0)
    sides = matte * (change > VISIBLE_STEP), matte * (change < -VISIBLE_STEP)
    if min(float(side.sum()) for side in sides) < MIN_SIDE * float(matte.sum()):
        return None
    lags = [lag for side in sides if (lag := _clear_lag(colour, side, farthest=farthest)) is not None]
    if len(lags) < 2 or abs(lags[0] - lags[1]) > MAX_SPREAD:
        return None
    mean = sum(lags) / 2
    return Measure(value=abs(mean), detail="ahead of" if mean < 0 else "behind")


def _small(values: NDArray[np.uint8]) -> Floats:
    """Frames (T, H, W, C) as floats, by means of 2 x 2 pixels, until the smaller side is below 256 pixels."""
    small: Floats = values.astype(np.float32)
    while min(small.shape[1:3]) >= SMALL:
        even = small[:, : small.shape[1] // 2 * 2, : small.shape[2] // 2 * 2]
        small = (even[:, ::2, ::2] + even[:, 1::2, ::2] + even[:, ::2, 1::2] + even[:, 1::2, 1::2]) / 4
    return small


def _clear_lag(colour: Floats, matte: Floats, *, farthest: int) -> int | None:
    """The lag of the highest contrast, or 0 when none is clearly better than that; None without contrast at any."""
    passed = matte.max(axis=0) > 0
    background = float(colour[:, passed].mean()) if passed.any() else 0.0
    contrast = {lag: _contrast(colour, matte, lag=lag) / max(background, 1e-6) for lag in range(-farthest, farthest + 1)}
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
        least = alternation(np.diff(alpha[t : t + 4].astype(np.float32), axis=0))[0]
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
