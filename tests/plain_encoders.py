"""Small movies and pictures from plain encoders, not from the project's own writers."""

import struct
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

LEVELS = np.arange(256, dtype=np.uint8)


def ladder(frames: int = 3, height: int = 32, width: int = 64) -> np.ndarray:
    """(T, H, W, 4): all alpha levels in blocks of 4x2 pixels, smooth colour; frame t is rolled by t rows."""
    alpha = LEVELS.reshape(16, 16).repeat(2, 0).repeat(4, 1)
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.stack([40 + 2 * x, 60 + 4 * y, 200 - 2 * x], -1).astype(np.uint8)
    image = np.concatenate([rgb, alpha[..., None]], -1)
    return np.stack([np.roll(image, t, axis=0) for t in range(frames)])


def encode(
    path: Path,
    frames: list[av.VideoFrame],
    *,
    codec: str,
    pixel_format: str,
    options: dict | None = None,
    color_range: int = 0,
    rate: int = 12,
) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, pixel_format
        stream.codec_context.color_range = color_range
        for index, frame in enumerate(frames):
            frame.pts, frame.time_base = index, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def planes(pixel_format: str, width: int, height: int, values: list[np.ndarray]) -> av.VideoFrame:
    frame = av.VideoFrame(width, height, pixel_format)
    for part, value in zip(frame.planes, values, strict=True):
        size = value.dtype.itemsize
        rows = np.zeros((part.height, part.line_size // size), value.dtype)
        rows[:, : value.shape[1]] = value
        part.update(rows)
    return frame


def packed(image: np.ndarray, pixel_format: str) -> av.VideoFrame:
    order = ["rgba".index(c) for c in pixel_format]
    return planes(pixel_format, image.shape[1], image.shape[0], [image[..., order].reshape(image.shape[0], -1)])


def prores(image: np.ndarray) -> av.VideoFrame:
    flat = np.full(image.shape[:2], 512, np.uint16)
    alpha = np.round(image[..., 3] * (1023 / 255)).astype(np.uint16)
    return planes("yuva444p10le", image.shape[1], image.shape[0], [flat, flat, flat, alpha])


def planar(image: np.ndarray) -> av.VideoFrame:
    """GBR, and A where the image has it."""
    order = (1, 2, 0, 3)[: image.shape[-1]]
    return planes("gbrap" if len(order) == 4 else "gbrp", image.shape[1], image.shape[0], [image[..., c] for c in order])


def vp9(image: np.ndarray) -> av.VideoFrame:
    height, width = image.shape[:2]
    chroma = np.full((height // 2, width // 2), 128, np.uint8)
    return planes("yuva420p", width, height, [np.full((height, width), 126, np.uint8), chroma, chroma, np.ascontiguousarray(image[..., 3])])


def luma(values: np.ndarray, pixel_format: str = "yuv420p") -> av.VideoFrame:
    height, width = values.shape
    if pixel_format == "gray":
        return planes("gray", width, height, [values])
    chroma = np.full((height // 2, width // 2), 128, np.uint8)
    return planes(pixel_format, width, height, [values, chroma, chroma])


def png_16(path: Path, image: np.ndarray) -> Path:
    """A 16-bit PNG of (H, W, C) uint16, which Pillow cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = image.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in image)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    return path
