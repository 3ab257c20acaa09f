"""Read written files back and compare: alpha, colour, tags and rate are within their format's bounds, or the file is refused."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from wan_alpha.errors import MediaError
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.colour import BT709, FULL, LIMITED
from wan_alpha.media.colour_error import ColourBound, allowed_error, colour_error
from wan_alpha.media.read import ReadSettings, read_pair, read_rgba
from wan_alpha.media.video import colour_tags, read_video

# Chosen from docs/formats.md, "Bounds on colour", where the measurements stand.
PAIR_COLOUR = ColourBound(mean=3.0, pixel=20.0)
PREVIEW_COLOUR = ColourBound(mean=8.0, pixel=150.0, halved=2.0)
PAIR_RANGES, PREVIEW_RANGES = (LIMITED, FULL), (LIMITED,)
REPORT = "report this: the encoder of this installation changes clips"


@dataclass(frozen=True, kw_only=True)
class ReadBack:
    """Differences in levels of the clip's bits (0..255, or 0..65535). Colour is compared where alpha is above 0."""

    alpha_max_error: int
    rgb_max_error: int
    rgb_mean_error: float
    colour_error: float = 0.0
    """Of the worst frame, in levels of 255 (colour_error.colour_error)."""


def verify_rgba(path: Path, clip: RgbaClip) -> ReadBack:
    """Decode a lossless RGBA file or folder again; MediaError unless it is the clip. A frame folder has no rate to check."""
    return compare(path, read_rgba(path, settings=ReadSettings(fps_if_unknown=clip.fps)), clip)


def verify_pair(rgb_path: Path, alpha_path: Path, clip: RgbaClip) -> ReadBack:
    """Decode a colour + matte pair again; MediaError unless it has the clip's frames, size, rate, alpha, tags, and colour within bounds."""
    error = compare(alpha_path, read_pair(rgb_path, alpha_path), clip, colour=PAIR_COLOUR, colour_path=rgb_path)
    check_tags((rgb_path, alpha_path), PAIR_RANGES)
    return error


def verify_preview(path: Path, frames: UInt8[np.ndarray, "T H W 3"], *, fps: float) -> ReadBack:
    """Decode an opaque preview again; MediaError unless it has these frames, colours, rate and this size, rounded up to even."""
    decoded = read_video(path)
    num_frames, height, width = frames.shape[:3]
    if decoded.rgb.shape[:3] != (num_frames, height + height % 2, width + width % 2):
        got = f"{decoded.rgb.shape[:3]} frames, height, width after writing"
        raise MediaError(path, got=got, expected=(num_frames, height + height % 2, width + width % 2), do=REPORT)
    check_tags((path,), PREVIEW_RANGES)
    opaque = np.full(frames.shape[:3], 255, np.uint8)
    shown = RgbaClip(rgb=decoded.rgb[:, :height, :width], alpha=opaque, fps=decoded.fps or 0.0)
    return compare(path, shown, RgbaClip(rgb=frames, alpha=opaque, fps=fps), colour=PREVIEW_COLOUR)


def check_tags(paths: tuple[Path, ...], ranges: tuple[int, ...]) -> None:
    """MediaError unless each movie is tagged BT.709, and limited or full range as it was written."""
    for path, color_range in zip(paths, ranges, strict=True):
        tags = colour_tags(path)
        expected = {"matrix": BT709, "primaries": BT709, "transfer": BT709, "range": color_range}
        wrong = [f"{name} {tags[name]}" for name, value in expected.items() if tags[name] != value]
        if wrong:
            wanted = ", ".join(f"{name} {value}" for name, value in expected.items())
            raise MediaError(path, got=f"colour tags {', '.join(wrong)} after writing", expected=wanted, do=REPORT)


def compare(
    path: Path,
    got: RgbaClip,
    clip: RgbaClip,
    *,
    alpha_bound: int = 0,
    colour: ColourBound | None = None,
    colour_path: Path | None = None,
) -> ReadBack:
    """Differences between a decoded clip and the one that was written, at the same bits. COLOUR_PATH: where colour has a file of its own.

    MediaError for another length, size or rate, for alpha off by more than ALPHA_BOUND levels, and for visible colour that is beyond
    its bound in any frame; without a bound, for any that differs.
    """
    if got.alpha.shape != clip.alpha.shape:
        raise MediaError(path, got=f"{got.alpha.shape} frames, height, width after writing", expected=clip.alpha.shape, do=REPORT)
    _check_rate(path, got.fps, clip.fps, clip.num_frames)
    alpha_error = max(int(np.abs(a.astype(np.int32) - b).max(initial=0)) for a, b in zip(got.alpha, clip.alpha, strict=True))
    if alpha_error > alpha_bound:
        expected = f"at most {alpha_bound}" if alpha_bound else "equal alpha"
        raise MediaError(path, got=f"alpha off by up to {alpha_error} levels after writing", expected=expected, do=REPORT)
    worst, total, count = 0, 0, 0
    for decoded, written, alpha in zip(got.rgb, clip.rgb, clip.alpha, strict=True):
        difference = np.abs(decoded.astype(np.int32) - written)[alpha > 0]
        worst = max(worst, int(difference.max(initial=0)))
        total, count = total + int(difference.sum(dtype=np.int64)), count + difference.size
    if worst and colour is None:
        raise MediaError(colour_path or path, got=f"colour off by up to {worst} levels after writing", expected="equal colour", do=REPORT)
    error = 0.0 if colour is None else _colour_error(colour_path or path, got, clip, colour)
    return ReadBack(alpha_max_error=alpha_error, rgb_max_error=worst, rgb_mean_error=total / max(count, 1), colour_error=error)


def _colour_error(path: Path, got: RgbaClip, clip: RgbaClip, bound: ColourBound) -> float:
    """The largest of any frame. MediaError for one that is beyond the bound, which costs little to know where it is below the mean."""
    worst = 0.0
    for index, (decoded, written, alpha) in enumerate(zip(got.rgb, clip.rgb, clip.alpha, strict=True)):
        error = colour_error(decoded, written, alpha)
        worst = max(worst, error)
        if error > bound.mean and error > (allowed := allowed_error(bound, written, alpha)):
            said = f"the colour of frame {index} off by {error:.1f} of 255 levels on average after writing"
            raise MediaError(path, got=said, expected=f"at most {allowed:.1f}", do=REPORT)
    return worst


def _check_rate(path: Path, got: float, expected: float, num_frames: int) -> None:
    """Within two in a thousand, and what whole milliseconds do to a short clip."""
    if abs(got - expected) > 0.002 * expected + 0.5 * expected**2 / 1000 / num_frames:
        raise MediaError(path, got=f"{got:.3f} frames per second after writing", expected=f"{expected:.3f}", do=REPORT)
