"""OpenEXR stills: half floats, premultiplied as compositors expect, scene-linear or display-referred. Needs the extra `exr`."""

import io
from pathlib import Path
from types import ModuleType

import numpy as np

from wan_alpha.errors import MediaError, UsageError, WanAlphaError
from wan_alpha.media.alpha_mode import CALLED, FILE_SAYS, AlphaMode
from wan_alpha.media.atomic import beside
from wan_alpha.media.clip import ALPHA_TAG, MAX_PIXELS, Bits, RgbaClip, check_size, media_errors
from wan_alpha.media.colour import Levels, Rgb
from wan_alpha.media.transfer import Stored, Transfer, linear_to_srgb, srgb_to_linear

SUFFIX = ".exr"
TRANSFER_ATTRIBUTE = "wanAlphaTransfer"
COMMENTS_ATTRIBUTE = "comments"
BY_CUSTOM = "for EXR with alpha is premultiplied where it does not say otherwise"


def decode(path: Path, data: bytes, *, bits: Bits = 8, alpha_mode: AlphaMode = "file") -> tuple[Rgb, Levels | None, Stored]:
    """Straight sRGB and alpha of one file's bytes, and what they come from; light above 1 is clipped. Linear unless its header says that it
    is display-referred.

    Colour is divided by alpha, in light, unless alpha_mode is "straight", or the header says so and alpha_mode leaves it to the file.
    Channels are R, G, B, A (or Y, A) of the first part; pixels outside of the display window are cut, missing ones are transparent.
    """
    openexr, header = _library(path, error=MediaError), _header(path, data)
    with media_errors(path):
        for part in openexr.File(io.BytesIO(data), header_only=True).parts:
            _check_part(path, part.header)
        channels = openexr.File(io.BytesIO(data), separate_channels=True).channels()
        values = {name.upper(): np.asarray(channel.pixels, np.float32) for name, channel in channels.items()}
    names = "RGB" if "R" in values else "YYY"
    if any(name not in values for name in names) or len({part.shape for part in values.values()}) > 1:
        raise MediaError(path, got=f"channels {', '.join(values)}", expected="R, G, B, A of one size", do="export the RGBA layer alone")
    # Light above 1 is clipped before the division too, where it is above alpha: largest floats would overflow.
    stored = np.nan_to_num(np.stack([values[name] for name in names], axis=-1), posinf=1.0).clip(0, 1)
    alpha = np.nan_to_num(values["A"]).clip(0, 1) if "A" in values else None
    stated = Stored(transfer=_transfer(header), divided=None if alpha is None else _why_divided(header, alpha_mode))
    straight = stored
    if alpha is not None and stated.divided is not None:
        straight = np.where(alpha[..., None] > 0, np.minimum(stored, alpha[..., None]) / np.maximum(alpha[..., None], 1e-6), 0)
    rgb = straight.clip(0, 1) if stated.transfer == "display" else linear_to_srgb(straight.clip(0, 1))
    colour = _levels(_windowed(path, rgb, header), bits)
    return colour, None if alpha is None else _levels(_windowed(path, alpha, header), bits), stated


def comments(path: Path, data: bytes) -> str | None:
    """What a file says in its header's standard attribute for comments."""
    found = _header(path, data).get(COMMENTS_ATTRIBUTE)
    with media_errors(path):  # it may not be text
        return None if found is None else str(found)


def write_exr_sequence(clip: RgbaClip, folder: Path, *, transfer: Transfer) -> None:
    """FOLDER/00000.exr, ...: half-float RGBA, colour premultiplied in linear light (or in display values), ZIP-compressed.

    Colour under alpha 0 is not kept, as premultiplied colour cannot.
    """
    openexr = _library("EXR", error=UsageError)
    header = {"compression": openexr.ZIP_COMPRESSION, "type": openexr.scanlineimage}
    header |= {TRANSFER_ATTRIBUTE: transfer, ALPHA_TAG: "premultiplied"}
    header |= {} if clip.record is None else {COMMENTS_ATTRIBUTE: clip.record}
    with beside(folder) as partial, media_errors(folder, doing="write"):
        partial.mkdir()
        for index, (rgb, alpha) in enumerate(zip(clip.rgb, clip.alpha, strict=True)):
            share = alpha[..., None].astype(np.float32) / clip.top
            colour = rgb.astype(np.float32) / clip.top
            premul = (srgb_to_linear(colour) if transfer == "linear" else colour) * share
            pixels = np.concatenate([premul, share], axis=-1).astype(np.float16)
            openexr.File(header, {"RGBA": np.ascontiguousarray(pixels)}).write(str(partial / f"{index:05d}{SUFFIX}"))


def _header(path: Path, data: bytes) -> dict:
    openexr = _library(path, error=MediaError)
    with media_errors(path):
        return openexr.File(io.BytesIO(data), header_only=True).header()


def _check_part(path: Path, header: dict) -> None:
    """Refuse a part's size before memory is taken for its pixels: four bytes for each of all its channels, and for a tile of them."""
    (left, top), (right, bottom) = header["dataWindow"]
    sizes = [(int(right) - int(left) + 1, int(bottom) - int(top) + 1)]
    if "tiles" in header:
        sizes.append((header["tiles"].xSize, header["tiles"].ySize))
    for width, height in sizes:
        check_size(path, width=width, height=height)
        if width * height * len(header["channels"]) > MAX_PIXELS * 4:
            got, expected = f"{len(header['channels'])} channels of {width}x{height}", f"at most {MAX_PIXELS >> 18} million values"
            raise MediaError(path, got=got, expected=expected, do="export the RGBA layer alone")


def _transfer(header: dict) -> Transfer:
    return "display" if header.get(TRANSFER_ATTRIBUTE) == "display" else "linear"


def _why_divided(header: dict, alpha_mode: AlphaMode) -> str | None:
    if alpha_mode in ("straight", "premultiplied"):
        return CALLED if alpha_mode == "premultiplied" else None
    said = header.get(ALPHA_TAG)
    return None if said == "straight" else FILE_SAYS if said == "premultiplied" else BY_CUSTOM


def _windowed(path: Path, pixels: np.ndarray, header: dict) -> np.ndarray:
    """Pixels of the data window, placed in the display window."""
    (left, top), (right, bottom) = (np.asarray(corner, int) for corner in header["dataWindow"])
    (x0, y0), (x1, y1) = (np.asarray(corner, int) for corner in header["displayWindow"])
    if (left, top) == (x0, y0) and (right, bottom) == (x1, y1):
        return pixels
    check_size(path, width=int(x1 - x0 + 1), height=int(y1 - y0 + 1))
    placed = np.zeros((y1 - y0 + 1, x1 - x0 + 1, *pixels.shape[2:]), pixels.dtype)
    rows, columns = range(max(top, y0), min(bottom, y1) + 1), range(max(left, x0), min(right, x1) + 1)
    if rows and columns:
        source = pixels[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        placed[rows.start - y0 : rows.stop - y0, columns.start - x0 : columns.stop - x0] = source
    return placed


def _levels(x: np.ndarray, bits: Bits) -> np.ndarray:
    return np.rint(x * ((1 << bits) - 1)).astype(f"u{bits // 8}")


def _library(what: object, *, error: type[WanAlphaError]) -> ModuleType:
    """OpenEXR. Without it a file is one that cannot be read, and a wish to write one cannot be met: ERROR says so of WHAT."""
    try:
        import OpenEXR
    except ImportError as problem:
        do = "pip install 'wan-alpha[exr]'"
        raise error(what, got="no OpenEXR library", expected="the extra 'exr'", do=do) from problem
    return OpenEXR
