"""The chunks of a PNG file, and whether it is whole: decoders leave missing rows black, and few look at every checksum."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from wan_alpha.media.clip import check_size
from wan_alpha.media.png import PNG_SIGNATURE

CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Of each colour type; those of 4 and 6 have alpha, others where there is a tRNS chunk."""
PALETTE = 3


def png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """(name, payload) of every chunk up to IEND, or to where the file breaks off."""
    view, offset = memoryview(data), len(PNG_SIGNATURE)
    while offset + 12 <= len(data):
        size, name = struct.unpack_from(">I4s", data, offset)
        if name == b"IEND" or offset + 12 + size > len(data):
            return
        yield name, view[offset + 8 : offset + 8 + size]
        offset += 12 + size


def check_chunks(data: bytes) -> None:
    """struct.error where a PNG breaks off, ValueError where a checksum is wrong or the chunks of an animation are not in their order."""
    view, offset, order = memoryview(data), len(PNG_SIGNATURE), 0
    name = b""
    while name != b"IEND":
        size, name = struct.unpack_from(">I4s", data, offset)
        if zlib.crc32(view[offset + 4 : offset + 8 + size]) != struct.unpack_from(">I", data, offset + 8 + size)[0]:
            raise ValueError(f"a wrong checksum in chunk {name!r} at byte {offset}")
        if name in (b"fcTL", b"fdAT"):
            if struct.unpack_from(">I", data, offset + 8)[0] != order:
                raise ValueError(f"picture chunks out of order at byte {offset}")
            order += 1
        offset += 12 + size


def check_rows(path: Path, data: bytes) -> None:
    """ValueError where a picture lacks its palette, or has fewer rows than its header says (interlaced ones have more bytes, never fewer).

    MediaError for its size.
    """
    header = b""
    rows, has_palette = [], False
    for name, payload in png_chunks(data):
        header = bytes(payload) if name == b"IHDR" else header
        rows += [payload] if name == b"IDAT" else []
        has_palette |= name == b"PLTE"
    width, height, bits, colour_type = struct.unpack_from(">IIBB", header)
    check_size(path, width=width, height=height)
    if colour_type == PALETTE and not has_palette:
        raise ValueError("no palette")
    expected = height * (1 + (width * bits * CHANNELS.get(colour_type, 0) + 7) // 8)
    got = len(zlib.decompressobj().decompress(b"".join(rows), expected))
    if got < expected:
        raise ValueError(f"a picture of {got} bytes, {expected} expected")
