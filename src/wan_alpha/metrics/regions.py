"""Connected regions of binary pictures, all frames of a clip at once and without a loop over pixels.

Runs of set pixels in a row are the nodes, overlaps between neighbouring rows the edges; joining the runs takes a few sweeps.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int


@dataclass(frozen=True, kw_only=True, eq=False)
class _Runs:
    """Runs of set pixels in reading order, at positions of a picture with one empty column added on the right."""

    start: Int[np.ndarray, " R"]
    end: Int[np.ndarray, " R"]
    stride: int
    """Positions per row."""

    @property
    def row(self) -> Int[np.ndarray, " R"]:
        return self.start // self.stride


def largest_region(mask: Bool[np.ndarray, "N H W"]) -> Bool[np.ndarray, "N H W"]:
    """The largest 4-connected region of each picture; of equal ones the first in reading order; empty where the picture is."""
    number, height, width = mask.shape
    runs = _find_runs(mask)
    if not len(runs.start):
        return mask.copy()
    region = _join(len(runs.start), *_overlaps(runs, height=height))
    size = np.zeros(len(runs.start), np.int64)
    np.add.at(size, region, runs.end - runs.start)
    order = np.lexsort((np.arange(len(size)), -size, runs.row // height))  # by picture, then size, then place
    first = np.unique((runs.row // height)[order], return_index=True)[1]
    chosen = np.isin(region, order[first])
    steps = np.zeros(number * height * runs.stride + 1, np.int8)
    steps[runs.start[chosen]], steps[runs.end[chosen]] = 1, -1
    return np.cumsum(steps[:-1], dtype=np.int8).reshape(number, height, runs.stride)[:, :, :width].astype(bool)


def _find_runs(mask: Bool[np.ndarray, "N H W"]) -> _Runs:
    padded = np.pad(mask, ((0, 0), (0, 0), (0, 1)))
    change = np.diff(padded.reshape(-1).astype(np.int8), prepend=0)
    return _Runs(start=np.flatnonzero(change == 1), end=np.flatnonzero(change == -1), stride=padded.shape[-1])


def _overlaps(runs: _Runs, *, height: int) -> tuple[Int[np.ndarray, " E"], Int[np.ndarray, " E"]]:
    """Pairs of runs that touch: one in a row, one in the next row of the same picture."""
    first = np.searchsorted(runs.end, runs.start + runs.stride, side="right")
    last = np.searchsorted(runs.start, runs.end + runs.stride, side="left")
    count = np.where((runs.row + 1) % height, np.maximum(last - first, 0), 0)
    upper = np.repeat(np.arange(len(count)), count)
    place = np.arange(len(upper)) - np.repeat(np.cumsum(count) - count, count)
    return upper, first[upper] + place


def _join(number: int, upper: Int[np.ndarray, " E"], lower: Int[np.ndarray, " E"]) -> Int[np.ndarray, " R"]:
    """For each of NUMBER runs the first run of its region: smallest labels spread along edges, then along the labels themselves."""
    label = np.arange(number)
    while True:
        a, b = label[upper], label[lower]
        if np.array_equal(a, b):
            return label
        np.minimum.at(label, np.maximum(a, b), np.minimum(a, b))
        while not np.array_equal(label, label[label]):
            label = label[label]
