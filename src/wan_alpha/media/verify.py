"""Read written files back and compare: alpha is within its format's bound, which is 0 for 8 bits, or the file is refused."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from wan_alpha.errors import MediaError
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.read import ReadSettings, read_pair, read_rgba
from wan_alpha.media.video import read_video

REPORT = "report this: the encoder of this installation changes clips"


@dataclass(frozen=True, kw_only=True)
class ReadBack:
    """Differences in levels of the clip's bits (0..255, or 0..65535). Colour is compared where alpha is above 0."""

    alpha_max_error: int
    rgb_max_error: int
    rgb_mean_error: float


def verify_rgba(path: Path, clip: RgbaClip) -> ReadBack:
    """Decode an RGBA file or folder again; MediaError unless frames, size and alpha are the clip's. A frame folder has no rate to check."""
    return compare(path, read_rgba(path, settings=ReadSettings(fps_if_unknown=clip.fps)), clip)


def verify_pair(rgb_path: Path, alpha_path: Path, clip: RgbaClip) -> ReadBack:
    """The same for a colour + matte pair."""
    return compare(alpha_path, read_pair(rgb_path, alpha_path), clip)


def verify_video(path: Path, *, num_frames: int, height: int, width: int, fps: float | None = None) -> None:
    """Decode an opaque video again; MediaError unless it has these frames, this size (rounded up to even) and this rate."""
    decoded = read_video(path)
    expected = (num_frames, height + height % 2, width + width % 2)
    if decoded.rgb.shape[:3] != expected:
        got = f"{decoded.rgb.shape[:3]} frames, height, width after writing"
        raise MediaError(path, got=got, expected=expected, do="report this; the file was not kept")
    if fps is not None:
        _check_rate(path, decoded.fps or 0.0, fps, num_frames)


def compare(
    path: Path, got: RgbaClip, clip: RgbaClip, *, alpha_bound: int = 0, lossless_colour: Literal["exact", "any"] = "any"
) -> ReadBack:
    """Differences between a decoded clip and the one that was written, at the same bits.

    MediaError for another length, size or rate, for alpha off by more than ALPHA_BOUND levels, and for any visible colour that
    differs where lossless_colour is "exact".
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
    if worst and lossless_colour == "exact":
        raise MediaError(path, got=f"colour off by up to {worst} levels after writing", expected="equal colour", do=REPORT)
    return ReadBack(alpha_max_error=alpha_error, rgb_max_error=worst, rgb_mean_error=total / max(count, 1))


def _check_rate(path: Path, got: float, expected: float, num_frames: int) -> None:
    """Within two in a thousand, and what whole milliseconds do to a short clip."""
    if abs(got - expected) > 0.002 * expected + 0.5 * expected**2 / 1000 / num_frames:
        raise MediaError(path, got=f"{got:.3f} frames per second after writing", expected=f"{expected:.3f}", do=REPORT)
