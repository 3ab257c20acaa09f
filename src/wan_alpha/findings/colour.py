"""What can be wrong with the colour of transparent pixels. Colour is (T, H, W, 3), alpha (T, H, W), 0..255."""

from itertools import product

import numpy as np
from jaxtyping import Int

from wan_alpha.findings.filters import Floats, brightest, largest, smallest
from wan_alpha.findings.finding import Alpha, Measure, Rgb, evenly, sampled

MIN_SOFT_PIXELS, MAX_EDGE_PIXELS = 100, 50_000
BLACK = 2
MAX_OUTSIDE, MAX_BEND = 16, 0.5

Pixels = Int[np.ndarray, "N"]


def proportional_share(rgb: Rgb, alpha: Alpha) -> Measure | None:
    """How far colour grows with alpha where the matte is soft (16..239): slope(y over a) * mean(a) / mean(y), y the largest channel.

    Premultiplied colour, y = a * c, gives 1; straight colour gives 0. Premultiplied colour also never exceeds alpha: where more than
    3 % of the soft pixels do by more than 6 levels, the answer is 0. None without 100 soft pixels, or for a black subject.
    """
    frames = sampled(len(alpha))
    a = alpha[frames]
    soft = (a >= 16) & (a <= 239)
    if soft.sum() < MIN_SOFT_PIXELS:
        return None
    level, weight = rgb[frames][soft].max(axis=-1).astype(np.float64), a[soft].astype(np.float64)
    if level.mean() < 8 or weight.var() < 1:
        return None
    if np.mean(level > weight + 6) > 0.03:
        return Measure(value=0.0)
    slope = np.cov(level, weight)[0, 1] / weight.var(ddof=1)
    return Measure(value=float(slope * weight.mean() / level.mean()))


def edge_pull(rgb: Rgb, alpha: Alpha) -> Measure | None:
    """How far colour is pulled away from the subject's own towards one other colour as alpha falls, in levels (root mean square).

    At edges (alpha 16..200, with solid pixels, 220 and more, and empty ones within 2 pixels) c is compared with c_in, the mean of
    the solid pixels there.
    A fringe of a background b, mixed in with strength h, is c - c_in = (1 - a)(h b - h c_in): least squares in h b and h, over
    pixels and channels. The value is |h b - h c_in|, where the fit explains at least 30 % of the difference; else 0.

    It is 0 too where colour changes along the edge as no mixture does: it would have to be 16 levels or more out of range at alpha 0
    (h <= 1 and b within 0..255 cannot reach that), or it does not fall evenly. (Flames redden from white to orange in their soft parts.)
    """
    frames = sampled(len(alpha))
    t, y, x, own = _edge_beside_solid(rgb[frames], alpha[frames])
    if len(t) < MIN_SOFT_PIXELS:
        return None
    away = 1 - alpha[frames][t, y, x].astype(np.float64)[:, None] / 255
    pulled = rgb[frames][t, y, x] - own
    # Unknowns: h b per channel, and h. Columns of the normal equations, channel by channel.
    design = np.zeros((*pulled.shape, 4))
    for channel in range(3):
        design[:, channel, channel] = away[:, 0]
    design[..., 3] = -away * own
    flat, target = design.reshape(-1, 4), pulled.reshape(-1)
    solution = np.linalg.lstsq(flat, target, rcond=None)[0]
    explained = 1 - np.sum((target - flat @ solution) ** 2) / max(1e-9, np.sum(target**2))
    pull = float(np.sqrt(np.mean((solution[:3] - solution[3] * own) ** 2)))
    worst = np.bincount(t, weights=np.abs(pulled).sum(axis=1), minlength=len(frames)).argmax()
    difference = (flat @ solution).reshape(pulled.shape) / away
    mixed = explained >= 0.3 and _in_range((own + difference).mean(axis=0)) and _is_even(pulled, away[:, 0])
    return Measure(value=pull if mixed else 0.0, frame=frames[int(worst)])


def _edge_beside_solid(rgb: Rgb, alpha: Alpha) -> tuple[Pixels, Pixels, Pixels, Floats]:
    """At most 50,000 edge pixels, evenly chosen, (t, y, x), with the mean colour (N, 3) of the two or more solid ones within 2 pixels."""
    points = np.argwhere((alpha >= 16) & (alpha <= 200) & (smallest(alpha, size=5) <= 5))
    t, y, x = evenly(points, at_most=MAX_EDGE_PIXELS).T
    near, total = np.zeros(len(t)), np.zeros((len(t), 3))
    for down, across in product(range(-2, 3), repeat=2):
        row, column = y + down, x + across
        inside = (row >= 0) & (row < alpha.shape[1]) & (column >= 0) & (column < alpha.shape[2])
        at = t, np.where(inside, row, 0), np.where(inside, column, 0)
        solid = inside & (alpha[at] >= 220)
        near += solid
        total += rgb[at] * solid[:, None]
    enough = near >= 2
    return t[enough], y[enough], x[enough], total[enough] / near[enough][:, None]


def _in_range(colour: Floats) -> bool:
    """Whether a colour is one, give or take 16 levels."""
    return bool(colour.min() > -MAX_OUTSIDE and colour.max() < 255 + MAX_OUTSIDE)


def _is_even(pulled: Floats, away: Floats) -> bool:
    """Whether the pull (N, 3) grows evenly with 1 - a: y = s (1 - a) + k a (1 - a) has k <= s / 2. A mixture has k = 0, half a parabola 1.

    y is the pull along its mean direction. Only colour that leaves the subject's own too early counts: light that grows towards the edge
    bends the other way.
    """
    direction = away @ pulled
    level = pulled @ direction / max(1e-9, float(np.linalg.norm(direction)))
    even, bent = np.linalg.lstsq(np.stack([away, away * (1 - away)], axis=1), level, rcond=None)[0]
    return bool(bent <= MAX_BEND * even)


def hidden_black_share(rgb: Rgb, alpha: Alpha) -> Measure | None:
    """Share of the fully transparent pixels whose colour is black (every channel at most 2)."""
    frames = sampled(len(alpha))
    hidden = alpha[frames] == 0
    if not hidden.any():
        return None
    return Measure(value=float(np.mean(brightest(rgb[frames])[hidden] <= BLACK)))


def hidden_roughness(rgb: Rgb, alpha: Alpha) -> Measure | None:
    """Mean difference of neighbours in colour (levels, largest channel) where both are well inside the fully transparent part."""
    frames = sampled(len(alpha))
    hidden = largest(alpha[frames]) == 0
    both = hidden[:, :, 1:] & hidden[:, :, :-1]
    if both.sum() < MIN_SOFT_PIXELS:
        return None
    chosen = rgb[frames]
    steps = brightest(np.maximum(chosen[:, :, 1:], chosen[:, :, :-1]) - np.minimum(chosen[:, :, 1:], chosen[:, :, :-1]))
    rough = [float(step[mask].mean()) if mask.any() else 0.0 for step, mask in zip(steps, both, strict=True)]
    return Measure(value=float(steps[both].mean()), frame=frames[int(np.argmax(rough))])
