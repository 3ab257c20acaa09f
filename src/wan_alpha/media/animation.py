"""Animated WebP and GIF through Pillow, and PNG (apng.py).

Times come from the headers; of a WebP only the window asked for is decoded.
"""

import io
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from wan_alpha.errors import MediaError
from wan_alpha.media import exr
from wan_alpha.media.alpha_mode import AlphaMode
from wan_alpha.media.apng import apng_frames, read_apng
from wan_alpha.media.clip import Bits, Decoded, change_bits, check_size, image_errors
from wan_alpha.media.colour import Levels, Rgb
from wan_alpha.media.gif import gif_durations
from wan_alpha.media.png import PNG_SIGNATURE
from wan_alpha.media.stack import FrameStack
from wan_alpha.media.stills import Still, is_jpeg, read_bytes, read_still, split_channels
from wan_alpha.media.timeline import timing, uneven_times
from wan_alpha.media.transfer import Stored
from wan_alpha.media.webp import cut_webp, webp_pictures

ANIMATION_SUFFIXES = (".webp", ".png", ".apng", ".gif")
FORMATS = ("WEBP", "PNG", "GIF")
WEBP_ANIMATED = 0b10
GIF_SIGNATURES = (b"GIF87a", b"GIF89a")


def read_animation(path: Path, *, start: int = 0, count: int | None = None, bits: Bits = 8, alpha_mode: AlphaMode = "file") -> Decoded:
    """Frames [start, start + count) of an animated WebP, PNG or GIF (or of a still: one frame without a rate).

    Encoders store a held picture once, with a longer duration; it is repeated here, so that the frame rate is constant again.
    """
    data = read_bytes(path)
    with image_errors(path):
        durations = _durations(path, data)
    order, fps = _shown(path, durations)
    stored = Stored()
    chosen = order[start : None if count is None else start + count]
    if not chosen:
        raise MediaError(path, got=f"{len(order)} frames", expected=f"more than {start}")
    colour, matte = FrameStack(path, count=len(chosen)), FrameStack(path, count=len(chosen))
    has_alpha, held = False, Counter(chosen)
    with image_errors(path):
        if len(durations) == 1 and not _moves_once(data):
            still, levels, stored = read_still(Still(path=path, read=lambda: data), bits=bits, alpha_mode=alpha_mode)
            pictures = iter([(still, levels)])
        else:
            pictures = _pictures(path, data, first=chosen[0], last=chosen[-1], frames=len(chosen), bits=bits)
        for index, (rgb, alpha) in enumerate(pictures, chosen[0]):
            has_alpha = has_alpha or alpha is not None
            # In a GIF single frames may be opaque.
            shown = np.full(rgb.shape[:2], np.iinfo(rgb.dtype).max, rgb.dtype) if alpha is None else alpha
            for _ in range(held[index]):
                colour.add(rgb)
                matte.add(shown)
    times = uneven_times(durations) if len(order) == len(durations) else None
    if times is not None:
        times = tuple(times[i] - times[chosen[0]] for i in chosen)
    return Decoded(
        rgb=colour.joined(),
        alpha=matte.joined() if has_alpha else None,
        fps=fps,
        times=times,
        settled=has_alpha and path.suffix.lower() == exr.SUFFIX,
        divided=stored.divided,
        transfer=stored.transfer,
    )


def count_animation_frames(path: Path) -> int:
    """Frames as read_animation gives them, without decoding."""
    return len(_header(path)[0])


def stated_animation_rate(path: Path) -> float | None:
    """Frames per second as read_animation gives them; None for a still."""
    return _header(path)[1]


def _header(path: Path) -> tuple[list[int], float | None]:
    """Remembered until the file changes."""
    if not path.is_file():
        read_bytes(path)  # says so
    stat = path.stat()
    return _header_of(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=1024)
def _header_of(path: Path, _modified_ns: int, _size: int) -> tuple[list[int], float | None]:
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


def _moves_once(data: bytes) -> bool:
    """Whether a file of one picture is an animation of one: a PNG with another picture before it, for viewers that know no animations."""
    if not data.startswith(PNG_SIGNATURE):
        return False
    apng = read_apng(data)
    return apng.still_apart and len(apng.pictures) == 1


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
        return [float(picture.duration_ms) for picture in webp_pictures(data)] or [0.0]
    if data.startswith(PNG_SIGNATURE):
        durations = [picture.duration_ms for picture in read_apng(data).pictures]
        return durations if len(durations) > 1 else [0.0]
    if data.startswith(GIF_SIGNATURES):
        return gif_durations(data) or [0.0]
    raise MediaError(path, got="no picture of a known format", expected="WebP, PNG or GIF")


def _pictures(path: Path, data: bytes, *, first: int, last: int, frames: int, bits: Bits) -> Iterator[tuple[Rgb, Levels | None]]:
    """Stored pictures FIRST to LAST, composed as the format wants it."""
    if data.startswith(PNG_SIGNATURE):
        for rgb, alpha in apng_frames(path, data, first=first, last=last, frames=frames):
            depth: Bits = 8 if rgb.dtype == np.uint8 else bits
            yield change_bits(rgb, depth), None if alpha is None else change_bits(alpha, depth)
        return
    begin = 0
    if data[8:12] == b"WEBP":
        begin, data = cut_webp(data, first=first, last=last)
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        check_size(path, width=image.width, height=image.height, num_frames=max(frames, last + 1 - begin))
        stored = getattr(image, "n_frames", 1)
        if stored <= last - begin:
            raise MediaError(path, got=f"{stored} pictures", expected=f"{last - begin + 1} (its header)")
        for index in range(begin, last + 1):
            image.seek(index - begin)
            picture = split_channels(image) if index >= first else None
            if picture is not None:
                yield picture
