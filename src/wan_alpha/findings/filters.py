"""Small neighbourhoods of whole clips: extremes, medians, sums. Frames are (T, H, W); the border repeats the outermost pixels."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from wan_alpha.findings.finding import Alpha

Floats = NDArray[np.floating]


def largest(alpha: Alpha, *, size: int = 3) -> Alpha:
    """Largest value of each SIZE x SIZE neighbourhood."""
    return _filter(alpha, ImageFilter.MaxFilter(size))


def smallest(alpha: Alpha, *, size: int = 3) -> Alpha:
    return _filter(alpha, ImageFilter.MinFilter(size))


def median(alpha: Alpha, *, size: int = 3) -> Alpha:
    return _filter(alpha, ImageFilter.MedianFilter(size))


def box_sum(values: Floats, *, radius: int) -> Floats:
    """Sum over (2 RADIUS + 1)^2 pixels around each, zeros outside. values: (T, H, W) or (T, H, W, C)."""
    for axis in (1, 2):
        pad = [(0, 0)] * values.ndim
        pad[axis] = (radius + 1, radius)
        running = np.cumsum(np.pad(values, pad), axis=axis, dtype=np.float64)
        width = 2 * radius + 1
        length = running.shape[axis]
        values = np.take(running, range(width, length), axis=axis) - np.take(running, range(length - width), axis=axis)
    return values


def gradients(values: Floats) -> tuple[Floats, Floats]:
    """Central differences along height and width, (T, H, W[, C]) each; 0 on the border lines."""
    dy, dx = np.zeros_like(values), np.zeros_like(values)
    dy[:, 1:-1] = (values[:, 2:] - values[:, :-2]) / 2
    dx[:, :, 1:-1] = (values[:, :, 2:] - values[:, :, :-2]) / 2
    return dy, dx


def _filter(alpha: Alpha, kind: ImageFilter.Filter) -> Alpha:
    return np.stack([np.asarray(Image.fromarray(np.ascontiguousarray(frame)).filter(kind)) for frame in alpha])
