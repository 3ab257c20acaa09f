"""How many samples a MOV or MP4 file tells of (ISO/IEC 14496-12): FFmpeg makes room for all of them, before it looks for a single one."""

import mmap
import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from wan_alpha.errors import MediaError

FIRST = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
CONTAINERS = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf", b"edts", b"udta", b"dinf", b"mvex")
MAX_DEPTH = 10
COUNT_AT = {b"stsz": 8, b"stz2": 8, b"trun": 4}
"""Where tables of samples, behind the box's header, say how many there are."""
PER_BYTE = 64
"""Samples of sound that a byte may stand for; a picture takes a byte at least."""


def check_samples(path: Path) -> None:
    """MediaError where a file tells of more samples than its bytes can hold; nothing for files of another kind."""
    stat = path.stat()
    _check_samples(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=1024)
def _check_samples(path: Path, _modified_ns: int, size: int) -> None:
    with path.open("rb") as file:
        if file.read(8)[4:] not in FIRST:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            lies = [count for count, per_byte in _samples(data, 0, len(data), per_byte=1, depth=0) if count > size * per_byte]
    if lies:
        raise MediaError(path, got=f"a header that tells of {lies[0]} samples in {size} bytes", expected="a whole file", do="copy it again")


def _samples(data: mmap.mmap, begin: int, end: int, *, per_byte: int, depth: int) -> Iterator[tuple[int, int]]:
    """Of every table between two places: how many samples it tells of, and how many of them a byte may stand for."""
    while begin + 8 <= end:
        size, name = struct.unpack_from(">I4s", data, begin)
        inside = begin + 8
        if size == 1 and begin + 16 <= end:
            size, inside = struct.unpack_from(">Q", data, inside)[0], begin + 16
        after = min(begin + max(size, 8), end) if size else end
        if name in CONTAINERS and depth < MAX_DEPTH:
            is_sound = name == b"minf" and data[inside + 4 : inside + 8] == b"smhd"
            yield from _samples(data, inside, after, per_byte=PER_BYTE if is_sound else per_byte, depth=depth + 1)
        elif name in COUNT_AT and inside + COUNT_AT[name] + 4 <= after:
            yield struct.unpack_from(">I", data, inside + COUNT_AT[name])[0], per_byte
        begin = after
