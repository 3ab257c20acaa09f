"""PNG and APNG files of straight RGBA, 8 or 16 bits (Pillow writes no 16-bit colour, and its APNG merges equal frames)."""

import struct
import zlib
from fractions import Fraction

import numpy as np
from jaxtyping import UInt8, UInt16

from wan_alpha.media.clip import ALPHA_TAG, RECORD_KEY, RgbaClip

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREATEST_UINT16 = 65535


def png_bytes(image: UInt8[np.ndarray, "H W 4"] | UInt16[np.ndarray, "H W 4"], *, record: str | None = None) -> bytes:
    """One picture as a file. It says that its alpha is straight, as PNG has it, and how it was made, where a record tells."""
    return b"".join([PNG_SIGNATURE, _header(image), _text(record), chunk(b"IDAT", _packed(image)), chunk(b"IEND", b"")])


def apng_bytes(clip: RgbaClip) -> bytes:
    """An animation that plays for ever, every frame whole, its delay exact (1001/24000 s, not 42 ms)."""
    rate = Fraction(clip.fps).limit_denominator(1001)
    if rate.numerator > GREATEST_UINT16:
        rate = Fraction(round(clip.fps), 1)
    size = struct.pack(">II", clip.width, clip.height)
    chunks = [PNG_SIGNATURE, _header(clip.alpha[0]), _text(clip.record), chunk(b"acTL", struct.pack(">II", clip.num_frames, 0))]
    sequence = 0
    for index, frame in enumerate(clip.rgba_frames()):
        delay = struct.pack(">HHBB", rate.denominator, rate.numerator, 0, 0)
        chunks.append(chunk(b"fcTL", struct.pack(">I", sequence) + size + bytes(8) + delay))
        data = _packed(frame)
        chunks.append(chunk(b"IDAT", data) if index == 0 else chunk(b"fdAT", struct.pack(">I", sequence + 1) + data))
        sequence += 1 if index == 0 else 2
    return b"".join([*chunks, chunk(b"IEND", b"")])


def _header(image: np.ndarray) -> bytes:
    height, width = image.shape[:2]
    rgba = 6
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8 * image.itemsize, rgba, 0, 0, 0))


def _text(record: str | None) -> bytes:
    """International text chunks, uncompressed."""
    entries = {ALPHA_TAG: "straight", **({} if record is None else {RECORD_KEY: record})}
    return b"".join(chunk(b"iTXt", key.encode("latin-1") + bytes(5) + value.encode()) for key, value in entries.items())


def _packed(image: np.ndarray) -> bytes:
    """Rows, each with the filter (none, left, up) that leaves the smallest sum of absolute differences, deflated."""
    rows = np.ascontiguousarray(image.astype(">u2") if image.itemsize == 2 else image).view(np.uint8).reshape(image.shape[0], -1)
    pixel = 4 * image.itemsize
    left, up = rows.copy(), rows.copy()
    left[:, pixel:] -= rows[:, :-pixel]
    up[1:] -= rows[:-1]
    ways = np.stack([rows, left, up])
    cost = np.abs(ways.view(np.int8).astype(np.int16)).sum(axis=-1, dtype=np.int64)
    best = cost.argmin(axis=0)
    chosen = ways[best, np.arange(len(rows))]
    return zlib.compress(np.concatenate([best.astype(np.uint8)[:, None], chosen], axis=1).tobytes(), 1)


def chunk(name: bytes, data: bytes) -> bytes:
    """One chunk of a PNG: its length, name, contents and checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
