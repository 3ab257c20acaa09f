"""Open any RGBA clip or colour + matte pair. Every frame, straight alpha, 8 or 16 bits, the file's own frame rate."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from wan_alpha.errors import MediaError
from wan_alpha.media import animation, stills, video
from wan_alpha.media.alpha_mode import AlphaMode, as_straight
from wan_alpha.media.clip import Bits, Decoded, Matte, RgbaClip, change_bits, memory_named
from wan_alpha.media.matrix import MatrixWord
from wan_alpha.media.sidecar import series_rate
from wan_alpha.media.timeline import timeline
from wan_alpha.media.transfer import srgb_to_linear

log = logging.getLogger(__name__)

DIVIDED = ("premultiplied", "detect")
"""Conventions under which colour may be divided by alpha: that is done at all the bits that a file has, then rounded."""
RATE_TOLERANCE = 0.01
ASPECT_TOLERANCE = 0.01
VIDEO_SUFFIXES = (".mp4", ".mov", ".webm", ".mkv", ".m4v", ".avi")
MEDIA_SUFFIXES = tuple(
    dict.fromkeys((*animation.ANIMATION_SUFFIXES, ".exr", *stills.JPEG_SUFFIXES, stills.ARCHIVE_SUFFIX, *VIDEO_SUFFIXES))
)


@dataclass(frozen=True, kw_only=True)
class ReadSettings:
    """The caller's word on what a clip's files may leave open."""

    fps_if_unknown: float = 16.0
    """Frames per second of what states none: stills."""
    fps_is_known: bool = False
    """That is the caller's word, not a guess which has to be told."""
    alpha_mode: AlphaMode = "file"
    """As in alpha_mode.as_straight."""
    matrix: MatrixWord = "file"
    """Of YUV colour without a tag, as in matrix.settle_matrix."""


BY_FILE = ReadSettings()


@memory_named
def read_rgba(path: Path, *, start: int = 0, count: int | None = None, bits: Bits = 8, settings: ReadSettings = BY_FILE) -> RgbaClip:
    """A clip with its own alpha channel: a folder or zip of stills, animated WebP / PNG / GIF, or RGBA .mov, .webm, .mkv.

    Frames [start, start + count), all of them by default. bits = 16 gives 16 bits per channel where the file's alpha has more than
    8. A file without alpha, a damaged one, or one that is too short for the window raises MediaError.
    """
    decoded = _decode(path, start=start, count=count, bits=16 if settings.alpha_mode in DIVIDED else bits, settings=settings)
    if decoded.alpha is None:
        raise _without_alpha(path)
    _check_window(path, len(decoded.alpha), start, count)
    fps, assumed = decoded.fps or settings.fps_if_unknown, decoded.assumed_matrix
    clip = RgbaClip(rgb=decoded.rgb, alpha=decoded.alpha, fps=fps, times=decoded.times, assumed_matrix=assumed)
    clip = _straight(clip, path, decoded, alpha_mode=settings.alpha_mode)
    return clip.with_bits(8) if bits == 8 else clip


@memory_named
def read_pair(
    rgb_path: Path,
    alpha_path: Path,
    *,
    start: int = 0,
    count: int | None = None,
    bits: Bits = 8,
    settings: ReadSettings = BY_FILE,
) -> RgbaClip:
    """Colour from one file, alpha from the luma of another; both must have the same frames and size. Else as read_rgba.

    Limited-range mattes are stretched to full range (untagged ones: see colour.matte_is_full_range).
    """
    said = settings.alpha_mode
    divided = said in DIVIDED or (said == "file" and _kind(rgb_path) == "video" and timeline(rgb_path).premultiplied)
    alpha, matte_fps = read_matte(alpha_path, start=start, count=count, bits=16 if divided else bits)
    depth: Bits = 16 if alpha.dtype == np.uint16 and bits == 16 else 8
    decoded = _decode(rgb_path, start=start, count=count, bits=16 if divided else depth, settings=settings)
    if len(decoded.rgb) != len(alpha):
        raise MediaError(
            alpha_path, got=f"{len(alpha)} frames", expected=f"{len(decoded.rgb)} as in {rgb_path.name}", do="cut both to one length"
        )
    if decoded.rgb.shape[1:3] != alpha.shape[1:3]:
        got, expected = (f"{w}x{h}" for h, w in (alpha.shape[1:3], decoded.rgb.shape[1:3]))
        raise MediaError(alpha_path, got=got, expected=f"{expected} as {rgb_path.name}", do="export both at one size")
    _check_window(rgb_path, len(alpha), start, count)
    if decoded.fps and matte_fps and rates_differ(decoded.fps, matte_fps):
        log.warning("%s: %.3f frames per second, its matte has %.3f; the colour's rate is kept", rgb_path, decoded.fps, matte_fps)
    fps, assumed = decoded.fps or matte_fps or settings.fps_if_unknown, decoded.assumed_matrix
    working: Bits = 16 if np.uint16 in (decoded.rgb.dtype, alpha.dtype) else 8
    colour, matte = change_bits(decoded.rgb, working), change_bits(alpha, working)
    clip = RgbaClip(rgb=colour, alpha=matte, fps=fps, times=decoded.times, assumed_matrix=assumed)
    return _straight(clip, rgb_path, decoded, alpha_mode=said).with_bits(depth)


@memory_named
def read_matte(path: Path, *, start: int = 0, count: int | None = None, bits: Bits = 8) -> tuple[Matte, float | None]:
    """A matte as alpha, and its frame rate. Grey images count as they are; of coloured ones the green channel. EXR holds coverage."""
    if path.suffix.lower() in VIDEO_SUFFIXES and not path.is_dir():
        return video.read_matte_video(path, start=start, count=count, bits=bits)
    decoded = _decode(path, start=start, count=count, bits=16, settings=ReadSettings(alpha_mode="straight"))
    levels = np.ascontiguousarray(decoded.rgb[..., 1])
    if decoded.transfer == "linear":  # coverage came as colour, in sRGB values
        levels = np.rint(srgb_to_linear(levels / 65535) * 65535).astype(np.uint16)
    return levels if bits == 16 else change_bits(levels, bits), decoded.fps


def read_clip(
    *,
    rgba: Path | None,
    rgb: Path | None,
    alpha: Path | None,
    start: int = 0,
    count: int | None = None,
    bits: Bits = 8,
    settings: ReadSettings = BY_FILE,
) -> RgbaClip:
    """read_rgba or read_pair, whichever the given paths call for."""
    if rgba is not None:
        return read_rgba(rgba, start=start, count=count, bits=bits, settings=settings)
    if rgb is None or alpha is None:
        raise MediaError(rgb or alpha or "clip", got="half a pair", expected="colour and matte")
    return read_pair(rgb, alpha, start=start, count=count, bits=bits, settings=settings)


def count_frames(path: Path) -> int:
    """Frames of a clip, as read_rgba and read_pair count them."""
    kind = _kind(path)
    if kind == "stills":
        with stills.still_series(path) as series:
            return len(series)
    return timeline(path).count if kind == "video" else animation.count_animation_frames(path)


def stated_rate(path: Path) -> float | None:
    """Frames per second that a clip's file states, from its header; of stills, the record beside them. None without."""
    kind = _kind(path)
    if kind == "stills":
        return series_rate(path)
    return timeline(path).fps if kind == "video" else animation.stated_animation_rate(path)


def lacks_rate(paths: Sequence[Path]) -> bool:
    """Whether the files of a clip of several frames state no rate, so that it has to be assumed."""
    return not any(stated_rate(path) for path in paths) and count_frames(paths[0]) > 1


def pixel_aspect(path: Path) -> float:
    """Width of a clip's pixels over their height, as its header states it; 1 where it does not."""
    return timeline(path).pixel_aspect if _kind(path) == "video" else 1.0


def is_square(aspect: float) -> bool:
    return abs(aspect - 1) <= ASPECT_TOLERANCE


def rates_differ(colour: float, matte: float) -> bool:
    return abs(colour - matte) > RATE_TOLERANCE


def is_series(path: Path) -> bool:
    """Whether a clip is a folder or a zip of stills."""
    return _kind(path) == "stills"


def _decode(path: Path, *, start: int, count: int | None, bits: Bits, settings: ReadSettings) -> Decoded:
    kind = _kind(path)
    if kind == "video":
        decoded = video.read_video(path, start=start, count=count, bits=bits, matrix=settings.matrix)
    else:
        read = stills.read_series if kind == "stills" else animation.read_animation
        decoded = read(path, start=start, count=count, bits=bits, alpha_mode=settings.alpha_mode)
    if decoded.times is not None:
        log.info("%s: variable frame rate, %.3f per second on average", path, decoded.fps or 0)
    return decoded


def _straight(clip: RgbaClip, path: Path, decoded: Decoded, *, alpha_mode: AlphaMode) -> RgbaClip:
    if decoded.settled:
        return replace(clip, divided=decoded.divided)
    return as_straight(clip, path, mode=alpha_mode, stated_premultiplied=decoded.premultiplied, transfer=decoded.transfer)


def _kind(path: Path) -> str:
    suffix = path.suffix.lower()
    if path.is_dir() or suffix == stills.ARCHIVE_SUFFIX:
        return "stills"
    if suffix in VIDEO_SUFFIXES:
        return "video"
    if suffix in MEDIA_SUFFIXES:
        return "image"
    if not path.exists():
        raise MediaError(path, got="no such file", expected="a clip")
    raise MediaError(
        path, got=f"unknown extension {suffix or '(none)'}", expected=f"a folder of PNG frames or one of {', '.join(MEDIA_SUFFIXES)}"
    )


def _without_alpha(path: Path) -> MediaError:
    if _kind(path) == "video" and video.has_hidden_layer(path):
        got, do = "HEVC, whose alpha layer cannot be decoded here", f"export it as ProRes 4444, or add its matte as {path.stem}_alpha.mp4"
        return MediaError(path, got=got, expected="RGBA", do=do)
    do = f"add its matte as {path.stem}_alpha.mp4, or export the clip with alpha"
    return MediaError(path, got="no alpha channel", expected="RGBA", do=do)


def _check_window(path: Path, frames: int, start: int, count: int | None) -> None:
    if count is not None and frames != count:
        raise MediaError(path, got=f"{frames} frames from frame {start} on", expected=f"{count}")
