"""Colour and matte that do not belong together in space or time, and mattes that flicker."""

import numpy as np
from numpy.typing import NDArray

from wan_alpha.findings.filters import Floats, gradients, largest, smallest
from wan_alpha.findings.finding import Alpha, Measure, Rgb, sampled

MAX_SHIFT = 8
MAX_LAG = 4
MAX_CONSECUTIVE = 33
VISIBLE_STEP = 8
MIN_AREA = 0.002
STILL = 12
SMALL = 256
MIN_SIDE = 0.1
MAX_DISAGREEMENT = 3
FINE = 3
CLEAR_CONTRAST = 1.4
CLEAR_PEAK = 2.4
"""A correlation peak counts when it exceeds the mean of its curve by this factor: smooth or bled colour has no edge to compare."""


def space_shift(rgb: Rgb, alpha: Alpha) -> Measure | None:
    """Distance in pixels by which the matte's edges lie beside the colour's.

    First the whole pixels, up to 8 each way: the peak of the correlation of gradient sizes. From there, along each axis, the colour's
    gradient is correlated with the matte's rising and with its falling gradient, with a parabola through each peak. Colour that
    merely ends outside or inside the matte moves the two peaks in opposite directions and cancels in their mean; a shift moves
    both alike. None where the colour has no edge along the matte (a smooth or bled colour).
    """
    frames = sampled(len(alpha))
    matte = gradients(alpha[frames].astype(np.float32))
    colour = [np.abs(d).max(axis=-1) for d in gradients(rgb[frames].astype(np.float32))]
    coarse = _coarse_shift(np.hypot(*colour), np.hypot(*matte))
    if coarse is None:
        return None
    shift = []
    for axis, (dc, da) in enumerate(zip(colour, matte, strict=True)):
        moved = np.roll(da, coarse, axis=(1, 2))
        peaks = [_fine_shift(dc, np.maximum(sign * moved, 0), axis=axis + 1) for sign in (1, -1)]
        agreed = [peak for peak in peaks if peak is not None]
        if len(agreed) < 2 or abs(agreed[0] - agreed[1]) > MAX_DISAGREEMENT:
            return None
        shift.append(coarse[axis] + sum(agreed) / 2)
    return Measure(value=float(np.hypot(shift[0], shift[1])), detail=f"{-shift[1]:+.1f} px across, {-shift[0]:+.1f} px down")


def _coarse_shift(colour: Floats, matte: Floats) -> tuple[int, int] | None:
    """Whole pixels (down, across) by which the matte has to move onto the colour's edges; None without a clear peak."""
    pad = [(0, 0), (0, MAX_SHIFT), (0, MAX_SHIFT)]
    spectrum = np.fft.rfft2(np.pad(colour, pad)) * np.conj(np.fft.rfft2(np.pad(matte, pad)))
    both = np.fft.irfft2(spectrum.sum(axis=0), s=(colour.shape[1] + MAX_SHIFT, colour.shape[2] + MAX_SHIFT))
    steps = np.arange(-MAX_SHIFT, MAX_SHIFT + 1)
    surface = both[np.ix_(steps, steps)]
    down, across = np.unravel_index(int(surface.argmax()), surface.shape)
    clear = surface.max() >= CLEAR_PEAK * surface.mean() and surface.max() > 0
    return (int(steps[down]), int(steps[across])) if clear else None


def _fine_shift(colour: Floats, matte: Floats, *, axis: int) -> float | None:
    """The shift within 3 pixels along one axis at which the two agree best, to a fraction; None when it lies outside."""
    steps = range(-FINE, FINE + 1)
    curve = [float(np.sum(np.roll(colour, -step, axis=axis) * matte)) for step in steps]
    best = int(np.argmax(curve))
    if not 0 < best < len(curve) - 1:
        return None
    before, here, after = curve[best - 1 : best + 2]
    return steps[best] + 0.5 * (before - after) / min(before - 2 * here + after, -1e-12)


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
    """How much of the whole matte goes up and down from frame to frame; the larger of two shares.

    min(|d1|, |d2|, |d3|) / S, mean over time, where d1, d2, d3 are three steps in a row, of alternating sign, of the sum S of
    alpha; and, at half weight, what a single frame has less than both of its neighbours.
    """
    if len(alpha) < 4:
        return None
    total = alpha.sum(axis=(1, 2), dtype=np.float64)
    whole = _alternation(np.diff(total))
    lower = np.minimum(total[:-2], total[2:])
    dips = np.where(lower > 255 * MIN_AREA * alpha[0].size, (lower - total[1:-1]) / np.maximum(lower, 1), 0).clip(min=0)
    shares = float(whole.sum() / max(1.0, total[1:-2].sum())), float(dips.max()) / 2
    frame = int((whole if shares[0] > shares[1] else dips).argmax()) + 1
    return Measure(value=max(shares), frame=frame)


def boiling(rgb: Rgb, alpha: Alpha) -> Measure | None:
    """How much of the matte's edges goes up and down while the colour stands still.

    Per pixel min(|d1|, |d2|, |d3|) of three alternating steps of alpha, of more than 8 levels each, where no channel of the colour
    changes by more than 12; summed, over the sum of the edges (3 x 3 maximum - minimum). A passing edge reverses once, and fire or
    smoke changes colour with its alpha; an automatic matte does neither.
    """
    if len(alpha) < 4:
        return None
    amount = np.zeros(len(alpha) - 3)
    for t in range(len(amount)):
        least = _alternation(np.diff(alpha[t : t + 4].astype(np.float32), axis=0))[0]
        rows, columns = np.nonzero(least > VISIBLE_STEP)
        colour = rgb[t : t + 4, rows, columns].astype(np.int16)
        still = np.abs(np.diff(colour, axis=0)).max(axis=(0, -1), initial=0) <= STILL
        amount[t] = float(least[rows[still], columns[still]].sum())
    if not amount.any():
        return Measure(value=0.0)
    frames = sampled(len(alpha) - 3)
    inner = alpha[1:-2][frames]
    edges = float((largest(inner).astype(np.int16) - smallest(inner)).sum()) * len(amount) / len(frames)
    return Measure(value=float(amount.sum() / max(1.0, edges)), frame=int(amount.argmax()) + 1)


def _alternation(steps: Floats) -> Floats:
    """min(|d1|, |d2|, |d3|) where three steps in a row alternate in sign, else 0; along the first axis."""
    d1, d2, d3 = steps[:-2], steps[1:-1], steps[2:]
    least = np.minimum(np.minimum(np.abs(d1), np.abs(d2)), np.abs(d3))
    return np.where((d1 * d2 < 0) & (d2 * d3 < 0), least, 0)
