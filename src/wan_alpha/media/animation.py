"""Animated WebP, PNG and GIF through Pillow (PNG of 16 bits: apng.py).

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
from wan_alpha.media.apng import deep_frames, read_apng
from wan_alpha.media.clip import Bits, Decoded, change_bits, check_size, image_errors
from wan_alpha.media.colour import Levels, Rgb
from wan_alpha.media.png import PNG_SIGNATURE
from wan_alpha.media.stills import Still, is_16_bit_png, is_jpeg, read_bytes, read_still, split_channels
from wan_alpha.media.timeline import timing, uneven_times

ANIMATION_SUFFIXES = (".webp", ".png", ".apng", ".gif")
FORMATS = ("WEBP", "PNG", "GIF")
NO_BLEND, WEBP_ANIMATED = 0b10, 0b10


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the headers of an animation say of its stored pictures; a still is one picture of 0 ms."""

    durations: list[float]
    """Milliseconds."""
    skipped: int = 0
    """Pictures before the animation begins: an animated PNG may carry a still that is not part of it."""


def read_animation(path: Path, *, start: int = 0, count: int | None = None, bits: Bits = 8, alpha_mode: AlphaMode = "file") -> Decoded:
    """Frames [start, start + count) of an animated WebP, PNG or GIF (or of a still: one frame without a rate).

    Encoders store a held picture once, with a longer duration; it is repeated here, so that the frame rate is constant again.
    """
    data = read_bytes(path)
    with image_errors(path):
        plan = _plan(path, data)
    order, fps = _shown(path, plan)
    chosen = order[start : None if count is None else start + count]
    if not chosen:
        raise MediaError(path, got=f"{len(order)} frames", expected=f"more than {start}")
    if len(plan.durations) == 1:
        pictures = [read_still(Still(path=path, read=lambda: data), bits=bits, alpha_mode=alpha_mode)]
    else:
        with image_errors(path):
            pictures = list(_pictures(path, data, plan, first=chosen[0], last=chosen[-1], frames=len(chosen), bits=bits))
    shown = [pictures[i - chosen[0]] for i in chosen]
    opaque = (1 << (8 * shown[0][0].itemsize)) - 1
    # In a GIF single frames may be opaque.
    masks = [np.full(rgb.shape[:2], opaque, rgb.dtype) if alpha is None else alpha for rgb, alpha in shown]
    has_alpha = any(alpha is not None for _, alpha in shown)
    times = uneven_times(plan.durations) if len(order) == len(plan.durations) else None
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
        plan = _plan(path, data)
    return _shown(path, plan)


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


def _shown(path: Path, plan: Plan) -> tuple[list[int], float | None]:
    """Which stored picture every frame shows, and the rate."""
    repeats, fps = timing(plan.durations)
    check_size(path, width=1, height=1, num_frames=sum(repeats))
    return [i for i, times in enumerate(repeats) for _ in range(times)], fps


def _plan(path: Path, data: bytes) -> Plan:
    if path.suffix.lower() == exr.SUFFIX or is_jpeg(path):
        return Plan(durations=[0.0])
    if data[8:12] == b"WEBP":
        return Plan(durations=[float(picture.duration_ms) for picture in _webp_pictures(data)] or [0.0])
    if data.startswith(PNG_SIGNATURE):
        apng = read_apng(data)
        durations = [picture.duration_ms for picture in apng.pictures]
        return Plan(durations=durations, skipped=apng.skipped) if len(durations) > 1 else Plan(durations=[0.0])
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        check_size(path, width=image.width, height=image.height)
        durations = []
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            durations.append(float(image.info.get("duration") or 0))
        return Plan(durations=durations)


def _pictures(
    path: Path, data: bytes, plan: Plan, *, first: int, last: int, frames: int, bits: Bits
) -> Iterator[tuple[Rgb, Levels | None]]:
    """Stored pictures FIRST to LAST, composed as the format wants it."""
    if is_16_bit_png(data):
        for rgb, alpha in deep_frames(path, data, first=first, last=last):
            yield change_bits(rgb, bits), None if alpha is None else change_bits(alpha, bits)
        return
    begin = 0
    if data[8:12] == b"WEBP":
        begin, data = _cut_webp(data, first, last)
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        check_size(path, width=image.width, height=image.height, num_frames=frames)
        stored = getattr(image, "n_frames", 1)
        if stored <= last - begin + plan.skipped:
            raise MediaError(path, got=f"{stored} pictures", expected=f"{last - begin + 1 + plan.skipped} (its header)")
        for index in range(begin, last + 1):
            image.seek(index - begin + plan.skipped)
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
        raise ValueError(f"{len(data)} bytes of {stated}")
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
