"""Read written files back and compare: the alpha of a master never differs by a single level."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wan_alpha.errors import MediaError
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.read import read_pair, read_rgba
from wan_alpha.media.video import read_video


@dataclass(frozen=True, kw_only=True)
class ReadBack:
    """Differences on the 0..255 scale. Colour is compared where alpha is above 0."""

    alpha_max_error: int
    rgb_max_error: int
    rgb_mean_error: float


def verify_rgba(path: Path, clip: RgbaClip) -> ReadBack:
    """Decode an RGBA file or folder again; MediaError unless frames, size and alpha are the clip's. A frame folder has no rate to check."""
    return compare(path, read_rgba(path, fps_if_unknown=clip.fps), clip)


def verify_pair(rgb_path: Path, alpha_path: Path, clip: RgbaClip) -> ReadBack:
    """The same for a colour + matte pair."""
    return compare(alpha_path, read_pair(rgb_path, alpha_path), clip)


def verify_video(path: Path, *, num_frames: int, height: int, width: int) -> None:
    """Decode an opaque video again; MediaError unless it has these frames and this size (rounded up to even)."""
    got = read_video(path).rgb.shape[:3]
    expected = (num_frames, height + height % 2, width + width % 2)
    if got != expected:
        raise MediaError(path, got=f"{got} frames, height, width after writing", expected=expected, do="report this; the file was not kept")


def compare(path: Path, got: RgbaClip, clip: RgbaClip) -> ReadBack:
    """Differences between a decoded clip and the one that was written; MediaError for anything but colour loss."""
    do = "report this: the encoder of this installation changes clips"
    if got.alpha.shape != clip.alpha.shape:
        raise MediaError(path, got=f"{got.alpha.shape} frames, height, width after writing", expected=clip.alpha.shape, do=do)
    if abs(got.fps - clip.fps) > 0.002 * clip.fps + 0.5 * clip.fps**2 / 1000 / clip.num_frames:
        raise MediaError(path, got=f"{got.fps:.3f} frames per second after writing", expected=f"{clip.fps:.3f}", do=do)
    alpha_error = _max_difference(got.alpha, clip.alpha)
    if alpha_error:
        raise MediaError(path, got=f"alpha off by up to {alpha_error} levels after writing", expected="equal alpha", do=do)
    worst, total, count = 0, 0, 0
    for decoded, written, alpha in zip(got.rgb, clip.rgb, clip.alpha, strict=True):
        difference = np.abs(decoded.astype(np.int16) - written)[alpha > 0]
        worst = max(worst, int(difference.max(initial=0)))
        total, count = total + int(difference.sum(dtype=np.int64)), count + difference.size
    return ReadBack(alpha_max_error=alpha_error, rgb_max_error=worst, rgb_mean_error=total / max(count, 1))


def _max_difference(a: np.ndarray, b: np.ndarray) -> int:
    return max(int(np.abs(x.astype(np.int16) - y).max(initial=0)) for x, y in zip(a, b, strict=True))
