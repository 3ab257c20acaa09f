"""Between codec frames and 8-bit arrays. Alpha and mattes are copied plane by plane; only colour goes through swscale.

swscale is wrong by one on half of all alpha levels in either direction (255 becomes 254, or 0 becomes 1), so it never sees
alpha. It also treats untagged video as BT.601 limited at every size; so do the files that its users write, and so do we.
"""

import re

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from jaxtyping import UInt8

from wan_alpha.errors import MediaError

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
PACKED = re.compile(r"^(rgba|bgra|argb|abgr|ya|gray|rgb|bgr)(8|16|24|48|64)?(le|be)?$")


def to_8_bit(bits: int) -> UInt8[np.ndarray, " levels"]:
    """Table from full-range codes of BITS bits to 8 bits, rounded: 0 -> 0, the largest -> 255."""
    top = (1 << bits) - 1
    return ((np.arange(top + 1, dtype=np.int64) * 255 + top // 2) // top).astype(np.uint8)


def limited_to_8_bit(bits: int) -> UInt8[np.ndarray, " levels"]:
    """Table from limited-range luma codes (16..235 at 8 bits) to full 8-bit range, rounded and clipped."""
    unit = 1 << (bits - 8)
    codes = np.arange(1 << bits, dtype=np.float64)
    return np.clip(np.floor((codes - 16 * unit) * 255 / (219 * unit) + 0.5), 0, 255).astype(np.uint8)


def plane(frame: av.VideoFrame, index: int) -> np.ndarray:
    """Plane INDEX without padding, (height, width) of uint8 or uint16."""
    buffer = frame.planes[index]
    dtype = "u1" if frame.format.components[index].bits <= 8 else ">u2" if frame.format.name.endswith("be") else "<u2"
    rows = np.frombuffer(memoryview(buffer), np.uint8).reshape(buffer.height, buffer.line_size)
    return rows.view(dtype)[:, : buffer.width]


def frame_alpha(frame: av.VideoFrame) -> UInt8[np.ndarray, "H W"] | None:
    """Alpha of a frame, exact for 8 bits and rounded for more; None for a format without alpha."""
    packed = _packed(frame)
    if packed is not None:
        channels, order = packed
        return channels[..., order.index("a")] if "a" in order else None
    if frame.format.name.startswith(("yuva", "gbrap")) and "f" not in frame.format.name:
        return to_8_bit(frame.format.components[3].bits)[plane(frame, 3)]
    return None


def frame_rgb(frame: av.VideoFrame) -> UInt8[np.ndarray, "H W 3"]:
    """Colour of a frame as 8-bit RGB, with the matrix and range of its tags (untagged: BT.601 limited)."""
    packed = _packed(frame)
    if packed is not None:
        channels, order = packed
        return np.stack([channels[..., order.index(c if c in order else "y")] for c in "rgb"], axis=-1)
    if frame.format.name.startswith("gbrap") and "f" not in frame.format.name:
        table = to_8_bit(frame.format.components[0].bits)
        return np.stack([table[plane(frame, i)] for i in (2, 0, 1)], axis=-1)
    return frame.reformat(
        format="rgb24",
        src_colorspace=MATRICES.get(int(frame.colorspace), Colorspace.ITU601),
        src_color_range=ColorRange.JPEG if is_full_range(frame) else ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
        interpolation=FLAGS,
        threads=1,
    ).to_ndarray()


def frame_matte(frame: av.VideoFrame, *, full_range: bool) -> UInt8[np.ndarray, "H W"]:
    """Alpha from a matte's frame: its luma plane only (chroma is noise), scaled to full range; green of an RGB matte."""
    if _packed(frame) is not None or frame.format.is_rgb:
        return frame_rgb(frame)[..., 1]
    bits = frame.format.components[0].bits
    return (to_8_bit(bits) if full_range else limited_to_8_bit(bits))[plane(frame, 0)]


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
    frame = av.VideoFrame(width, height, pixel_format)
    for index, part in enumerate(frame.planes):
        rows = np.full((part.height, part.line_size), 128, np.uint8)
        if index == 0:
            rows[:, :width] = alpha
        part.update(rows.tobytes())
    frame.colorspace, frame.color_range = BT709, FULL
    return frame


def _packed(frame: av.VideoFrame) -> tuple[UInt8[np.ndarray, "H W c"], str] | None:
    """Channels of an interleaved RGB or grey frame as 8 bits, and their order, such as 'bgra' or 'ya'; None for other formats."""
    match = PACKED.match(frame.format.name)
    if match is None:
        return None
    order = "y" if match[1] == "gray" else match[1]
    wide = match[2] in ("16", "48", "64")
    rows = np.frombuffer(memoryview(frame.planes[0]), np.uint8).reshape(frame.height, frame.planes[0].line_size)
    rows = rows[:, : frame.width * len(order) * (1 + wide)].copy()
    if wide:
        return to_8_bit(16)[rows.view(">u2" if match[3] == "be" else "<u2")].reshape(frame.height, frame.width, -1), order
    if match[2] is None and match[3] is not None:
        raise MediaError(
            "frame",
            got=f"pixel format {frame.format.name}",
            expected="8-bit or 16-bit channels",
            do="convert the clip to ProRes 4444 or PNG",
        )
    return rows.reshape(frame.height, frame.width, -1), order
