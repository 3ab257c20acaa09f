"""Animated WebP and GIF through Pillow, and PNG (apng.py).

Times come from the headers; of a WebP only the window asked for is decoded.
"""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from wan_alpha.errors import MediaError
from wan_alpha.media import exr
from wan_alpha.media.alpha_mode import AlphaMode
from wan_alpha.media.apng import apng_frames, read_apng
from wan_alpha.media.clip import Bits, Decoded, change_bits, check_size, image_errors
from wan_alpha.media.colour import Levels, Rgb
from wan_alpha.media.png import PNG_SIGNATURE
from wan_alpha.media.stills import Still, is_jpeg, read_bytes, read_still, split_channels
from wan_alpha.media.timeline import timing, uneven_times

ANIMATION_SUFFIXES = (".webp", ".png", ".apng", ".gif")
FORMATS = ("WEBP", "PNG", "GIF")
NO_BLEND, WEBP_ANIMATED = 0b10, 0b10


def read_animation(path: Path, *, start: int = 0, count: int | None = None, bits: Bits = 8, alpha_mode: AlphaMode = "file") -> Decoded:
    """Frames [start, start + count) of an animated WebP, PNG or GIF (or of a still: one frame without a rate).

    Encoders store a held picture once, with a longer duration; it is repeated here, so that the frame rate is constant again.
    """
    data = read_bytes(path)
    with image_errors(path):
        durations = _durations(path, data)
    order, fps = _shown(path, durations)
    chosen = order[start : None if count is None else start + count]
    if not chosen:
        raise MediaError(path, got=f"{len(order)} frames", expected=f"more than {start}")
    if len(durations) == 1:
        pictures = [read_still(Still(path=path, read=lambda: data), bits=bits, alpha_mode=alpha_mode)]
    else:
        with image_errors(path):
            pictures = list(_pictures(path, data, first=chosen[0], last=chosen[-1], frames=len(chosen), bits=bits))
    if len({rgb.shape for rgb, _ in pictures}) > 1:
        raise MediaError(path, got="pictures of different sizes", expected="one size", do="export the file again")
    shown = [pictures[i - chosen[0]] for i in chosen]
    opaque = (1 << (8 * shown[0][0].itemsize)) - 1
    # In a GIF single frames may be opaque.
    masks = [np.full(rgb.shape[:2], opaque, rgb.dtype) if alpha is None else alpha for rgb, alpha in shown]
    has_alpha = any(alpha is not None for _, alpha in shown)
    times = uneven_times(durations) if len(order) == len(durations) else None
    if times is not None:
        times = tuple(times[i] - times[chosen[0]] for i in chosen)
    return Decoded(
        rgb=np.stack([rgb for rgb, _ in shown]),
        alpha=np.stack(masks) if has_alpha else None,
        fps=fps,
        times=times,
        settled=has_alpha and path.suffix.lower() == exr.SUFFIX,
    )


def count_animation_frames(path: Path) -> int:
    """Frames as read_animation gives them, without decoding (but for GIF)."""
    return len(_header(path)[0])


def stated_animation_rate(path: Path) -> float | None:
    """Frames per second as read_animation gives them; None for a still."""
    return _header(path)[1]


def _header(path: Path) -> tuple[list[int], float | None]:
    data = read_bytes(path)
    with image_errors(path):
        durations = _durations(path, data)
    return _shown(path, durations)


def is_animation(path: Path) -> bool:
    """Whether an image file has several frames. A still's pixels are not read; False where a file cannot be (reading it says why)."""
    try:
        return path.suffix.lower() in ANIMATION_SUFFIXES and _may_move(path) and count_animation_frames(path) > 1
    except MediaError:
        return False


def _may_move(path: Path) -> bool:
    """False for a still PNG (no acTL before IDAT) or WebP (no animation flag in VP8X), from the first bytes."""
    with image_errors(path), path.open("rb") as file:
        head = file.read(21)
        if head[8:12] == b"WEBP":
            return head[12:16] == b"VP8X" and bool(head[20] & WEBP_ANIMATED)
        if not head.startswith(PNG_SIGNATURE):
            return True
        file.seek(len(PNG_SIGNATURE))
        while len(chunk := file.read(8)) == 8 and chunk[4:] not in (b"acTL", b"IDAT"):
            file.seek(int.from_bytes(chunk[:4], "big") + 4, 1)
        return chunk[4:] == b"acTL"


def _shown(path: Path, durations: list[float]) -> tuple[list[int], float | None]:
    """Which stored picture every frame shows, and the rate."""
    repeats, fps = timing(durations)
    check_size(path, width=1, height=1, num_frames=sum(repeats))
    return [i for i, times in enumerate(repeats) for _ in range(times)], fps


def _durations(path: Path, data: bytes) -> list[float]:
    """Milliseconds that each stored picture is shown, from the headers; a still is one picture of 0 ms."""
    if path.suffix.lower() == exr.SUFFIX or is_jpeg(path):
        return [0.0]
    if data[8:12] == b"WEBP":
        return [float(picture.duration_ms) for picture in _webp_pictures(data)] or [0.0]
    if data.startswith(PNG_SIGNATURE):
        durations = [picture.duration_ms for picture in read_apng(data).pictures]
        return durations if len(durations) > 1 else [0.0]
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        check_size(path, width=image.width, height=image.height)
        durations = []
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            durations.append(float(image.info.get("duration") or 0))
        return durations


def _pictures(path: Path, data: bytes, *, first: int, last: int, frames: int, bits: Bits) -> Iterator[tuple[Rgb, Levels | None]]:
    """Stored pictures FIRST to LAST, composed as the format wants it."""
    if data.startswith(PNG_SIGNATURE):
        for rgb, alpha in apng_frames(path, data, first=first, last=last, frames=frames):
            depth: Bits = 8 if rgb.dtype == np.uint8 else bits
            yield change_bits(rgb, depth), None if alpha is None else change_bits(alpha, depth)
        return
    begin = 0
    if data[8:12] == b"WEBP":
        begin, data = _cut_webp(data, first, last)
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        check_size(path, width=image.width, height=image.height, num_frames=frames)
        stored = getattr(image, "n_frames", 1)
        if stored <= last - begin:
            raise MediaError(path, got=f"{stored} pictures", expected=f"{last - begin + 1} (its header)")
        for index in range(begin, last + 1):
            image.seek(index - begin)
            picture = split_channels(image) if index >= first else None
            if picture is not None:
                yield picture


@dataclass(frozen=True, kw_only=True)
class _WebpPicture:
    """An ANMF chunk: where it lies in the file, how long it is shown, and whether it stands without those before it."""

    begin: int
    end: int
    duration_ms: int
    independent: bool


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(name, begin, end) of every chunk of a RIFF file, header and padding included; ValueError where the file ends early."""
    stated, offset = 8 + struct.unpack_from("<I", data, 4)[0], 12
    if stated > len(data):
        raise ValueError(f"{len(data)} of the {stated} bytes that its header states")
    while offset + 8 <= stated:
        size = struct.unpack_from("<I", data, offset + 4)[0]
        end = offset + 8 + size + size % 2
        if end > len(data) + size % 2:
            raise ValueError(f"a chunk that ends at byte {end} of {len(data)}")
        yield data[offset : offset + 4], offset, end
        offset = end


def _webp_pictures(data: bytes) -> list[_WebpPicture]:
    canvas = b""
    pictures: list[_WebpPicture] = []
    for name, begin, end in _webp_chunks(data):
        payload = data[begin + 8 : begin + 24]
        if name == b"VP8X":
            canvas = payload[4:10]
        elif name == b"ANMF":
            if len(payload) < 16:
                raise ValueError("an animation frame without header")
            whole = payload[:12] == bytes(6) + canvas and bool(payload[15] & NO_BLEND)
            duration = int.from_bytes(payload[12:15], "little")
            pictures.append(_WebpPicture(begin=begin, end=end, duration_ms=duration, independent=whole or not pictures))
    return pictures


def _cut_webp(data: bytes, first: int, last: int) -> tuple[int, bytes]:
    """The animation from the last independent picture at or before FIRST up to LAST as a file, and the number of that picture."""
    pictures = _webp_pictures(data)
    begin = max(i for i in range(first + 1) if pictures[i].independent)
    chunks = [data[a:b] for name, a, b in _webp_chunks(data) if name in (b"VP8X", b"ANIM")]
    body = b"WEBP" + b"".join([*chunks, *(data[p.begin : p.end] for p in pictures[begin : last + 1])])
    return begin, b"RIFF" + struct.pack("<I", len(body)) + body
