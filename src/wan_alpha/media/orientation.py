"""How a file wants its picture turned: the display matrix of movies, by which cameras and phones store upright pictures lying down."""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.buffer import Buffer

from wan_alpha.errors import MediaError
from wan_alpha.media.colour import Levels, Rgb

Turn = tuple[int, int, int, int]
"""a, b, c, d: the pixel in column p and row q is shown at column a p + c q and row b p + d q, up to a shift; 16.16 fixed point."""


def stated_turn(frame: av.VideoFrame) -> Turn | None:
    """What a decoded frame says; None where it says nothing. Ask the first frame of a file alone.

    PyAV's view of these data and its frame hold each other: a frame that was asked lives on until the garbage collector comes by,
    hundreds of frames later.
    """
    said = cast(Mapping[str, Buffer], frame.side_data)  # PyAV's stubs know only motion vectors
    if "DISPLAYMATRIX" not in said:
        return None
    a, b, _, c, d = struct.unpack("=5i", bytes(said["DISPLAYMATRIX"])[:20])
    return a, b, c, d


def upright(path: Path, pixels: Rgb | Levels, turn: Turn | None) -> np.ndarray:
    """Pixels (height, width, ...) turned by quarters and mirrored as the file says. MediaError for any other turn.

    >>> upright(Path("a.mov"), np.array([[1, 2, 3]], np.uint8), (0, 65536, -65536, 0)).tolist()
    [[1], [2], [3]]
    """
    if turn is None:
        return pixels
    a, b, c, d = turn
    level, lying = min(abs(a), abs(d)), min(abs(b), abs(c))
    if max(abs(b), abs(c)) * 100 < level:
        return np.ascontiguousarray(pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])
    if max(abs(a), abs(d)) * 100 < lying:
        return np.ascontiguousarray(pixels.swapaxes(0, 1)[:: -1 if b < 0 else 1, :: -1 if c < 0 else 1])
    got = "a rotation tag of {:.2f} {:.2f} {:.2f} {:.2f}".format(*(value / 65536 for value in turn))
    raise MediaError(path, got=got, expected="quarter turns, mirrored or not", do="export the clip upright")
