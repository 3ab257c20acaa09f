"""Animated PNG (PNG specification, third edition, 11.3.4): its pictures from the chunks, and its frames at 16 bits.

Pillow composes animated PNG of 8 bits; of 16 it keeps the high byte. So each picture is wrapped as a PNG of its own, decoded at 16
bits as stills are, and laid onto the canvas here.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import UInt16

from wan_alpha.errors import MediaError
from wan_alpha.media.clip import check_size
from wan_alpha.media.colour import Levels, Rgb
from wan_alpha.media.png import PNG_SIGNATURE, chunk
from wan_alpha.media.stills import read_16_bit_png

NONE, BACKGROUND, PREVIOUS = 0, 1, 2
SOURCE, OVER = 0, 1
TOP = 65535
CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}
"""Of each colour type; those of 4 and 6 have alpha."""

Canvas = UInt16[np.ndarray, "H W 4"]


@dataclass(frozen=True, kw_only=True)
class ApngPicture:
    """One stored picture: its place on the canvas, how it is laid there (blend), and what is left when its time is over (dispose)."""

    width: int
    height: int
    left: int
    top: int
    duration_ms: float
    dispose: int
    blend: int
    data: list[memoryview] = field(default_factory=list)
    """Its compressed rows, in pieces."""


@dataclass(frozen=True, kw_only=True)
class Apng:
    """header: the payload of IHDR, whose size is the canvas. stated: pictures as the header counts them; 0 for a still."""

    header: bytes
    transparency: bytes
    stated: int
    skipped: int
    """1 where the file begins with a still that is not part of the animation."""
    pictures: list[ApngPicture]


def read_apng(data: bytes) -> Apng:
    """The pictures that the chunks describe, up to where the file ends or breaks off. struct.error for a broken control chunk."""
    header, transparency, stated, skipped = b"", b"", 0, 0
    pictures: list[ApngPicture] = []
    for name, payload in _chunks(data):
        if name == b"IHDR":
            header = bytes(payload)
        elif name == b"tRNS":
            transparency = bytes(payload)
        elif name == b"acTL":
            stated = struct.unpack_from(">I", payload)[0]
        elif name == b"fcTL" and stated:
            width, height, left, top, ticks, per_second, dispose, blend = struct.unpack_from(">4xIIIIHHBB", payload)
            duration = 1000 * ticks / (per_second or 100)
            size = {"width": width, "height": height, "left": left, "top": top}
            pictures.append(ApngPicture(**size, duration_ms=duration, dispose=dispose, blend=blend))
        elif name == b"IDAT" and stated and not pictures:
            skipped = 1
        elif name in (b"IDAT", b"fdAT") and pictures:
            pictures[-1].data.append(payload[4 if name == b"fdAT" else 0 :])
    return Apng(header=header, transparency=transparency, stated=stated, skipped=skipped, pictures=pictures)


def deep_frames(path: Path, data: bytes, *, first: int, last: int) -> Iterator[tuple[Rgb, Levels | None]]:
    """Frames FIRST to LAST of an animated PNG of 16 bits, composed: colour and alpha (None without an alpha channel), uint16."""
    _check_whole(data)
    apng = read_apng(data)
    if len(apng.pictures) != apng.stated:
        raise MediaError(path, got=f"{len(apng.pictures)} pictures", expected=f"{apng.stated} (its header)")
    width, height = struct.unpack_from(">II", apng.header)
    if apng.header[9] not in CHANNELS:
        raise MediaError(path, got=f"colour type {apng.header[9]} at 16 bits", expected="grey or RGB", do="export the file again")
    check_size(path, width=width, height=height)
    has_alpha = apng.header[9] in (4, 6) or bool(apng.transparency)
    canvas = np.zeros((height, width, 4), np.uint16)
    for index, picture in enumerate(apng.pictures[: last + 1]):
        region = _region(path, picture, width=width, height=height)
        before = canvas[region].copy()
        pixels = _pixels(path, apng, picture)
        canvas[region] = over(pixels, before) if picture.blend == OVER else pixels
        if index >= first:
            yield canvas[..., :3].copy(), canvas[..., 3].copy() if has_alpha else None
        if picture.dispose != NONE:
            # What was there before the first picture is nothing.
            canvas[region] = before if picture.dispose == PREVIOUS else 0


def over(source: Canvas, canvas: Canvas) -> Canvas:
    """Straight RGBA over straight RGBA: a = a_s + a_c (1 - a_s), c = (c_s a_s + c_c a_c (1 - a_s)) / a, rounded; black where a = 0."""
    a_s = source[..., 3:].astype(np.float64) / TOP
    a_c = canvas[..., 3:].astype(np.float64) / TOP * (1 - a_s)
    a = a_s + a_c
    colour = (source[..., :3] * a_s + canvas[..., :3] * a_c) / np.where(a > 0, a, 1)
    return np.rint(np.concatenate([colour, a * TOP], axis=-1)).astype(np.uint16)


def _pixels(path: Path, apng: Apng, picture: ApngPicture) -> Canvas:
    """One picture as RGBA, opaque where the file has no alpha."""
    header = struct.pack(">II", picture.width, picture.height) + apng.header[8:]
    extra = chunk(b"tRNS", apng.transparency) if apng.transparency else b""
    rows = b"".join(picture.data)
    _check_rows(rows, height=picture.height, width=picture.width, colour_type=header[9])
    data = PNG_SIGNATURE + chunk(b"IHDR", header) + extra + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    rgb, alpha = read_16_bit_png(path, data, bits=16)
    return np.dstack([rgb, np.full(rgb.shape[:2], TOP, np.uint16) if alpha is None else alpha])


def _region(path: Path, picture: ApngPicture, *, width: int, height: int) -> tuple[slice, slice]:
    right, bottom = picture.left + picture.width, picture.top + picture.height
    if right > width or bottom > height:
        raise MediaError(
            path, got=f"a picture up to ({right}, {bottom})", expected=f"one inside {width}x{height}", do="export the file again"
        )
    return slice(picture.top, bottom), slice(picture.left, right)


def _check_rows(rows: bytes, *, height: int, width: int, colour_type: int) -> None:
    """ValueError where rows are missing, which the decoder leaves black. Interlaced rows have more filter bytes, never fewer."""
    expected = height * (1 + 2 * width * CHANNELS[colour_type])
    got = len(zlib.decompressobj().decompress(rows, expected))
    if got < expected:
        raise ValueError(f"a picture of {got} bytes, {expected} expected")


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """(name, payload) of every whole chunk up to IEND."""
    view, offset = memoryview(data), len(PNG_SIGNATURE)
    while offset + 12 <= len(data):
        size, name = struct.unpack_from(">I4s", data, offset)
        if name == b"IEND" or offset + 12 + size > len(data):
            return
        yield name, view[offset + 8 : offset + 8 + size]
        offset += 12 + size


def _check_whole(data: bytes) -> None:
    """ValueError where the file breaks off, a checksum is wrong, or control and data chunks are not in their order."""
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
