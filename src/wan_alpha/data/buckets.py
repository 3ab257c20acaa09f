"""Buckets: every clip goes to the legal size closest to its own, within an area and a length. Batches hold one bucket.

Nothing is too wide, too long or too short: what does not fit a bucket's shape is cropped, what is shorter than its shortest length
is played back and forth, and a single image is a clip of one frame.
"""

import math
from typing import Literal

from wan_alpha.errors import UsageError
from wan_alpha.geometry import PIXEL_MULTIPLE, TEMPORAL_FACTOR, ClipSize

Buckets = Literal["none", "aspect", "aspect+length"]
ASPECTS = ((9, 21), (9, 16), (2, 3), (3, 4), (1, 1), (4, 3), (3, 2), (16, 9), (21, 9))
"""Width to height of the common formats; the budget's own shape is a bucket as well."""


def bucket_of(*, num_frames: int, height: int, width: int, budget: ClipSize, by: Buckets) -> ClipSize:
    """The size at which a clip of this size is used.

    none: the budget, whatever the clip. aspect: the shape of at most the budget's area whose aspect is closest (in ratio), with the
    budget's frames. aspect+length: also the longest of `lengths` that the clip fills. Raises UsageError for an empty clip.
    """
    if min(num_frames, height, width) < 1:
        raise UsageError("clip", got=f"{num_frames} frames of {height}x{width}", expected="at least one pixel and one frame")
    if by == "none":
        return budget
    closest = min(shapes(budget), key=lambda shape: _distance(shape, height=height, width=width))
    frames = budget.num_frames
    if by == "aspect+length" and num_frames < frames:
        filled = [length for length in lengths(budget) if length <= num_frames]
        frames = filled[-1] if num_frames == 1 or filled[-1] > 1 else min(frames, lengths(budget)[1])
    return ClipSize(num_frames=frames, height=closest[0], width=closest[1])


def shapes(budget: ClipSize) -> list[tuple[int, int]]:
    """(height, width) of every bucket: multiples of 16 whose area does not exceed the budget's, the budget's own first.

    >>> shapes(ClipSize(num_frames=81, height=480, width=832))[:3]
    [(480, 832), (960, 416), (832, 480)]
    """
    area = budget.height * budget.width
    found = [(budget.height, budget.width)]
    for wide, high in ASPECTS:
        rows = int(math.sqrt(area * high / wide)) // PIXEL_MULTIPLE
        candidates = [(height, _widest(area, height)) for height in (rows * PIXEL_MULTIPLE, (rows + 1) * PIXEL_MULTIPLE)]
        legal = [shape for shape in candidates if min(shape) > 0]
        found += sorted(legal, key=lambda shape: _distance(shape, height=high, width=wide))[:1]
    return list(dict.fromkeys(found))


def lengths(budget: ClipSize) -> list[int]:
    """1, 5, 9, 17, 33, ... up to the budget's own number of frames, which is the last.

    >>> lengths(ClipSize(num_frames=81, height=480, width=832))
    [1, 5, 9, 17, 33, 65, 81]
    """
    doubled = [1]
    while (following := TEMPORAL_FACTOR * 2 ** (len(doubled) - 1) + 1) < budget.num_frames:
        doubled.append(following)
    return [*doubled, budget.num_frames] if budget.num_frames > 1 else [1]


def _widest(area: int, height: int) -> int:
    return area // height // PIXEL_MULTIPLE * PIXEL_MULTIPLE if height else 0


def _distance(shape: tuple[int, int], *, height: int, width: int) -> float:
    """How far two aspects are apart, as a ratio."""
    return abs(math.log(shape[1] / shape[0] * height / width))
