"""The matte's edges beside the colour's: how far, to a fraction of a pixel. Arrays are 0..255, (T, H, W[, 3])."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wan_alpha.findings.colour_line import edge_shift
from wan_alpha.findings.filters import Floats, gradients
from wan_alpha.findings.finding import Alpha, Measure, Rgb, sampled

MAX_SHIFT = 8
FINE = 3
MAX_DISAGREEMENT = 3
COARSE_ERROR, MAX_EXACT = 0.6, 5
CLEAR_PEAK = 2.4
"""A correlation peak counts when it exceeds the mean of its curve by this factor: smooth or bled colour has no edge to compare."""
SURE_PEAK, FAR_PEAK = (45.0, 2.0), (25.0, 1.5)
"""A phase correlation's, when it is so many standard deviations high, and so many times as high as all that is not beside it. Strands of
hair gave 57 and more, all else 28 and less. A body lit from one side gives 28 to 41, up to 1.5 pixels off its place: enough from two on."""
FAR = 2.0


def space_shift(rgb: Rgb, alpha: Alpha) -> Measure | None:
    """Distance in pixels by which the matte's edges lie beside the colour's.

    First the whole pixels, up to 8 each way: the peak of the correlation of gradient sizes. From there, along each axis, the colour's
    gradient is correlated with the matte's rising and with its falling gradient, with a parabola through each peak. Colour that
    merely ends outside or inside the matte moves the two peaks in opposite directions and cancels in their mean; a shift moves
    both alike. Where strands and texture leave no clear peak, the phases alone may still have one, in whole pixels. The rest is measured
    by `edge_shift`; where that says nothing, distances below 0.6 pixels, the error of the correlation, count as none. None where the
    colour has no edge along the matte (a smooth or bled colour).
    """
    frames = sampled(len(alpha))
    coarse = _correlated_shift(rgb[frames], alpha[frames])
    whole = (0, 0) if coarse is None else (int(coarse[0]), int(coarse[1]))
    few = sampled(len(alpha), at_most=MAX_EXACT)
    rest = edge_shift(rgb[few], np.roll(alpha[few], whole, axis=(1, 2)))
    if rest is not None:
        down, across = whole[0] + rest[0], whole[1] + rest[1]
    elif coarse is None:
        return None
    else:
        down, across = coarse if np.hypot(*coarse) >= COARSE_ERROR else (0.0, 0.0)
    distance = float(np.hypot(down, across))
    return Measure(value=distance, detail=f"{-across:+.1f} px across, {-down:+.1f} px down")


def _correlated_shift(rgb: Rgb, alpha: Alpha) -> tuple[float, float] | None:
    """(down, across) from the correlation of gradients, or of phases."""
    matte = gradients(alpha.astype(np.float32))
    colour = [np.abs(d).max(axis=-1) for d in gradients(rgb.astype(np.float32))]
    spectrum = _cross_spectrum(np.hypot(*colour), np.hypot(*matte))
    return _shift_of_edges(colour, matte, _coarse_shift(spectrum, alpha.shape[1:])) or _phase_shift(spectrum, alpha.shape[1:])


def _shift_of_edges(colour: Sequence[Floats], matte: Sequence[Floats], coarse: tuple[int, int] | None) -> tuple[float, float] | None:
    """To a fraction of a pixel, (down, across), from a clear peak in whole pixels; None where rising and falling edges disagree."""
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
    return shift[0], shift[1]


def _cross_spectrum(colour: Floats, matte: Floats) -> NDArray[np.complexfloating]:
    """Of two series of frames, padded by the largest shift and summed over time."""
    pad = [(0, 0), (0, MAX_SHIFT), (0, MAX_SHIFT)]
    return (np.fft.rfft2(np.pad(colour, pad)) * np.conj(np.fft.rfft2(np.pad(matte, pad)))).sum(axis=0)


def _surface(spectrum: NDArray[np.complexfloating], size: tuple[int, ...]) -> tuple[Floats, Floats]:
    """The correlation at all shifts, and at those of up to 8 pixels each way."""
    both = np.fft.irfft2(spectrum, s=(size[0] + MAX_SHIFT, size[1] + MAX_SHIFT))
    steps = np.arange(-MAX_SHIFT, MAX_SHIFT + 1)
    return both, both[np.ix_(steps, steps)]


def _coarse_shift(spectrum: NDArray[np.complexfloating], size: tuple[int, ...]) -> tuple[int, int] | None:
    """Whole pixels (down, across) by which the matte has to move onto the colour's edges; None without a clear peak."""
    _, surface = _surface(spectrum, size)
    down, across = np.unravel_index(int(surface.argmax()), surface.shape)
    clear = surface.max() >= CLEAR_PEAK * surface.mean() and surface.max() > 0
    return (int(down) - MAX_SHIFT, int(across) - MAX_SHIFT) if clear else None


def _phase_shift(spectrum: NDArray[np.complexfloating], size: tuple[int, ...]) -> tuple[float, float] | None:
    """Whole pixels (down, across) at the peak of the phase correlation (Kuglin and Hines 1975: every frequency counts alike).

    It must be a sure one, or lie two pixels off and more. Colour that ends outside the matte all around has a ring of peaks: none.
    """
    sizes = np.abs(spectrum)
    both, surface = _surface(spectrum / np.maximum(sizes, 1e-3 * sizes.max() + 1e-9), size)
    down, across = (int(i) for i in np.unravel_index(int(surface.argmax()), surface.shape))
    peak, others = float(surface[down, across]), surface.copy()
    others[max(0, down - 1) : down + 2, max(0, across - 1) : across + 2] = 0
    shift = float(down - MAX_SHIFT), float(across - MAX_SHIFT)
    height, lead = FAR_PEAK if np.hypot(*shift) >= FAR else SURE_PEAK
    return shift if peak > 0 and peak >= height * float(both.std()) and peak >= lead * float(others.max()) else None


def _fine_shift(colour: Floats, matte: Floats, *, axis: int) -> float | None:
    """The shift within 3 pixels along one axis at which the two agree best, to a fraction; None when it lies outside."""
    steps = range(-FINE, FINE + 1)
    curve = [float(np.sum(np.roll(colour, -step, axis=axis) * matte)) for step in steps]
    best = int(np.argmax(curve))
    if not 0 < best < len(curve) - 1:
        return None
    before, here, after = curve[best - 1 : best + 2]
    return steps[best] + 0.5 * (before - after) / min(before - 2 * here + after, -1e-12)
