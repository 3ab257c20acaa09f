"""Write clips: PNG frames and zips, animated WebP and PNG, H.264 colour + matte, preview. Files appear whole or not at all (atomic.beside).

Nothing here verifies; wan_alpha.media.verify reads files back and compares.
"""

import io
import itertools
import json
import re
import struct
import zipfile
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, PngImagePlugin

from wan_alpha.errors import MediaError
from wan_alpha.media.atomic import beside
from wan_alpha.media.clip import RECORD_KEY, RgbaClip, media_errors
from wan_alpha.media.colour import FULL, matte_frame, video_frame
from wan_alpha.media.encode import Encoding, encode_video
from wan_alpha.media.png import apng_bytes, png_bytes

FRAME_NAME = re.compile(r"^\d{5,}\.(png|exr)$")
WEBP_MAX_SIDE = 16383


def write_png(image: UInt8[np.ndarray, "H W *c"], path: Path, *, record: str | None = None) -> None:
    """One 8-bit image: grey (H, W), RGB (H, W, 3) or straight RGBA (H, W, 4). record: as in RgbaClip."""
    said = PngImagePlugin.PngInfo()
    if record is not None:
        said.add_itxt(RECORD_KEY, record)
    with beside(path) as partial, media_errors(path, doing="write"):
        Image.fromarray(np.ascontiguousarray(image)).save(partial, format="PNG", pnginfo=said)


def write_png_sequence(clip: RgbaClip, folder: Path) -> None:
    """Straight RGBA frames FOLDER/00000.png, 00001.png, ... with the clip's bits, its record in each.

    An older sequence there is replaced; a folder of anything else is refused.
    """
    check_frame_folder(folder)
    with beside(folder) as partial, media_errors(folder, doing="write"):
        partial.mkdir()
        for index, frame in enumerate(clip.rgba_frames()):
            (partial / f"{index:05d}.png").write_bytes(png_bytes(frame, record=clip.record))


def write_png_zip(clip: RgbaClip, path: Path) -> None:
    """The same frames in one file, stored as they are: any of them can be read without the others."""
    with beside(path) as partial, media_errors(path, doing="write"), zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        for index, frame in enumerate(clip.rgba_frames()):
            archive.writestr(f"{index:05d}.png", png_bytes(frame, record=clip.record))


def write_apng(clip: RgbaClip, path: Path) -> None:
    """Animated PNG, 8 or 16 bits, lossless, hidden colour included."""
    with beside(path) as partial, media_errors(path, doing="write"):
        partial.write_bytes(apng_bytes(clip))


def check_frame_folder(folder: Path) -> None:
    """MediaError when FOLDER exists and is anything but a folder of numbered frames, which may be replaced."""
    if folder.exists() and not folder.is_dir():
        raise MediaError(folder, got="a file", expected="none, or a folder of older frames", do="choose another --output_path")
    other = next((path.name for path in folder.iterdir() if not FRAME_NAME.match(path.name)), None) if folder.is_dir() else None
    if other is not None:
        raise MediaError(folder, got=f"a folder that holds {other}", expected="none, or older frames", do="choose another --output_path")


def write_webp(clip: RgbaClip, path: Path, *, quality: int | None = None) -> None:
    """Animated WebP that plays for ever, lossless by default, colour under alpha 0 included (see webp_bytes)."""
    with beside(path) as partial, media_errors(path, doing="write"):
        partial.write_bytes(webp_bytes(clip, quality=quality))


def webp_bytes(clip: RgbaClip, *, quality: int | None = None) -> bytes:
    """An animated WebP file. quality: None is lossless, 0 to 100 gives lossy colour; alpha is exact in both.

    The container is put together here (RIFF, VP8X, ANIM, one ANMF per frame) from stills: libwebp's animation encoder merges
    equal frames and drops hidden colour. Durations are whole ms: frame i lasts from round(1000 i / fps) to the next.
    """
    if max(clip.height, clip.width) > WEBP_MAX_SIDE:
        raise MediaError(
            "WebP", got=f"{clip.width}x{clip.height}", expected=f"sides up to {WEBP_MAX_SIDE}", do="leave webp out of --formats"
        )
    durations = frame_durations_ms(clip.num_frames, fps=clip.fps)
    if clip.num_frames > 1 and min(durations) < 1:
        expected = "at most 1000, for WebP counts whole milliseconds"
        raise MediaError("WebP", got=f"{clip.fps:g} frames per second", expected=expected, do="use a lower rate, or --formats apng")
    size = _uint24(clip.width - 1) + _uint24(clip.height - 1)
    exif = [] if clip.record is None else [_chunk(b"EXIF", _exif(clip.record))]
    animation_and_alpha, has_exif = 0b0001_0010, 0b1000 if exif else 0
    chunks = [_chunk(b"VP8X", bytes([animation_and_alpha | has_exif, 0, 0, 0]) + size), _chunk(b"ANIM", bytes(6))]
    for frame, duration in zip(clip.with_bits(8).rgba_frames(), durations, strict=True):
        no_blend = b"\x02"
        chunks.append(_chunk(b"ANMF", bytes(6) + size + _uint24(duration) + no_blend + _still_chunks(frame, quality)))
    body = b"WEBP" + b"".join([*chunks, *exif])
    return b"RIFF" + struct.pack("<I", len(body)) + body


def frame_durations_ms(num_frames: int, *, fps: float) -> list[int]:
    """Whole milliseconds whose running sum never strays more than half a ms from the true time.

    >>> frame_durations_ms(4, fps=16)
    [62, 63, 62, 63]
    """
    marks = [int(1000 * index / fps + 0.4999) for index in range(num_frames + 1)]
    return [after - before for before, after in itertools.pairwise(marks)]


def pair_paths(stem: Path) -> tuple[Path, Path]:
    """STEM_rgb.mp4 and STEM_alpha.mp4."""
    return stem.with_name(stem.name + "_rgb.mp4"), stem.with_name(stem.name + "_alpha.mp4")


def write_pair(clip: RgbaClip, stem: Path, *, alpha_mode: str = "straight") -> tuple[Path, Path]:
    """Colour and matte as STEM_rgb.mp4 and STEM_alpha.mp4, 8 bits of each; returns both paths.

    Colour: H.264 4:4:4 10 bit, crf 10, tagged BT.709 limited. Matte: H.264 at qp 0 with alpha as full-range luma, so every one of
    the 256 levels comes back exactly; 4:2:0, or 4:4:4 where a side is odd. ALPHA_MODE says what the colour is, in its metadata.
    """
    rgb_path, alpha_path = pair_paths(stem)
    clip = clip.with_bits(8)
    matte_format = "yuv444p" if clip.height % 2 or clip.width % 2 else "yuv420p"
    colour = Encoding(codec="libx264", container="mp4", pixel_format="yuv444p10le", options={"crf": "10"}, alpha_mode=alpha_mode)
    matte = Encoding(codec="libx264", container="mp4", pixel_format=matte_format, options={"qp": "0"}, color_range=FULL)
    with beside(rgb_path) as rgb_partial, beside(alpha_path) as alpha_partial:
        encode_video(rgb_partial, (video_frame(f, "yuv444p10le") for f in clip.rgb), clip=clip, encoding=colour)
        encode_video(alpha_partial, (matte_frame(f, matte_format) for f in clip.alpha), clip=clip, encoding=matte)
    return rgb_path, alpha_path


def write_preview_mp4(frames: UInt8[np.ndarray, "T H W 3"], path: Path, *, fps: float, record: str | None = None) -> None:
    """Opaque H.264 that plays everywhere (4:2:0, BT.709, crf 16). An odd side is made even by repeating its last line."""
    even = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
    clip = RgbaClip(rgb=even, alpha=np.full(even.shape[:3], 255, np.uint8), fps=fps, record=record)
    encoding = Encoding(codec="libx264", container="mp4", pixel_format="yuv420p", options={"crf": "16"})
    with beside(path) as partial:
        encode_video(partial, (video_frame(frame, "yuv420p") for frame in even), clip=clip, encoding=encoding)


def _still_chunks(frame: UInt8[np.ndarray, "H W 4"], quality: int | None) -> bytes:
    """What a WebP still has of a frame: VP8L, or ALPH and VP8. Method 0 is twelve times faster than the default and a third larger."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, format="WEBP", lossless=quality is None, exact=True, method=0, quality=quality or 0)
    data = buffer.getvalue()
    chunks, offset = [], 12
    while offset + 8 <= len(data):
        end = offset + 8 + struct.unpack("<I", data[offset + 4 : offset + 8])[0]
        end += (end - offset) % 2
        if data[offset : offset + 4] in (b"VP8L", b"ALPH", b"VP8 "):
            chunks.append(data[offset:end])
        offset = end
    return b"".join(chunks)


def _exif(record: str) -> bytes:
    """A record as ImageDescription, in ASCII as EXIF has it."""
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = json.dumps(json.loads(record))
    return exif.tobytes().removeprefix(b"Exif\0\0")


def _chunk(name: bytes, payload: bytes) -> bytes:
    return name + struct.pack("<I", len(payload)) + payload + bytes(len(payload) % 2)


def _uint24(value: int) -> bytes:
    return struct.pack("<I", value)[:3]
