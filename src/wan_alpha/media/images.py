"""Stills, folders of stills, and animated WebP, PNG and GIF: through Pillow, and through PyAV where Pillow truncates (16-bit PNG)."""

import logging
import re
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from wan_alpha.errors import MediaError
from wan_alpha.media.clip import check_size, image_errors
from wan_alpha.media.colour import frame_alpha, frame_rgb
from wan_alpha.media.video import Decoded

log = logging.getLogger(__name__)

STILL_SUFFIXES = (".png", ".webp")
ANIMATION_SUFFIXES = (".webp", ".png", ".apng", ".gif")
COMMON_RATES = (*range(1, 61), 23.976, 29.97, 59.94, 90, 100, 120)


def natural_key(path: Path) -> tuple[list[tuple[int, int | str]], str]:
    """Sort key in which frame2 comes before frame10."""
    parts = re.split(r"(\d+)", path.name.casefold())
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts], path.name


def still_files(folder: Path) -> list[Path]:
    """The still images of a folder in natural order."""
    files = [
        path for path in folder.iterdir() if path.suffix.lower() in STILL_SUFFIXES and path.is_file() and not path.name.startswith(".")
    ]
    return sorted(files, key=natural_key)


def read_folder(folder: Path, *, start: int = 0, count: int | None = None) -> Decoded:
    """Frames [start, start + count) of a folder of stills, 8 or 16 bits per channel (rounded to 8)."""
    files = still_files(folder)
    if len(files) <= start:
        raise MediaError(folder, got=f"{len(files)} images", expected=f"more than {start} files of {', '.join(STILL_SUFFIXES)}")
    rgb: list[np.ndarray] = []
    alpha: list[np.ndarray] = []
    for path in files[start : None if count is None else start + count]:
        colour, matte = read_still(path)
        height, width = colour.shape[:2]
        if rgb and colour.shape != rgb[0].shape:
            raise MediaError(path, got=f"{width}x{height}", expected=f"{rgb[0].shape[1]}x{rgb[0].shape[0]} as the frames before it")
        check_size(folder, width=width, height=height, num_frames=len(files) if count is None else count)
        if rgb and (matte is None) != (not alpha):
            got, expected = ("no alpha channel", "RGBA") if matte is None else ("an alpha channel", "none")
            raise MediaError(path, got=got, expected=f"{expected} as the frames before it")
        rgb.append(colour)
        alpha += [] if matte is None else [matte]
    return Decoded(rgb=np.stack(rgb), alpha=np.stack(alpha) if alpha else None, fps=None)


def read_still(path: Path) -> tuple[UInt8[np.ndarray, "H W 3"], UInt8[np.ndarray, "H W"] | None]:
    """Colour and alpha of one image; alpha is None when it has none."""
    with image_errors(path):
        if _is_16_bit_png(path):
            return _read_16_bit_png(path)
        with Image.open(path) as image:
            check_size(path, width=image.width, height=image.height)
            return _split(image)


def read_animation(path: Path, *, start: int = 0, count: int | None = None) -> Decoded:
    """Frames [start, start + count) of an animated WebP, PNG or GIF (or of a still: one frame without a rate).

    Encoders store a held picture once, with a longer duration; it is repeated here, so that the frame rate is constant again.
    """
    if not path.is_file():
        raise MediaError(path, got="no such file", expected="an image or animation")
    rgb, alpha, durations = [], [], []
    with image_errors(path):
        if _is_16_bit_png(path) and not _is_animated(path):
            colour, matte = _read_16_bit_png(path)
            return _window(path, [colour], [matte], None, start=start, count=count)
        with Image.open(path) as image:
            total = getattr(image, "n_frames", 1)
            check_size(path, width=image.width, height=image.height, num_frames=total)
            # An animated PNG may carry a still that is not part of the animation.
            first = 1 if total > 1 and image.info.get("default_image") else 0
            for index in range(first, total):
                image.seek(index)
                colour, matte = _split(image)
                rgb.append(colour)
                alpha.append(matte)
                durations.append(float(image.info.get("duration") or 0))
    repeats, fps = timing(durations)
    if fps is not None and len(set(repeats)) == 1 and max(durations) > 1.5 * min(durations):
        log.warning("%s: uneven frame durations; every frame is kept, at the mean rate of %.3f per second", path, fps)
    check_size(path, width=rgb[0].shape[1], height=rgb[0].shape[0], num_frames=sum(repeats))
    order = [i for i, times in enumerate(repeats) for _ in range(times)]
    return _window(path, [rgb[i] for i in order], [alpha[i] for i in order], fps, start=start, count=count)


def timing(durations: list[float]) -> tuple[list[int], float | None]:
    """From frame durations in ms: how often each frame is shown, and the rate (None without durations).

    Durations that are multiples of the shortest (to 1 ms of rounding each) are held frames. Otherwise every frame counts once, at
    the mean rate. The rate is the common one (16, 23.976, ...) that the rounded durations stand for, if there is one.

    >>> timing([62, 63, 125, 62])
    ([1, 1, 2, 1], 16.0)
    """
    ones = [1] * len(durations)
    shortest = min(durations)
    if shortest <= 0:
        return ones, None
    repeats = [max(1, round(duration / shortest)) for duration in durations]
    if any(abs(d - n * shortest) > min(n, shortest / 4) for d, n in zip(durations, repeats, strict=True)):
        repeats = ones
    total, shown = sum(durations), sum(repeats)
    near = [r for r in COMMON_RATES if abs(shown * 1000 / r - total) <= 1 and abs(1000 / r - shortest) <= 1]
    mean = 1000 * shown / total
    return repeats, float(min(near, key=lambda rate: abs(rate - mean))) if near else mean


def count_animation_frames(path: Path) -> int:
    return len(read_animation(path).rgb)


def _window(path: Path, rgb: list, alpha: list, fps: float | None, *, start: int, count: int | None) -> Decoded:
    chosen = slice(start, None if count is None else start + count)
    if not rgb[chosen]:
        raise MediaError(path, got=f"{len(rgb)} frames", expected=f"more than {start}")
    has_alpha = any(a is not None for a in alpha)
    # In a GIF single frames may be opaque.
    masks = [np.full(c.shape[:2], 255, np.uint8) if a is None else a for c, a in zip(rgb[chosen], alpha[chosen], strict=True)]
    return Decoded(rgb=np.stack(rgb[chosen]), alpha=np.stack(masks) if has_alpha else None, fps=fps)


def _split(image: Image.Image) -> tuple[UInt8[np.ndarray, "H W 3"], UInt8[np.ndarray, "H W"] | None]:
    if not image.has_transparency_data:
        return np.array(image.convert("RGB")), None
    rgba = np.array(image.convert("RGBA"))
    return rgba[..., :3], rgba[..., 3]


def _is_16_bit_png(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(26)
    return head.startswith(b"\x89PNG\r\n\x1a\n") and len(head) == 26 and head[24] == 16


def _is_animated(path: Path) -> bool:
    with Image.open(path) as image:
        return getattr(image, "n_frames", 1) > 1


def is_animation(path: Path) -> bool | None:
    """Whether an image file has several frames, from its header; None when it cannot be opened (reading it says why)."""
    try:
        with image_errors(path):
            return _is_animated(path)
    except MediaError:
        return None


def _read_16_bit_png(path: Path) -> tuple[UInt8[np.ndarray, "H W 3"], UInt8[np.ndarray, "H W"] | None]:
    """Pillow keeps the high byte only, which is darker by half a level on average."""
    with path.open("rb") as file, av.open(file, mode="r") as container:
        check_size(path, width=container.streams.video[0].width, height=container.streams.video[0].height)
        frame = next(container.decode(video=0), None)
        if frame is None:
            raise MediaError(path, got="no image data", expected="a complete PNG")
        return frame_rgb(frame), frame_alpha(frame)
