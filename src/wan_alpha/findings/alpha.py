"""What can be wrong with a matte. Alpha is (T, H, W), 0..255; every measure grows with the fault."""

import numpy as np

from wan_alpha.findings.coding import was_coded
from wan_alpha.findings.filters import largest, median, smallest
from wan_alpha.findings.finding import OPAQUE, TRANSPARENT, Alpha, Measure, sampled

MIN_EDGE_PIXELS, EDGE_SPAN = 32, 224
NEAR = 12
"""Levels this close to 0 or 255 are where a codec's noise lives."""
LITTLE_NOISE = 0.002
DRAWN_SHARE, DRAWN_SPAN = 0.15, 64


def opaque_share(alpha: Alpha) -> Measure:
    """Share of solid pixels in the clip: mean(alpha >= 247). 1 is a matte that hides nothing."""
    return Measure(value=float(np.mean(alpha >= OPAQUE)))


def empty_share(alpha: Alpha) -> Measure:
    """1 - the largest share of visible pixels (alpha > 8) that a frame has. 1 is a matte that shows nothing."""
    visible = (alpha > TRANSPARENT).mean(axis=(1, 2))
    return Measure(value=float(1 - visible.max()), frame=int(visible.argmax()))


def hard_edge_share(alpha: Alpha) -> Measure | None:
    """1 - (soft pixels / edge pixels), of pixels whose 3 x 3 neighbourhood spans more than 224 levels; soft is 8 < alpha < 247.

    So wide a span is a whole edge, from nothing to solid; a ramp inside a subject (glass) is none, however steep. An antialiased edge
    gives 0.1 to 0.55, a thresholded matte 1. None for clips without edges (smoke, glow).
    """
    frames = sampled(len(alpha))
    chosen = alpha[frames]
    edge = largest(chosen).astype(np.int16) - smallest(chosen) > EDGE_SPAN
    if edge.sum() < MIN_EDGE_PIXELS:
        return None
    soft = edge & (chosen > TRANSPARENT) & (chosen < OPAQUE)
    return Measure(value=float(1 - soft.sum() / edge.sum()), frame=frames[int(edge.sum(axis=(1, 2)).argmax())])


def limited_floor(alpha: Alpha) -> Measure:
    """The matte's floor where the matte looks like 16-235, else 0.

    The floor is the most frequent level up to 64, the peak the 99th percentile of what is 12 levels above it. 16-235: the floor is
    11..21 and at most a thousandth of the pixels lies below 6; the peak is at most 248.
    """
    counts = np.bincount(alpha.ravel(), minlength=256)
    floor = int(counts[:65].argmax())
    above = np.cumsum(counts[floor + 12 :])
    peak = floor + 12 + int(np.searchsorted(above, 0.99 * above[-1])) if above[-1] else floor
    limited = 11 <= floor <= 21 and counts[:6].sum() <= 0.001 * alpha.size and peak <= 248
    return Measure(value=float(floor) if limited else 0.0, detail=f"levels {floor} to {peak}")


def noise_share(alpha: Alpha) -> Measure:
    """Share of the almost empty and almost solid pixels that differ from the median of their 3 x 3 neighbourhood.

    Almost: within 12 levels of 0 or 255, in a neighbourhood within 24. A soft tail, quantised to 8 bits, is flat or monotone there
    and equals its median; a codec's ringing does not. A matte may be drawn rough: where 15 % of all rough pixels or more lie in
    between, away from edges (5 x 5 pixels span at most 64 levels), the codec's own grid decides (coding.py), and the share is 0 if
    coding on no grid loses less than beside it.
    """
    frames = sampled(len(alpha))
    chosen = alpha[frames]
    high, low = largest(chosen), smallest(chosen)
    rough = chosen != median(chosen)
    almost = ((high <= 2 * NEAR) & (chosen <= NEAR)) | ((low >= 255 - 2 * NEAR) & (chosen >= 255 - NEAR))
    between = ~almost & (largest(high).astype(np.int16) - smallest(low) <= DRAWN_SPAN)
    noisy, drawn = (rough & almost).sum(axis=(1, 2)), int((rough & between).sum())
    share = float(noisy.sum() / max(1, almost.sum()))
    may_be_drawn = share >= LITTLE_NOISE and drawn >= DRAWN_SHARE * (drawn + noisy.sum())
    if may_be_drawn and not was_coded(alpha, rough=rough, frames=frames):
        share = 0.0
    return Measure(value=share, frame=frames[int(noisy.argmax())])


def opaque_border(alpha: Alpha) -> Measure:
    """Share of solid pixels in the frame's outer ring, in clips that are transparent inside (mean of 1 - alpha 1 % or more); else 0."""
    width = max(1, min(alpha.shape[1:]) // 32)
    ring = np.ones(alpha.shape[1:], bool)
    ring[width:-width, width:-width] = False
    inside = 1 - np.mean(alpha[:, ~ring]) / 255 if not ring.all() else 0.0
    return Measure(value=float(np.mean(alpha[:, ring] >= OPAQUE)) if inside >= 0.01 else 0.0)


def border_touch(alpha: Alpha) -> Measure:
    """The largest share of one side of the frame, the outermost line, that the subject covers (alpha > 32, an eighth of solid)."""
    sides = [alpha[:, 0], alpha[:, -1], alpha[:, :, 0], alpha[:, :, -1]]
    shares = np.stack([(side > 32).mean(axis=1) for side in sides])
    side, frame = np.unravel_index(int(shares.argmax()), shares.shape)
    return Measure(value=float(shares.max()), frame=int(frame), detail=("top", "bottom", "left", "right")[side])
