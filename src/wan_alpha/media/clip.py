"""The clip that readers return and writers take, its limits, and where codec errors become MediaError."""

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from wan_alpha.errors import MediaError

MAX_SIDE = 16384
MAX_FRAMES = 100_000
MAX_BYTES = 16 * 2**30
CODEC_ERRORS = (
    av.FFmpegError,
    OSError,
    ValueError,
    EOFError,
    SyntaxError,  # Pillow's word for a broken PNG
    IndexError,
    struct.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class RgbaClip:
    """Straight-alpha sRGB, 8 bits per channel; colour where alpha is 0 is whatever the source had there."""

    rgb: UInt8[np.ndarray, "T H W 3"]
    alpha: UInt8[np.ndarray, "T H W"]
    fps: float
    """Frames per second, above 0."""

    def __post_init__(self) -> None:
        if self.rgb.shape != (*self.alpha.shape, 3):
            raise MediaError(
                "clip", got=f"colour {self.rgb.shape} with alpha {self.alpha.shape}", expected="equal frames, height and width"
            )

    @property
    def num_frames(self) -> int:
        return self.alpha.shape[0]

    @property
    def height(self) -> int:
        return self.alpha.shape[1]

    @property
    def width(self) -> int:
        return self.alpha.shape[2]

    def rgba(self) -> UInt8[np.ndarray, "T H W 4"]:
        return np.concatenate([self.rgb, self.alpha[..., None]], axis=-1)


def check_size(path: Path, *, width: int, height: int, num_frames: int = 1) -> None:
    """Refuse absurd sizes before memory is taken for them."""
    size = f"{num_frames} frames of {width}x{height}"
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise MediaError(path, got=size, expected=f"sides of 1 to {MAX_SIDE} pixels", do="resize the clip first")
    if num_frames > MAX_FRAMES:
        raise MediaError(path, got=size, expected=f"at most {MAX_FRAMES} frames", do="cut the clip into parts")
    if num_frames * width * height * 4 > MAX_BYTES:
        raise MediaError(path, got=size, expected=f"at most {MAX_BYTES >> 30} GiB as 8-bit RGBA", do="cut the clip into parts")


def codec_threads(*, width: int, height: int) -> int:
    """One thread for small pictures, where handing frames between threads costs more than decoding them; 0 is the codec's choice."""
    return 1 if width * height <= 512 * 512 else 0


@contextmanager
def media_errors(path: Path, *, doing: str = "read") -> Iterator[None]:
    """Everything a codec raises leaves as one MediaError that names the file."""
    try:
        yield
    except CODEC_ERRORS as error:
        expected = "a complete, readable file" if doing == "read" else "a file that can be written"
        do = "check that the file plays; copy or export it again" if doing == "read" else "check the folder and the free space"
        raise MediaError(path, got=f"{type(error).__name__} ({_reason(error)})", expected=expected, do=do) from error


@contextmanager
def image_errors(path: Path) -> Iterator[None]:
    """media_errors, with Pillow's warning about decompression bombs as an error too."""
    with media_errors(path), warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or "no message"
    return str(text)[:160]
