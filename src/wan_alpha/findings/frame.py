"""Bars around the picture, held frames, cuts, lengths and rates. Colour is (T, H, W, 3), alpha (T, H, W), 0..255."""

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray

from wan_alpha.findings.filters import brightest
from wan_alpha.findings.finding import OPAQUE, Alpha, Measure, Rgb, sampled

BLACK = 20
GRID = 16
CUT = 0.25
"""A cut changes the coarse picture by a quarter of its own mean level, and by 2.5 times what its neighbours change."""


def letterbox_share(rgb: Rgb, alpha: Alpha) -> Measure:
    """Share of height (or width) taken by two bars of equal depth, at top and bottom (or left and right).

    A bar is a run of outer lines that are black (every channel at most 20) in every frame; the next line is not, over more than 60 %
    of its length in most frames. Black under solid alpha counts apart from black in general, for the picture behind may end in black
    too. Depths differ by at most 2 lines and are at least 2.
    """
    frames = sampled(len(alpha))
    black = brightest(rgb[frames]) <= BLACK
    shares = []
    for state in (black, black & (alpha[frames] >= OPAQUE)):
        for lines, side in ((state, "top and bottom"), (state.transpose(0, 2, 1), "left and right")):
            depths = _bar_depth(lines), _bar_depth(lines[:, ::-1])
            equal = min(depths) >= 2 and abs(depths[0] - depths[1]) <= 2
            shares.append((sum(depths) / lines.shape[1] if equal else 0.0, side))
    share, side = max(shares)
    return Measure(value=share, detail=side)


def _bar_depth(state: NDArray[np.bool_]) -> int:
    """Outer lines of (T, lines, length) that are all in the state, if the line after them is not over 60 % of its length; else 0."""
    whole = state.all(axis=(0, 2))
    depth = int(np.argmin(whole)) if not whole.all() else 0
    return depth if depth and np.median((~state[:, depth]).mean(axis=1)) > 0.6 else 0


def held_share(rgb: Rgb, alpha: Alpha) -> Measure:
    """Share of frames that equal the frame before, in clips that move (a still clip, or one that only ends still, gives 0).

    Equal: colour * alpha and alpha differ by less than half a level on average. Frames after the last change do not count.
    """
    same = np.array([_difference(rgb, alpha, t) < 0.5 for t in range(1, len(alpha))], bool)
    moving = np.nonzero(~same)[0]
    if len(moving) < 2:
        return Measure(value=0.0)
    inside = same[moving[0] : moving[-1] + 1]
    first = int(moving[0] + np.argmax(inside)) + 1 if inside.any() else None
    return Measure(value=float(inside.mean()), frame=first)


def _difference(rgb: Rgb, alpha: Alpha, t: int) -> float:
    """Mean absolute difference of alpha, or of colour where both frames are visible, whichever is larger, over what is visible."""
    visible = (alpha[t] > 0) | (alpha[t - 1] > 0)
    if not visible.any():
        return 0.0
    step = np.abs(alpha[t].astype(np.int16) - alpha[t - 1])[visible].mean()
    both = (alpha[t] > 0) & (alpha[t - 1] > 0)
    colour = np.abs(rgb[t].astype(np.int16) - rgb[t - 1])[both].mean() if both.any() else 0.0
    return float(max(step, colour))


def scene_cuts(rgb: Rgb, alpha: Alpha) -> list[int]:
    """Frames at which a new scene begins: the coarse picture (16 x 16 means of colour * alpha, and of alpha) changes by more than a
    quarter of its mean level, and by 2.5 times the larger of the changes before and after."""
    coarse = np.stack([thumb(c, a, grid=GRID) for c, a in zip(rgb, alpha, strict=True)])
    change = np.abs(np.diff(coarse, axis=0)).mean(axis=(1, 2, 3))
    level = np.maximum(coarse[1:].mean(axis=(1, 2, 3)), coarse[:-1].mean(axis=(1, 2, 3)))
    padded = np.pad(change, 1)
    around = np.maximum(padded[:-2], padded[2:])
    return [int(t) + 1 for t in np.nonzero((change > CUT * np.maximum(level, 4)) & (change > 2.5 * around))[0]]


def thumb(rgb: UInt8[np.ndarray, "H W 3"], alpha: UInt8[np.ndarray, "H W"], *, grid: int) -> Float[np.ndarray, "G G 4"]:
    """Means over a GRID x GRID grid of the premultiplied colour and of alpha, in levels; pixels repeat where the frame is smaller."""
    values = np.dstack([rgb * (alpha[..., None] / np.float32(255)), alpha.astype(np.float32)])
    for axis in (0, 1):
        size = values.shape[axis]
        values = np.repeat(values, -(-grid // size), axis=axis)
        edges = np.linspace(0, values.shape[axis], grid + 1).astype(int)
        values = np.add.reduceat(values, edges[:-1], axis=axis) / np.diff(edges).reshape([-1 if k == axis else 1 for k in range(3)])
    return values


def missing_frames(num_frames: int, *, wanted: int) -> Measure:
    """How many frames a clip is short of a training window. None are missing to a still, which training pans over or takes as it is."""
    return Measure(value=float(max(0, wanted - num_frames)) if num_frames > 1 else 0.0, detail=f"{num_frames} frames")


def rate_spread(times: tuple[float, ...] | None) -> Measure | None:
    """The longest time from a frame to the next over the shortest, of frames that begin at TIMES (s); None for a constant rate."""
    if times is None or len(times) < 2:
        return None
    gaps = np.diff(times)
    shortest, longest = max(float(gaps.min()), 1e-6), float(gaps.max())
    return Measure(value=longest / shortest, frame=int(gaps.argmax()), detail=f"{1000 * shortest:.0f} to {1000 * longest:.0f} ms")


def rate_error(fps: float, *, wanted: float) -> Measure:
    """Relative difference of frame rates, |fps - wanted| / wanted."""
    return Measure(value=abs(fps - wanted) / wanted, detail=f"{fps:g} frames per second")
