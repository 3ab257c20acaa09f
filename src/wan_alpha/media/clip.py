"""The clip that readers return and writers take, its limits, and where codec errors become MediaError."""

import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Concatenate, Literal, ParamSpec, TypeVar

import av
import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image, UnidentifiedImageError

from wan_alpha.errors import DiskFull, MediaError, is_disk_full
from wan_alpha.limits import MAX_BYTES, MAX_FRAMES, MAX_PIXELS, MAX_SIDE
from wan_alpha.media.transfer import Transfer

Bits = Literal[8, 16]
P = ParamSpec("P")
Read = TypeVar("Read")
ALPHA_TAG = "wan_alpha_mode"
"""Where a file says what its colour is, straight or premultiplied: a tag of a movie, a text chunk of PNG, an attribute of EXR."""
RECORD_KEY, COMMENT_TAG = "wan_alpha", "comment"
"""Where a file keeps its clip's record: a text chunk of PNG, a tag of a movie (see record.py)."""
SMALLER = "cut the clip into parts, or make it smaller"
Colour = UInt8[np.ndarray, "T H W 3"] | UInt16[np.ndarray, "T H W 3"]
Matte = UInt8[np.ndarray, "T H W"] | UInt16[np.ndarray, "T H W"]

CODEC_ERRORS = (
    av.FFmpegError,
    OSError,
    ValueError,
    EOFError,
    SyntaxError,  # Pillow's word for a broken PNG
    IndexError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    RuntimeError,  # zipfile's word for an encrypted entry, OpenEXR's for everything
    AssertionError,  # Pillow's word for a palette image without its palette
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class RgbaClip:
    """Straight-alpha sRGB, 8 or 16 bits per channel (colour and alpha alike); under alpha 0 is whatever colour the source had there."""

    rgb: Colour
    alpha: Matte
    fps: float
    """Frames per second, above 0: the mean where the rate varies."""
    times: tuple[float, ...] | None = None
    """Seconds at which each frame begins, for a source of variable rate; None: frame i begins at i / fps."""
    record: str | None = None
    """JSON of how a generated clip was made; every writer puts it into its file where the format has a place (see record.py)."""
    assumed_matrix: str | None = None
    """The matrix by which YUV colour without a tag was read (see matrix.py); None: the file's own, or there was none to assume."""
    divided: str | None = None
    """On whose word, or on what evidence, colour was divided by alpha when it was read; None: it was not."""
    evidence: str | None = None
    """What its pixels say of straight or premultiplied, where they were asked (alpha_mode.Evidence)."""

    def __post_init__(self) -> None:
        if self.rgb.shape != (*self.alpha.shape, 3) or self.rgb.dtype != self.alpha.dtype:
            got = f"colour {self.rgb.shape} {self.rgb.dtype} with alpha {self.alpha.shape} {self.alpha.dtype}"
            raise MediaError("clip", got=got, expected="equal frames, height, width and bits")

    @property
    def bits(self) -> Bits:
        return 8 if self.alpha.dtype == np.uint8 else 16

    @property
    def top(self) -> int:
        """The level of opaque alpha and of white: 255 or 65535."""
        return (1 << self.bits) - 1

    def with_bits(self, bits: Bits) -> "RgbaClip":
        """The clip at 8 or 16 bits per channel, rounded; 8 bits to 16 and back is exact."""
        return replace(self, rgb=change_bits(self.rgb, bits), alpha=change_bits(self.alpha, bits))

    @property
    def reading(self) -> tuple[str, ...]:
        """In words, what was changed when it was read."""
        return () if self.divided is None else (f"unpremultiply: colour divided by alpha, {self.divided}",)

    @property
    def num_frames(self) -> int:
        return self.alpha.shape[0]

    @property
    def height(self) -> int:
        return self.alpha.shape[1]

    @property
    def width(self) -> int:
        return self.alpha.shape[2]

    def rgba(self) -> UInt8[np.ndarray, "T H W 4"] | UInt16[np.ndarray, "T H W 4"]:
        return np.concatenate([self.rgb, self.alpha[..., None]], axis=-1)

    def rgba_frames(self) -> Iterator[UInt8[np.ndarray, "H W 4"] | UInt16[np.ndarray, "H W 4"]]:
        """Its frames one by one, without a second copy of the clip."""
        return (np.dstack([rgb, alpha]) for rgb, alpha in zip(self.rgb, self.alpha, strict=True))


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoded:
    """Frames of one file, 8 or 16 bits; alpha is None when the file has no alpha channel, fps when it states no rate."""

    rgb: Colour
    alpha: Matte | None
    fps: float | None
    times: tuple[float, ...] | None = None
    """As in RgbaClip."""
    premultiplied: bool = False
    """What the file itself says of its colour."""
    assumed_matrix: str | None = None
    """As in RgbaClip."""
    settled: bool = False
    """The reader has made the colour straight, or left it as the caller says: EXR is divided in light, before its levels are made."""
    divided: str | None = None
    """As in RgbaClip: what a reader that settles it has done."""
    transfer: Transfer = "display"
    """What colour is in the file, of a series in its first frame."""


def change_bits(levels: np.ndarray, bits: Bits) -> np.ndarray:
    """Full-range uint8 or uint16 levels, (N, ...), at BITS bits, rounded to nearest: 255 <-> 65535."""
    if levels.dtype == np.uint8:
        return levels if bits == 8 else levels * np.uint16(257)
    if bits == 16:
        return levels
    rounded = np.empty(levels.shape, np.uint8)
    for index, high in enumerate(levels):  # one by one: room to calculate in is taken for one of N
        rounded[index] = (high.astype(np.uint32) + 128) // 257
    return rounded


def check_size(path: Path, *, width: int, height: int, num_frames: int = 1, do: str = "") -> None:
    """Refuse absurd sizes before memory is taken for them, whatever a header claims: MAX_SIDE, MAX_PIXELS of a frame, MAX_FRAMES,
    MAX_BYTES of the clip. DO: what helps, where it is not the clip itself that has to be made smaller."""
    size = f"{num_frames} frames of {width}x{height}"
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise MediaError(path, got=size, expected=f"sides of 1 to {MAX_SIDE} pixels", do=do or "resize the clip first")
    if width * height > MAX_PIXELS:
        raise MediaError(path, got=size, expected=f"at most {MAX_PIXELS >> 20} million pixels a frame", do=do or "resize the clip first")
    if num_frames > MAX_FRAMES:
        raise MediaError(path, got=size, expected=f"at most {MAX_FRAMES} frames", do=do or "cut the clip into parts")
    if num_frames * width * height * 4 > MAX_BYTES:
        raise MediaError(path, got=size, expected=f"at most {MAX_BYTES >> 30} GiB as 8-bit RGBA", do=do or "cut the clip into parts")


def codec_threads(*, width: int, height: int) -> int:
    """One thread for small pictures, where handing frames between threads costs more than decoding them; 0 is the codec's choice."""
    return 1 if width * height <= 512 * 512 else 0


@contextmanager
def memory_errors(path: Path) -> Iterator[None]:
    """An allocation that fails leaves as a MediaError that names the file."""
    try:
        yield
    except MemoryError as error:
        raise out_of_memory(path, error) from error


def memory_named(read: Callable[Concatenate[Path, P], Read]) -> Callable[Concatenate[Path, P], Read]:
    """A reader, of the file that it is given first, with memory_errors."""

    @wraps(read)
    def named(path: Path, *args: P.args, **settings: P.kwargs) -> Read:
        with memory_errors(path):
            return read(path, *args, **settings)

    return named


def out_of_memory(path: Path | str, error: Exception, *, do: str = "") -> MediaError:
    """What to say of a clip that needs more memory than there is. DO: as in check_size."""
    expected = "a clip that fits into the memory there is"
    return MediaError(path, got=f"out of memory ({_reason(error)})", expected=expected, do=do or SMALLER)


@contextmanager
def media_errors(path: Path, *, doing: str = "read") -> Iterator[None]:
    """Everything a codec raises leaves as one MediaError that names the file."""
    try:
        with memory_errors(path):
            yield
    except CODEC_ERRORS as error:
        expected = "a complete, readable file" if doing == "read" else "a file that can be written"
        do = "check that the file plays; copy or export it again" if doing == "read" else "check the folder and the free space"
        # A reader's own words need no class beside them.
        got = _reason(error) if type(error) is ValueError else f"{type(error).__name__} ({_reason(error)})"
        kind = DiskFull if doing != "read" and is_disk_full(error) else MediaError
        raise kind(path, got=got, expected=expected, do=do) from error


@contextmanager
def image_errors(path: Path) -> Iterator[None]:
    """media_errors, with Pillow's warning about decompression bombs as an error too, and without those about broken EXIF."""
    with media_errors(path), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # its own words name an address in memory
        return "no picture of a known format"
    text = getattr(error, "strerror", None) or str(error) or "no message"
    return str(text)[:160]
