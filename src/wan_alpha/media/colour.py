"""Between codec frames and arrays of 8 or 16 bits. Alpha and mattes are copied plane by plane; only 8-bit colour goes through swscale.

swscale is wrong by one on half of all alpha levels in either direction (255 becomes 254, or 0 becomes 1), so it never sees
alpha; from 10-bit YUV to 16-bit RGB it truncates to 8-bit steps, so that way has its own matrices (yuv.py). It also treats
untagged video as BT.601 limited at every size; so do the files that its users write, and so do we.
"""

import re

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from jaxtyping import UInt8, UInt16

from wan_alpha.errors import MediaError
from wan_alpha.media import yuv
from wan_alpha.media.clip import Bits, change_bits

BT709 = 1
LIMITED, FULL = 1, 2
FLAGS = (
    Interpolation.BICUBIC
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
    | Interpolation.ACCURATE_RND
    | Interpolation.BITEXACT
)
# AVFrame.colorspace -> swscale's matrix; anything else (2 = untagged) is BT.601.
MATRICES = {1: Colorspace.ITU709, 4: Colorspace.FCC, 7: Colorspace.SMPTE240M, 9: Colorspace.BT2020, 10: Colorspace.BT2020}
PACKED = re.compile(r"^(rgba|bgra|argb|abgr|ya|gray|rgb|bgr)(8|16|24|32|48|64)?(le|be)?$")
Rgb = UInt8[np.ndarray, "H W 3"] | UInt16[np.ndarray, "H W 3"]
Levels = UInt8[np.ndarray, "H W"] | UInt16[np.ndarray, "H W"]


def full_levels(from_bits: int, bits: int) -> np.ndarray:
    """Table from full-range codes of FROM_BITS bits to BITS bits, rounded: 0 -> 0, the largest -> the largest."""
    last, top = (1 << from_bits) - 1, (1 << bits) - 1
    return ((np.arange(last + 1, dtype=np.int64) * top + last // 2) // last).astype(np.uint8 if bits <= 8 else np.uint16)


def limited_levels(from_bits: int, bits: Bits) -> np.ndarray:
    """Table from limited-range luma codes (16..235 at 8 bits) to the full range of BITS bits, rounded and clipped."""
    unit, top = 1 << (from_bits - 8), (1 << bits) - 1
    codes = np.arange(1 << from_bits, dtype=np.float64)
    return np.clip(np.floor((codes - 16 * unit) * top / (219 * unit) + 0.5), 0, top).astype(f"u{bits // 8}")


def plane(frame: av.VideoFrame, index: int) -> np.ndarray:
    """Plane INDEX without padding, (height, width) of uint8 or uint16. Bits beyond the format's own (a damaged file) are cut off."""
    buffer, bits = frame.planes[index], frame.format.components[index].bits
    dtype = "u1" if bits <= 8 else ">u2" if frame.format.name.endswith("be") else "<u2"
    rows = np.frombuffer(memoryview(buffer), np.uint8).reshape(buffer.height, buffer.line_size)
    codes = rows.view(dtype)[:, : buffer.width]
    return codes if bits in (8, 16) else np.minimum(codes, (1 << bits) - 1)


def alpha_bits(frame: av.VideoFrame) -> int:
    """Bits of a frame's alpha, or of its first channel where it has none."""
    components = frame.format.components
    return components[-1 if has_alpha(frame) else 0].bits


def has_alpha(frame: av.VideoFrame) -> bool:
    return format_has_alpha(frame.format.name)


def format_has_alpha(name: str) -> bool:
    """Whether pixels of a format, by FFmpeg's name for it, have alpha."""
    match = PACKED.match(name)
    return "a" in match[1].replace("gray", "y") if match else name.startswith(("yuva", "gbrap"))


def is_yuv(frame: av.VideoFrame) -> bool:
    """Whether a matrix makes RGB of a frame: not for grey, palettes and RGB itself."""
    return len(frame.format.components) >= 3 and not frame.format.is_rgb


def frame_alpha(frame: av.VideoFrame, *, bits: Bits = 8) -> Levels | None:
    """Alpha of a frame, exact where BITS holds it and rounded else; None for a format without alpha."""
    if not has_alpha(frame):
        return None
    packed = _packed(frame)
    if packed is not None:
        channels, order = packed
        return change_bits(channels[..., order.index("a")], bits)
    _refuse_floats(frame)
    return full_levels(frame.format.components[3].bits, bits)[plane(frame, 3)]


def frame_rgb(frame: av.VideoFrame, *, bits: Bits = 8) -> Rgb:
    """Colour of a frame as RGB, with the matrix and range of its tags (untagged: BT.601 limited)."""
    packed = _packed(frame)
    if packed is not None:
        channels, order = packed
        return change_bits(np.stack([channels[..., order.index(c if c in order else "y")] for c in "rgb"], axis=-1), bits)
    if frame.format.name.startswith(("gbr", "gray")):
        _refuse_floats(frame)
        table = full_levels(frame.format.components[0].bits, bits)
        return np.stack([table[plane(frame, i)] for i in ((2, 0, 1) if frame.format.is_rgb else (0, 0, 0))], axis=-1)
    if bits == 16 and frame.format.components[0].bits > 8 and not frame.format.is_rgb:
        return _deep_rgb(frame)
    return change_bits(
        frame.reformat(
            format="rgb24",
            src_colorspace=MATRICES.get(int(frame.colorspace), Colorspace.ITU601),
            src_color_range=ColorRange.JPEG if is_full_range(frame) else ColorRange.MPEG,
            dst_color_range=ColorRange.JPEG,
            interpolation=FLAGS,
            threads=1,
        ).to_ndarray(),
        bits,
    )


def _deep_rgb(frame: av.VideoFrame) -> UInt16[np.ndarray, "H W 3"]:
    """16-bit RGB of a YUV frame of more than 8 bits; swscale only brings chroma to full size, where it is smaller."""
    matrix, full_range = int(frame.colorspace), is_full_range(frame)
    if not re.match(r"yuva?444p", frame.format.name):
        same = {"src_color_range": ColorRange.MPEG, "dst_color_range": ColorRange.MPEG}
        frame = frame.reformat(format="yuv444p16le", interpolation=FLAGS, threads=1, **same)
    depth = frame.format.components[0].bits
    return yuv.to_rgb([plane(frame, i) for i in range(3)], bits=depth, matrix=matrix, full_range=full_range)


def frame_matte(frame: av.VideoFrame, *, full_range: bool, bits: Bits = 8) -> Levels:
    """Alpha from a matte's frame: its luma plane only (chroma is noise), scaled to full range; green of an RGB matte."""
    if PACKED.match(frame.format.name) or frame.format.is_rgb:
        return frame_rgb(frame, bits=bits)[..., 1]
    depth = frame.format.components[0].bits
    return (full_levels if full_range else limited_levels)(depth, bits)[plane(frame, 0)]


def is_full_range(frame: av.VideoFrame) -> bool:
    return int(frame.color_range) == FULL or frame.format.name.startswith("yuvj")


def matte_is_full_range(first_frame: av.VideoFrame) -> bool:
    """Range of a matte video. Tags decide; grey formats are full range by custom.

    An untagged luma plane counts as full range when over a tenth of its first frame is at or beyond what limited range can hold
    (8 codes of slack for ringing): limited mattes sit on 16 and 235, full ones on 0 and 255.
    """
    if is_full_range(first_frame) or first_frame.format.name.startswith("gray"):
        return True
    if int(first_frame.color_range) == LIMITED or first_frame.format.is_rgb:
        return False
    luma = plane(first_frame, 0)
    unit = 1 << (first_frame.format.components[0].bits - 8)
    return bool(np.mean((luma <= 8 * unit) | (luma >= 243 * unit)) > 0.1)


def video_frame(rgb: UInt8[np.ndarray, "H W 3"], pixel_format: str) -> av.VideoFrame:
    """8-bit RGB as a limited-range BT.709 frame with its tags: the tags alone would leave BT.601 pixels."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24").reformat(
        format=pixel_format,
        src_color_range=ColorRange.JPEG,
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        interpolation=FLAGS,
        threads=1,
    )
    frame.colorspace, frame.color_range = BT709, LIMITED
    return frame


def matte_frame(alpha: UInt8[np.ndarray, "H W"], pixel_format: str) -> av.VideoFrame:
    """Alpha as the full-range luma plane of a YUV frame with neutral chroma."""
    height, width = alpha.shape
    grey = [np.full((part.height, part.width), 128, np.uint8) for part in av.VideoFrame(width, height, pixel_format).planes[1:]]
    frame = planar_frame([alpha, *grey], pixel_format, width=width, height=height)
    frame.colorspace, frame.color_range = BT709, FULL
    return frame


def planar_frame(planes: list[np.ndarray], pixel_format: str, *, width: int, height: int) -> av.VideoFrame:
    """A frame of the given planes, (height, width) each in the format's own type, or interleaved (height, width, c)."""
    frame = av.VideoFrame(width, height, pixel_format)
    for part, values in zip(frame.planes, planes, strict=True):
        values = values.reshape(values.shape[0], -1)
        rows = np.zeros((part.height, part.line_size // values.itemsize), values.dtype)
        rows[:, : values.shape[1]] = values
        part.update(rows.tobytes())
    return frame


def _packed(frame: av.VideoFrame) -> tuple[np.ndarray, str] | None:
    """Channels (H, W, c) of an interleaved RGB or grey frame, 8 or 16 bits, and their order, such as 'bgra' or 'ya'; None for others."""
    match = PACKED.match(frame.format.name)
    if match is None:
        return None
    order = "y" if match[1] == "gray" else match[1]
    wide = match[2] in ("16", "48", "64")
    if match[2] == "32" or (match[2] is None and match[3] is not None) or (match[2] == "8" and order in ("rgb", "bgr")):
        raise _unsupported(frame)
    rows = np.frombuffer(memoryview(frame.planes[0]), np.uint8).reshape(frame.height, frame.planes[0].line_size)
    rows = rows[:, : frame.width * len(order) * (1 + wide)].copy()
    if wide:
        return rows.view(">u2" if match[3] == "be" else "<u2").astype(np.uint16).reshape(frame.height, frame.width, -1), order
    return rows.reshape(frame.height, frame.width, -1), order


def _refuse_floats(frame: av.VideoFrame) -> None:
    if "f" in frame.format.name:
        raise _unsupported(frame)


def _unsupported(frame: av.VideoFrame) -> MediaError:
    got = f"pixel format {frame.format.name}"
    return MediaError("frame", got=got, expected="8-bit or 16-bit channels", do="convert the clip to ProRes 4444 or PNG")
