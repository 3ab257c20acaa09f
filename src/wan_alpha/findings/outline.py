"""Lines across a matte's outline, and where on them the matte and the colour end. Frames are (T, H, W[, 3]), 0..255."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from wan_alpha.findings.finding import Alpha, Rgb, evenly
from wan_alpha.media.colour_error import TO_YUV

LEVEL = 31.5
"""The outline: so low that soft edges end there too, so high that a codec's noise lies below it."""
REACH = 9
STEPS_PER_PIXEL = 4
SPAN = 6
"""Steps over which a change of colour is taken: 1.5 pixels."""
NORMAL_RADIUS = 3
MAX_FROM_POINT = 3.0
CLEAR_CHANGE, CLEAR_SHARE, SHARP = 10.0, 0.3, 2.0
LUMA_SUFFICES = 0.9
FLAT_SHARE, FLAT_LEVELS = 0.75, 2
FLAT_SAMPLE = 300_000
ALONG = np.arange(-REACH, REACH + 0.01, 1 / STEPS_PER_PIXEL, dtype=np.float32)

TOLERANCE = 0.5
LUMA = TO_YUV[0]

Positions = Float[np.ndarray, "N"]
Values = Float[np.ndarray, "N S"]


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Lines across the outline alpha = 31.5 of some frames: frame, start (down, across), outward unit normal and matte's end, N of each.

    Places on a line are pixels along the normal, from 9 inside the start to 9 outside, four to a pixel.
    """

    frame: Int[np.ndarray, "N"]
    start: Int[np.ndarray, "N 2"]
    normal: Float[np.ndarray, "N 2"]
    matte_end: Positions

    def of(self, chosen: Bool[np.ndarray, "N"]) -> "Lines":
        """The CHOSEN ones of them."""
        return Lines(frame=self.frame[chosen], start=self.start[chosen], normal=self.normal[chosen], matte_end=self.matte_end[chosen])

    def on(self, frames: Rgb | Alpha, *, behind: int = 0, measure: Callable[[np.ndarray], np.ndarray] = np.asarray) -> np.ndarray:
        """(N, S[, C]): what MEASURE makes of the pixels of FRAMES, each BEHIND the line's own, bilinear; their border goes on outside."""
        y, x = (self.start[:, axis, None] + ALONG * self.normal[:, axis, None] for axis in (0, 1))
        top, left = np.floor(y).astype(int), np.floor(x).astype(int)
        rows = [np.clip(top + step, 0, frames.shape[1] - 1) for step in (0, 1)]
        columns = [np.clip(left + step, 0, frames.shape[2] - 1) for step in (0, 1)]
        t = self.frame[:, None] - behind
        corners = [[measure(frames[t, row, column]) for column in columns] for row in rows]
        down, across = (part.reshape(part.shape + (1,) * (corners[0][0].ndim - 2)) for part in (y - top, x - left))
        upper, lower = ((1 - across) * left_one + across * right_one for left_one, right_one in corners)
        return np.asarray((1 - down) * upper + down * lower)


def outline(alpha: Alpha, frames: list[int], *, at_most: int = 2500) -> Lines:
    """AT_MOST so many lines of the chosen FRAMES, spread evenly, 9 pixels away from the frame's border, where the matte ends within 3."""
    chosen = alpha[frames]
    inside = chosen > LEVEL
    height, width = (side - REACH for side in inside.shape[1:])
    around = [inside[:, REACH + dy : height + dy, REACH + dx : width + dx] for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1))]
    points = np.argwhere(inside[:, REACH:height, REACH:width] & ~np.logical_and.reduce(around))
    t, y, x = evenly(points, at_most=at_most).T
    start = np.stack([y + REACH, x + REACH], axis=1)
    lines = Lines(frame=t, start=start, normal=_normals(chosen, t, start), matte_end=np.zeros(len(t)))
    end = _crossing(-lines.on(chosen), level=-LEVEL, near=lines.matte_end)
    lines = replace(lines, frame=np.array(frames, int)[t], matte_end=end)
    return lines.of(np.abs(end) <= MAX_FROM_POINT)


def colour_ends(rgb: Rgb, lines: Lines, *, flat: Int[np.ndarray, "3"] | None, behind: int = 0) -> Positions:
    """Where on each line the colour ends, in pixels beyond the matte's end; not a number where it does not.

    Where the hidden pixels have a FLAT colour (flat_colour), colour ends where that begins, to 2 levels, nearest to the matte's end.
    Else it ends at its outermost clear change: of 1.5 pixels, at least 10 levels and 30 % of the line's largest, which must be twice
    the line's mean, so that a smooth or bled colour has no end. Luma alone is used where it shows nine tenths of these ends: in 4:2:0
    video chroma may lie half a pixel beside luma, by the encoder's and the decoder's different ideas of its place, and no viewer sees
    that. The matte is BEHIND frames late.
    """
    if flat is None:
        return _outermost_change(lines.on(rgb, behind=behind)) - lines.matte_end
    hidden = lines.on(rgb, behind=behind, measure=lambda pixels: _is_near(pixels, flat).astype(np.float32))
    return _crossing(hidden, level=0.5, near=lines.matte_end) - lines.matte_end


def closeness(distance: np.ndarray) -> np.ndarray:
    """How well a place DISTANCE pixels off agrees: exp(-(distance / 0.5)^2)."""
    return np.exp(-((distance / TOLERANCE) ** 2))


def flat_colour(rgb: Rgb, alpha: Alpha, frames: list[int]) -> Int[np.ndarray, "3"] | None:
    """The one colour of the transparent pixels: their median, if 75 % lie within 2 levels of it."""
    step = 1 + alpha[0].size // FLAT_SAMPLE
    hidden = np.concatenate([rgb[t, ::step][alpha[t, ::step] == 0] for t in frames])
    if len(hidden) == 0:
        return None
    colour = np.rint(np.median(hidden, axis=0)).astype(int)
    return colour if np.mean(_is_near(hidden, colour)) >= FLAT_SHARE else None


def _is_near(pixels: UInt8[np.ndarray, "... 3"], colour: Int[np.ndarray, "3"]) -> Bool[np.ndarray, "..."]:
    """Where every channel lies within 2 levels of COLOUR's."""
    low, high = (np.clip(colour + step, 0, 255).astype(np.uint8) for step in (-FLAT_LEVELS, FLAT_LEVELS))
    within = (pixels >= low) & (pixels <= high)
    return np.asarray(within[..., 0] & within[..., 1] & within[..., 2])


def _normals(alpha: Alpha, t: Int[np.ndarray, "N"], start: Int[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 2"]:
    """Unit vectors (down, across) that point out of the matte: against the gradient of alpha, smoothed by a tent of 5 x 5."""
    square = np.arange(-NORMAL_RADIUS, NORMAL_RADIUS + 1)
    rows, columns = (start[:, axis, None] + square for axis in (0, 1))
    windows = alpha[t[:, None, None], rows[:, :, None], columns[:, None, :]].astype(np.float32)
    tent = np.array([0, 1, 2, 3, 2, 1, 0], np.float32)
    slope = np.convolve(tent[1:-1], np.array([1, 0, -1], np.float32))
    gradient = np.stack([np.einsum("nyx,y,x->n", windows, *kernels) for kernels in ((-slope, tent), (tent, -slope))], axis=1)
    return -gradient / np.maximum(np.linalg.norm(gradient, axis=1, keepdims=True), 1e-6)


def _crossing(values: Values, *, level: float, near: Positions) -> Positions:
    """Where VALUES rise through LEVEL on each line, to a fraction of a step, nearest to NEAR; not a number where they do not."""
    rises = (values[:, :-1] < level) & (values[:, 1:] >= level)
    steps = np.where(rises, values[:, 1:] - values[:, :-1], 1)
    places = ALONG[:-1] + (level - values[:, :-1]) / steps / STEPS_PER_PIXEL
    nearest = np.where(rises, np.abs(places - near[:, None]), np.inf).argmin(axis=1)
    lines = np.arange(len(values))
    return np.where(rises[lines, nearest], places[lines, nearest], np.nan)


def _outermost_change(colours: Float[np.ndarray, "N S 3"]) -> Positions:
    """Where each line has its outermost clear change, to a fraction of a step; not a number where it has none."""
    changes = [np.abs(values[:, SPAN:] - values[:, :-SPAN]).mean(axis=-1) for values in (colours, (colours @ LUMA)[..., None])]
    clear = [(change.max(axis=1) >= CLEAR_CHANGE) & (change.max(axis=1) >= SHARP * change.mean(axis=1)) for change in changes]
    chosen = int(clear[1].sum() >= LUMA_SUFFICES * clear[0].sum())
    change = (changes[chosen][:, 2:] + 2 * changes[chosen][:, 1:-1] + changes[chosen][:, :-2]) / 4
    middle = change[:, 1:-1]
    peaks = (middle >= change[:, :-2]) & (middle > change[:, 2:])
    peaks &= middle >= np.maximum(CLEAR_SHARE * middle.max(axis=1, keepdims=True), CLEAR_CHANGE)
    last = middle.shape[1] - 1 - peaks[:, ::-1].argmax(axis=1)
    lines = np.arange(len(change))
    before, here, after = (change[lines, last + step] for step in (0, 1, 2))
    part = 0.5 * (before - after) / np.minimum(before - 2 * here + after, -1e-6)
    places = ALONG[last + SPAN // 2 + 2] + np.clip(part, -1, 1) / STEPS_PER_PIXEL
    return np.where(peaks.any(axis=1) & clear[chosen], places, np.nan)
