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
COUNT_AT = {b"stsz": 8, b"stz2": 8, b"trun": 4, b"elst": 4}
"""Where tables of samples and of edits say how long they are, behind the box's header."""
PER_BYTE = 64
"""Samples of sound that a byte may stand for; a picture takes a byte at least."""
SHORTEST_EDIT, FEW_EDITS, MAX_EDITED = 12, 16, 1_000_000
"""Bytes of an edit. Each may show all samples again: more than a few may not make more than so many of them."""


def check_samples(path: Path) -> None:
    """MediaError where a file tells of more samples than its bytes can hold, or shows them again too often; else nothing."""
    stat = path.stat()
    _check_samples(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=1024)
def _check_samples(path: Path, _modified_ns: int, size: int) -> None:
    with path.open("rb") as file:
        if file.read(8)[4:] not in FIRST:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            lie = next(_lies(data, size), None)
    if lie is not None:
        raise MediaError(path, got=f"a header that tells of {lie} in {size} bytes", expected="a whole file", do="copy it again")


def _lies(data: mmap.mmap, size: int) -> Iterator[str]:
    edits = 0
    for name, count, per_byte in _tables(data, 0, len(data), per_byte=1, depth=0):
        if name == b"trak":
            edits = 0
        elif name == b"elst":
            edits = count
        elif count > size * per_byte:
            yield f"{count} samples"
        elif edits > FEW_EDITS and count * edits > MAX_EDITED * per_byte:
            yield f"{edits} edits of {count} samples"


def _tables(data: mmap.mmap, begin: int, end: int, *, per_byte: int, depth: int) -> Iterator[tuple[bytes, int, int]]:
    """Of every track and table between two places: its name, its length, and how many samples a byte may stand for there."""
    while begin + 8 <= end:
        size, name = struct.unpack_from(">I4s", data, begin)
        inside = begin + 8
        if size == 1 and begin + 16 <= end:
            size, inside = struct.unpack_from(">Q", data, inside)[0], begin + 16
        after = min(begin + max(size, 8), end) if size else end
        if name == b"trak":
            yield name, 0, per_byte
        if name in CONTAINERS and depth < MAX_DEPTH:
            is_sound = name == b"minf" and data[inside + 4 : inside + 8] == b"smhd"
            yield from _tables(data, inside, after, per_byte=PER_BYTE if is_sound else per_byte, depth=depth + 1)
        elif name in COUNT_AT and inside + COUNT_AT[name] + 4 <= after:
            count = struct.unpack_from(">I", data, inside + COUNT_AT[name])[0]
            yield name, min(count, (after - inside) // SHORTEST_EDIT) if name == b"elst" else count, per_byte
        begin = after
