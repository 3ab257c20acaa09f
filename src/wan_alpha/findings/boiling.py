"""Mattes whose edges boil. Arrays are 0..255, (T, H, W[, 3])."""

import numpy as np

from wan_alpha.findings.filters import largest, smallest
from wan_alpha.findings.finding import Alpha, Measure, Rgb
from wan_alpha.findings.flicker import alternation

VISIBLE_STEP = 8
STILL = 12
MIN_SIDE = 0.1


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
