"""Animated PNG (PNG specification, third edition, 11.3.4): its pictures from the chunks, and its frames.

Each picture is wrapped as a PNG of its own, decoded as stills are, and laid onto the canvas here: Pillow keeps only the high byte of
16 bits, and where it lays one picture over another, translucent alpha comes out as its square.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import UInt8, UInt16

from wan_alpha.errors import MediaError
from wan_alpha.media.clip import check_size
from wan_alpha.media.colour import Levels, Rgb
from wan_alpha.media.png import PNG_SIGNATURE, chunk
from wan_alpha.media.png_check import CHANNELS, check_chunks, check_rows, png_chunks
from wan_alpha.media.stills import decode_picture

NONE, BACKGROUND, PREVIOUS = 0, 1, 2
SOURCE, OVER = 0, 1
ROWS = 64
"""Rows that are mixed at a time."""

Canvas = UInt8[np.ndarray, "H W 4"] | UInt16[np.ndarray, "H W 4"]


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
    """header: the payload of IHDR, whose size is the canvas. stated: pictures as the header counts them; 0 for a still.

    A still at the file's beginning that is not part of the animation is not among the pictures.
    """

    header: bytes
    palette: list[tuple[bytes, bytes]]
    """The chunks PLTE and tRNS, as (name, payload)."""
    stated: int
    pictures: list[ApngPicture]
    still_apart: bool
    """Whether there is such a still: viewers of animations show their pictures alone."""


def read_apng(data: bytes) -> Apng:
    """The pictures that the chunks describe, up to where the file ends or breaks off. struct.error for a broken control chunk."""
    header, stated, still_apart = b"", 0, False
    palette: list[tuple[bytes, bytes]] = []
    pictures: list[ApngPicture] = []
    for name, payload in png_chunks(data):
        if name == b"IHDR":
            header = bytes(payload)
        elif name in (b"PLTE", b"tRNS"):
            palette.append((name, bytes(payload)))
        elif name == b"acTL":
            stated = struct.unpack_from(">I", payload)[0]
        elif name == b"fcTL" and stated:
            width, height, left, top, ticks, per_second, dispose, blend = struct.unpack_from(">4xIIIIHHBB", payload)
            duration = 1000 * ticks / (per_second or 100)
            size = {"width": width, "height": height, "left": left, "top": top}
            pictures.append(ApngPicture(**size, duration_ms=duration, dispose=dispose, blend=blend))
        elif name in (b"IDAT", b"fdAT") and pictures:
            pictures[-1].data.append(payload[4 if name == b"fdAT" else 0 :])
        elif name == b"IDAT":
            still_apart = True
    return Apng(header=header, palette=palette, stated=stated, pictures=pictures, still_apart=still_apart)


def apng_frames(path: Path, data: bytes, *, first: int, last: int, frames: int) -> Iterator[tuple[Rgb, Levels | None]]:
    """Frames FIRST to LAST of an animated PNG, composed: colour and alpha (None without an alpha channel), at the file's own bits.

    frames: how many there will be once held ones are repeated, for which there must be room.
    """
    check_chunks(data)
    apng = read_apng(data)
    if len(apng.pictures) != apng.stated:
        raise MediaError(path, got=f"{len(apng.pictures)} pictures", expected=f"{apng.stated} (its header)")
    width, height = struct.unpack_from(">II", apng.header)
    bits, colour_type = apng.header[8:10]
    if colour_type not in CHANNELS:
        raise MediaError(path, got=f"colour type {colour_type}", expected="grey, RGB or a palette", do="export the file again")
    begin = max((i for i in range(first + 1) if _stands_alone(apng.pictures[i], width=width, height=height)), default=0)
    check_size(path, width=width, height=height, num_frames=max(frames, last + 1 - begin))
    has_alpha = colour_type in (4, 6) or any(name == b"tRNS" for name, _ in apng.palette)
    canvas = np.zeros((height, width, 4), np.uint16 if bits == 16 else np.uint8)
    for index, picture in enumerate(apng.pictures[begin : last + 1], begin):
        region = _region(path, picture, width=width, height=height)
        before = canvas[region].copy() if picture.dispose == PREVIOUS else 0
        pixels = _pixels(path, apng, picture)
        canvas[region] = over(pixels, canvas[region]) if picture.blend == OVER else pixels
        if index >= first:
            yield canvas[..., :3].copy(), canvas[..., 3].copy() if has_alpha else None
        if picture.dispose != NONE:
            # What was there before the first picture is nothing.
            canvas[region] = before


def _stands_alone(picture: ApngPicture, *, width: int, height: int) -> bool:
    """Whether it covers the canvas, and leaves nothing there of what was before."""
    return (picture.width, picture.height, picture.blend) == (width, height, SOURCE) and picture.dispose != PREVIOUS


def over(source: Canvas, canvas: Canvas) -> Canvas:
    """Straight RGBA over straight RGBA: a = a_s + a_c (1 - a_s), c = (c_s a_s + c_c a_c (1 - a_s)) / a, rounded; black where a = 0."""
    top = np.iinfo(source.dtype).max
    a_s, a_c = source[..., 3], canvas[..., 3]
    out = np.where((a_s == top) | (a_c == 0), _whole(source), _whole(canvas))
    out[(a_s == 0) & (a_c == 0)] = 0
    mixed = (a_s > 0) & (a_s < top) & (a_c > 0)
    levels = out[..., None].view(source.dtype)
    for start in range(0, len(levels), ROWS):
        rows = slice(start, start + ROWS)
        levels[rows][mixed[rows]] = np.rint(_mix(source[rows][mixed[rows]] / top, canvas[rows][mixed[rows]] / top) * top)
    return levels


def _whole(pixels: Canvas) -> np.ndarray:
    """(H, W): the four channels of a pixel as one number, which is moved in one go."""
    return np.ascontiguousarray(pixels).view(f"u{4 * pixels.itemsize}")[..., 0]


def _mix(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Pixels (n, 4) of which something shows, in [0, 1]."""
    a_s, a_c = above[:, 3:], below[:, 3:] * (1 - above[:, 3:])
    a = a_s + a_c
    return np.concatenate([(above[:, :3] * a_s + below[:, :3] * a_c) / a, a], axis=1)


def _pixels(path: Path, apng: Apng, picture: ApngPicture) -> Canvas:
    """One picture as RGBA, opaque where the file has no alpha."""
    header = struct.pack(">II", picture.width, picture.height) + apng.header[8:]
    chunks = [(b"IHDR", header), *apng.palette, (b"IDAT", b"".join(picture.data)), (b"IEND", b"")]
    data = PNG_SIGNATURE + b"".join(chunk(name, payload) for name, payload in chunks)
    check_rows(path, data)
    rgb, alpha = decode_picture(path, data, bits=16)
    return np.dstack([rgb, np.full(rgb.shape[:2], np.iinfo(rgb.dtype).max, rgb.dtype) if alpha is None else alpha])


def _region(path: Path, picture: ApngPicture, *, width: int, height: int) -> tuple[slice, slice]:
    right, bottom = picture.left + picture.width, picture.top + picture.height
    if right > width or bottom > height:
        raise MediaError(
            path, got=f"a picture up to ({right}, {bottom})", expected=f"one inside {width}x{height}", do="export the file again"
        )
    return slice(picture.top, bottom), slice(picture.left, right)
