"""When the pictures of a GIF are shown, from its blocks (GIF89a specification, sections 17 to 27), without decoding one."""

import struct

TABLE, TABLE_SIZE = 0x80, 0b111
"""Of the packed fields: whether a table of colours follows, and its size."""
CONTROL = b"\x21\xf9"


def gif_durations(data: bytes) -> list[float]:
    """Milliseconds of each picture, 0 where it says none. ValueError for a broken file, IndexError or struct.error for one cut short."""
    at, delay = 13 + _table(data[10]), 0
    durations: list[float] = []
    while data[at] != ord(";"):
        if data[at] == ord(","):
            durations.append(10.0 * delay)
            at, delay = _after(data, at + 11 + _table(data[at + 9])), 0
        elif data[at] == ord("!"):
            if data[at : at + 2] == CONTROL:
                delay = struct.unpack_from("<H", data, at + 4)[0]
            at = _after(data, at + 2)
        elif data[at] == 0:  # left behind by some writers
            at += 1
        else:
            raise ValueError(f"no block begins with {data[at]}, at byte {at}")
    return durations


def _table(packed: int) -> int:
    """Bytes of the table of colours behind such a field."""
    return 3 << (packed & TABLE_SIZE) + 1 if packed & TABLE else 0


def _after(data: bytes, at: int) -> int:
    """Where a row of sub-blocks, each behind its size, ends: behind one of size 0."""
    while data[at]:
        at += 1 + data[at]
    return at + 1
