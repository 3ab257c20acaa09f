"""Animated WebP: the chunks of its container (RFC 9649, 2.7), and a window of its pictures cut out as a file."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

NO_BLEND = 0b10
FRAME_HEADER = 8 + 16
"""Bytes of an ANMF chunk before the picture's own chunks."""


@dataclass(frozen=True, kw_only=True)
class WebpPicture:
    """An ANMF chunk: where it lies in the file, how long it is shown, and whether it stands without those before it."""

    begin: int
    end: int
    duration_ms: int
    independent: bool


def webp_pictures(data: bytes) -> list[WebpPicture]:
    """The pictures of an animation; none of a still. ValueError for a file that ends early, or a picture of another size than its frame."""
    canvas = b""
    pictures: list[WebpPicture] = []
    for name, begin, end in _chunks(data):
        payload = data[begin + 8 : begin + 24]
        if name == b"VP8X":
            canvas = payload[4:10]
        elif name == b"ANMF":
            if len(payload) < 16:
                raise ValueError("an animation frame without header")
            size = int.from_bytes(payload[6:9], "little") + 1, int.from_bytes(payload[9:12], "little") + 1
            stored = _stored_size(data, begin + FRAME_HEADER, end)
            if stored not in (size, None):
                raise ValueError(f"a picture of {stored[0]}x{stored[1]} in a frame of {size[0]}x{size[1]}")
            whole = payload[:12] == bytes(6) + canvas and bool(payload[15] & NO_BLEND)
            duration = int.from_bytes(payload[12:15], "little")
            pictures.append(WebpPicture(begin=begin, end=end, duration_ms=duration, independent=whole or not pictures))
    return pictures


def cut_webp(data: bytes, *, first: int, last: int) -> tuple[int, bytes]:
    """The animation from the last independent picture at or before FIRST up to LAST as a file, and the number of that picture."""
    pictures = webp_pictures(data)
    begin = max(i for i in range(first + 1) if pictures[i].independent)
    chunks = [data[a:b] for name, a, b in _chunks(data) if name in (b"VP8X", b"ANIM")]
    body = b"WEBP" + b"".join([*chunks, *(data[p.begin : p.end] for p in pictures[begin : last + 1])])
    return begin, b"RIFF" + struct.pack("<I", len(body)) + body


def _stored_size(data: bytes, begin: int, end: int) -> tuple[int, int] | None:
    """(width, height) that the picture in a frame says of itself; libwebp leaves a frame that it does not fill as it was."""
    for name, at, after in _parts(data, begin, end):
        if name == b"VP8L" and after >= at + 13:
            bits = struct.unpack_from("<I", data, at + 9)[0]
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        if name == b"VP8 " and after >= at + 18:
            width, height = struct.unpack_from("<HH", data, at + 14)
            return width & 0x3FFF, height & 0x3FFF
    return None


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(name, begin, end) of every chunk of a RIFF file, header and padding included; ValueError where the file ends early."""
    stated, offset = 8 + struct.unpack_from("<I", data, 4)[0], 12
    if stated > len(data):
        raise ValueError(f"{len(data)} of the {stated} bytes that its header states")
    yield from _parts(data, offset, stated)


def _parts(data: bytes, offset: int, after: int) -> Iterator[tuple[bytes, int, int]]:
    """The same of the chunks between two places."""
    while offset + 8 <= after:
        size = struct.unpack_from("<I", data, offset + 4)[0]
        end = offset + 8 + size + size % 2
        if end > len(data) + size % 2:
            raise ValueError(f"a chunk that ends at byte {end} of {len(data)}")
        yield data[offset : offset + 4], offset, end
        offset = end
