"""A still picture as a clip: a window slides over it in a straight line, in every direction alike.

The published pan nearly always moves right or down, because it picks the direction by the quadrant of its start. Here the
direction comes first, uniform over the circle, then the length, then the start among all places from which the path stays inside.
"""

import math

import numpy as np


def pan_path(*, room: tuple[int, int], num_frames: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """(top, left) of the window in each frame, within 0..room (free rows, free columns).

    The length is uniform between none and the longest that fits in this direction; places are rounded to whole pixels.
    """
    angle = rng.uniform(0, 2 * math.pi)
    direction = (math.sin(angle), math.cos(angle))
    longest = min(space / abs(part) if part else math.inf for space, part in zip(room, direction, strict=True))
    length = longest * rng.uniform()
    tops, lefts = (_places(part * length, space, num_frames, rng) for part, space in zip(direction, room, strict=True))
    return list(zip(tops, lefts, strict=True))


def _places(way: float, space: int, num_frames: int, rng: np.random.Generator) -> list[int]:
    """Whole places along one axis: `way` pixels from a start that keeps both ends within 0..space."""
    first, last = max(0.0, -way), space - max(0.0, way)
    start = rng.uniform(first, max(first, last))
    return np.rint(start + way * np.linspace(0, 1, num_frames)).clip(0, space).astype(int).tolist()
