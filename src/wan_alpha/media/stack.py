"""Frames that come one by one, put where the clip will be: a list that is joined at its end needs the room twice."""

from pathlib import Path

import numpy as np

from wan_alpha.errors import MediaError
from wan_alpha.linux import stated_bytes
from wan_alpha.media.clip import SMALLER

SMALL = 2**28
"""Bytes for which nobody asks how much memory is free."""


class FrameStack:
    """Frames of one size and depth, whose number is known or nearly so."""

    def __init__(self, path: Path, *, count: int) -> None:
        """PATH: for errors. COUNT: how many frames are expected; more find room too, fewer leave theirs untouched."""
        self._path, self._count, self._filled = path, max(count, 1), 0
        self._frames: np.ndarray | None = None

    def add(self, frame: np.ndarray) -> None:
        """Copy the next frame, (H, W) or (H, W, 3).

        MediaError for one of another size or depth than the first one's, and where all of them would not fit into free memory.
        """
        if self._frames is None:
            _check_free(self._path, frame, self._count)
            self._frames = np.empty((self._count, *frame.shape), frame.dtype)
        first = self._frames[0]
        if (frame.shape, frame.dtype) != (first.shape, first.dtype):
            got, expected = (f"{f.shape[1]}x{f.shape[0]} of {8 * f.itemsize} bits" for f in (frame, first))
            do = "export the clip at one size"
            raise MediaError(self._path, got=f"frames of {got}", expected=f"{expected} as the first one", do=do)
        if self._filled == len(self._frames):
            self._frames = np.concatenate([self._frames, np.empty_like(self._frames)])
        self._frames[self._filled] = frame
        self._filled += 1

    def __len__(self) -> int:
        return self._filled

    def joined(self) -> np.ndarray:
        """(T, H, W) or (T, H, W, 3), of at least one frame."""
        if self._frames is None:
            raise MediaError(self._path, got="no frames", expected="at least one")
        return self._frames[: self._filled]


def _check_free(path: Path, frame: np.ndarray, count: int) -> None:
    """A system that grants more memory than it has ends the process that uses it, without an error: ask before."""
    needed = count * frame.nbytes
    free = stated_bytes("/proc/meminfo", "MemAvailable") if needed > SMALL else None
    if free is not None and needed > free:
        got = f"{count} frames of {frame.shape[1]}x{frame.shape[0]}, which take {needed / 2**30:.1f} GiB"
        raise MediaError(path, got=got, expected=f"what fits into the {free / 2**30:.1f} GiB of free memory", do=SMALLER)
