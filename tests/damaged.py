"""Small files of every kind that is read, the same damaged or with a header that lies, and what the readers make of them.

As a program, `python damaged.py KIND FOLDER`: every reader over the damaged files of one kind. A process of its own shows a crash, and how
much memory one file may cost. FOLDER/result.json says how many were read and refused, and which broke the rule.
"""

import json
import math
import resource
import struct
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from plain_encoders import encode, luma, packed, planar, png_16, vp9
from wan_alpha.errors import MediaError
from wan_alpha.media.animation import is_animation
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.formats import FORMATS, WriteOptions, ending, write_format
from wan_alpha.media.png import PNG_SIGNATURE, chunk
from wan_alpha.media.read import ReadSettings, count_frames, read_matte, read_rgba, stated_rate
from wan_alpha.media.record import read_record
from wan_alpha.media.stills import is_opaque_still

MUTATIONS = 90
SECONDS = 5.0
"""Of one damaged file, on a busy machine; a good one takes milliseconds."""
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 4), dtype=np.uint8)


@dataclass(kw_only=True)
class Result:
    """broken: files that were neither refused in one line nor read as a clip; peak_mib: memory taken beyond that of a good file."""

    read: int = 0
    refused: int = 0
    peak_mib: int = 0
    broken: list[str] = field(default_factory=list)


# Good files


def exported(name: str, *, bits: int = 8, index: int = 0) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        clip = RgbaClip(rgb=IMAGES[..., :3], alpha=IMAGES[..., 3], fps=16.0, record='{"prompt": "a star", "seed": 1}')
        write_format(clip if bits == 8 else clip.with_bits(16), folder / "a", name=name, options=WriteOptions())
        return ending(folder / "a", FORMATS[name].endings[index])

    return make


def movie(file: str, *, codec: str, pixel_format: str, frame: Callable, **options: str) -> Callable[[Path], Path]:
    return lambda folder: encode(folder / file, [frame(image) for image in IMAGES], codec=codec, pixel_format=pixel_format, options=options)


def picture(file: str, *, mode: str = "RGBA", **options: object) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(IMAGES[0]).convert(mode).save(folder / file, **({} if file.endswith(".gif") else {"exif": exif}), **options)
        return folder / file

    return make


def gif(folder: Path) -> Path:
    frames = [Image.fromarray(image[..., 0] // 2) for image in IMAGES]
    frames[0].save(folder / "a.gif", save_all=True, append_images=frames[1:], duration=[50, 100, 50], transparency=3, disposal=2)
    return folder / "a.gif"


def webp_zip(folder: Path) -> Path:
    still = picture("0.webp", lossless=True)(folder).read_bytes()
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for index in range(3):
            archive.writestr(f"{index}.webp", still)
    return folder / "a.zip"


def exr(folder: Path) -> Path:
    exported("exr")(folder).joinpath("00000.exr").rename(folder / "a.exr")
    return folder / "a.exr"


def bgra(image: np.ndarray):
    return packed(image, "bgra")


VPX = {"auto-alt-ref": "0", "lag-in-frames": "0", "crf": "10", "b": "1000000"}
KINDS: dict[str, Callable[[Path], Path]] = {
    "PNG": picture("a.png"),
    "PNG, palette": picture("a.png", mode="P", transparency=3),
    "PNG, 16 bits": lambda folder: png_16(folder / "a.png", IMAGES[0] * np.uint16(257)),
    "WebP": picture("a.webp", lossless=True),
    "WebP, lossy": picture("a.webp", quality=60),
    "EXR": exr,
    "JPEG": picture("a.jpg", mode="RGB"),
    "GIF": picture("a.gif", mode="P", transparency=3),
    "animated GIF": gif,
    "animated WebP": exported("webp"),
    "APNG": exported("apng"),
    "APNG, 16 bits": exported("apng", bits=16),
    "zip of PNG": exported("zip"),
    "zip of WebP": webp_zip,
    "ProRes": exported("prores"),
    "QuickTime Animation": movie("a.mov", codec="qtrle", pixel_format="argb", frame=lambda image: packed(image, "argb")),
    "PNG movie": movie("a.mov", codec="png", pixel_format="rgba", frame=lambda image: packed(image, "rgba")),
    "UtVideo": movie("a.avi", codec="utvideo", pixel_format="gbrap", frame=planar),
    "MagicYUV": movie("a.avi", codec="magicyuv", pixel_format="gbrap", frame=planar),
    "raw AVI": movie("a.avi", codec="rawvideo", pixel_format="bgra", frame=bgra),
    "FFV1": exported("ffv1"),
    "FFV1, 16 bits": exported("ffv1", bits=16),
    "FFV1 without checksums": movie("a.mkv", codec="ffv1", pixel_format="bgra", frame=bgra, level="1"),
    "VP9 with alpha": exported("webm"),
    "VP8 with alpha": movie("a.webm", codec="libvpx", pixel_format="yuva420p", frame=vp9, **VPX),
    "colour of a pair": exported("pair"),
    "matte of a pair": exported("pair", index=1),
    "MPEG-4 matte": movie("a.avi", codec="mpeg4", pixel_format="yuv420p", frame=lambda image: luma(image[..., 3])),
}
MATTES = ("JPEG", "colour of a pair", "matte of a pair", "MPEG-4 matte")


# Damage


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Cut short, bits turned, a field overwritten by an extreme number, a piece repeated or lost; PNG at times with the right checksums."""
    kind, at = int(rng.integers(5)), int(rng.integers(len(data)))
    if kind == 0:
        return data[:at]
    changed = bytearray(data)
    if kind == 1:
        for place in rng.integers(0, len(data), 4):
            changed[place] ^= 1 << int(rng.integers(8))
    elif kind == 2:
        head = int(rng.integers(min(len(data), 600)))
        changed[head : head + 4] = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", bytes(4), b"\x00\x00\x00\x01")[int(rng.integers(4))]
    elif kind == 3:
        changed[at:at] = data[at : at + 64]
    else:
        del changed[at : at + int(rng.integers(1, 64))]
    return with_checksums(bytes(changed)) if rng.integers(2) else bytes(changed)


def with_checksums(data: bytes) -> bytes:
    """A PNG whose chunks are what they say that they are; other files as they are."""
    if not data.startswith(PNG_SIGNATURE):
        return data
    parts, at = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    while at + 12 <= len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        parts.append(chunk(name, data[at + 8 : at + 8 + size]))
        at += 12 + size
    return b"".join(parts)


# Marker -> format of a number -> where it is, from the marker on.
FIELDS: dict[bytes, dict[str, tuple[int, ...]]] = {
    # PNG
    b"IHDR": {">I": (4, 8), ">B": (12, 13, 16)},
    b"acTL": {">I": (4, 8)},
    b"fcTL": {">I": (8, 12, 16, 20), ">H": (24, 26), ">B": (28, 29)},
    # WebP, AVI
    b"RIFF": {"<I": (4,)},
    b"VP8X": {"<H": (12, 15), "<B": (8, 14, 17)},
    b"ANMF": {"<I": (4,), "<H": (8, 11, 14, 17, 20), "<B": (16, 19, 22)},
    b"VP8L": {"<I": (4, 9)},
    b"VP8 ": {"<I": (4,), "<H": (14, 16)},
    b"avih": {"<I": (8, 24, 32, 40, 44)},
    b"strh": {"<I": (28, 32, 36, 40, 48)},
    b"strf": {"<I": (4, 12, 16, 28), "<H": (22,)},
    b"idx1": {"<I": (4, 16, 20)},
    b"00dc": {"<I": (4,)},
    # GIF, JPEG
    b"GIF89a": {"<H": (6, 8), "<B": (10,)},
    b"\x2c\0\0\0\0": {"<H": (1, 3, 5, 7), "<B": (9,)},
    b"\x21\xf9\x04": {"<H": (4,), "<B": (3, 6)},
    b"\xff\xc0": {">H": (2, 5, 7), ">B": (4, 9)},
    # MOV, MP4
    b"moov": {">I": (-4,)},
    b"mvhd": {">I": (16, 20)},
    b"tkhd": {">I": (24, 80, 84)},
    b"mdhd": {">I": (16, 20)},
    b"elst": {">I": (8, 12, 16, 20)},
    b"stsd": {">I": (8, 12), ">H": (44, 46)},
    b"stts": {">I": (8, 12, 16)},
    b"stsc": {">I": (8, 12, 16)},
    b"stsz": {">I": (8, 12, 16)},
    b"stco": {">I": (8, 12)},
    # Matroska: Duration, TimestampScale, PixelWidth, PixelHeight, Cluster, SimpleBlock; key frames of VP9
    b"\x44\x89\x88": {">d": (3,), ">Q": (3,)},
    b"\x2a\xd7\xb1\x83": {">H": (4, 5)},
    b"\xb0\x81": {">B": (2,)},
    b"\xba\x81": {">B": (2,)},
    b"\x1f\x43\xb6\x75": {">I": (4,)},
    b"\xa3": {">H": (1, 4)},
    b"\x49\x83\x42": {">I": (3, 4)},
    # EXR
    b"dataWindow\0box2i\0": {"<i": (21, 25, 29, 33)},
    b"displayWindow\0box2i\0": {"<i": (24, 28, 32, 36)},
    b"channels\0chlist\0": {"<I": (16, 22)},
    b"compression\0compression\0": {"<I": (24,), "<B": (28,)},
    # zip
    b"PK\1\2": {"<I": (20, 24, 42), "<H": (10, 28, 30, 32)},
    b"PK\3\4": {"<I": (18, 22), "<H": (6, 8, 26, 28)},
    b"PK\5\6": {"<H": (8, 10, 20), "<I": (12, 16)},
}


def lies(data: bytes) -> Iterator[bytes]:
    """The file with one number of its headers at 0, 1, beyond the limit of sides, of gigabytes, and at the largest that there are."""
    for marker, fields in FIELDS.items():
        at = data.find(marker)
        for form, offsets in fields.items() if at >= 0 else ():
            for offset in offsets:
                for value in _extremes(form):
                    changed = bytearray(data)
                    if 0 <= at + offset <= len(data) - struct.calcsize(form):
                        struct.pack_into(form, changed, at + offset, value)
                        yield with_checksums(bytes(changed))


def _extremes(form: str) -> tuple[float, ...]:
    if form[1] == "d":
        return (0.0, -1.0, 1e300, math.inf, math.nan)
    top = 256 ** struct.calcsize(form) - 1
    if form[1] == "i":
        return (0, -(top // 2) - 1, 20_000, top // 2)
    return (0, 1, min(20_000, top), min(60_000_000, top), top // 2, top // 2 + 1, top)


# The readers


def read_everything(path: Path, *, matte: bool) -> int:
    """Every reader of a file; frames read. MediaError at the first that refuses; AssertionError for what is no clip."""
    for ask in (count_frames, stated_rate, read_record, is_animation, is_opaque_still):
        ask(path)
    if matte:
        alpha, fps = read_matte(path)
        assert fps is None or (0 < fps < math.inf), f"{fps} frames per second"
        frames = len(alpha)
    else:
        clip = read_rgba(path)
        assert 0 < clip.fps < math.inf, f"{clip.fps} frames per second"
        assert clip.times is None or (len(clip.times) == clip.num_frames and clip.times[0] == 0 and np.all(np.diff(clip.times) >= 0))
        frames = read_rgba(path, bits=16, settings=ReadSettings(alpha_mode="detect")).num_frames
        assert frames == clip.num_frames
        assert read_rgba(path, start=frames - 1, count=1).num_frames == 1
    assert frames == count_frames(path), f"{frames} frames read, {count_frames(path)} counted"
    return frames


def read_damaged(kind: str, folder: Path) -> Result:
    """The readers over MUTATIONS damaged files of a kind, and one for each lie of its headers."""
    good = KINDS[kind](folder)
    data, matte = good.read_bytes(), kind in MATTES
    assert read_everything(good, matte=matte) in (1, 3, 4), kind
    rng = np.random.default_rng(zlib.crc32(kind.encode()))
    result, before = Result(), _peak_mib()
    for number, file in enumerate([*(mutated(data, rng) for _ in range(MUTATIONS)), *lies(data)]):
        path = folder / f"{number}{good.suffix}"
        path.write_bytes(file)
        started = time.process_time()
        try:
            result.read += read_everything(path, matte=matte) > 0
        except MediaError as error:
            result.refused += 1
            if "\n" in str(error) or " at 0x" in str(error):
                result.broken.append(f"{path.name}: {error}")
        except Exception as error:
            result.broken.append(f"{path.name}: {type(error).__name__}: {error}")
        if time.process_time() - started > SECONDS:
            result.broken.append(f"{path.name}: {time.process_time() - started:.1f} s")
        if not (result.broken and result.broken[-1].startswith(path.name)):
            path.unlink()
    result.peak_mib = _peak_mib() - before
    return result


def _peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "linux" else 2**20)


if __name__ == "__main__":
    kind, folder = sys.argv[1], Path(sys.argv[2])
    (folder / "result.json").write_text(json.dumps(asdict(read_damaged(kind, folder))))
