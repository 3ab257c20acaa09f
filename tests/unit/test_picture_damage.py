"""Damage that the decoders of pictures pass over in silence, or do not expect: each is refused in one line, or read as what is there."""

import io
import struct
import time
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from plain_encoders import ladder, png_16
from wan_alpha.errors import MediaError
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.png import chunk
from wan_alpha.media.read import count_frames, read_rgba
from wan_alpha.media.record import read_record
from wan_alpha.media.write import webp_bytes


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """(name, payload), from IHDR to IEND."""
    chunks, at = [], 8
    while at < len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        chunks.append((name, data[at + 8 : at + 8 + size]))
        at += 12 + size
    return chunks


def png_of(chunks: list[tuple[bytes, bytes]]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, payload) for name, payload in chunks)


def png_file(path: Path, *, kind: str) -> Path:
    """8 or 16 bits of RGBA, or 16 colours of which one is transparent."""
    image = ladder(1)[0]
    if kind == "16":
        return png_16(path, image * np.uint16(257))
    picture = Image.fromarray(image)
    (picture.convert("RGB").quantize(16) if kind == "palette" else picture).save(path, **({"transparency": 3} if kind == "palette" else {}))
    return path


# PNG


@pytest.mark.parametrize("kind", ["8", "16", "palette"])
def test_missing_rows_are_refused(tmp_path, kind):
    """The header's height, or the rows, lie: decoders leave the rest black."""
    path = png_file(tmp_path / "a.png", kind=kind)
    assert read_rgba(path).num_frames == 1
    chunks = png_chunks(path.read_bytes())
    header, rows = chunks[0][1], zlib.decompress(b"".join(payload for name, payload in chunks if name == b"IDAT"))
    others = [pair for pair in chunks[1:-1] if pair[0] != b"IDAT"]
    taller = header[:4] + struct.pack(">I", 2 * 32) + header[8:]
    for head, kept in ((taller, rows), (header, rows[: len(rows) // 2])):
        path.write_bytes(png_of([(b"IHDR", head), *others, (b"IDAT", zlib.compress(kept)), (b"IEND", b"")]))
        with pytest.raises(MediaError, match=r"a picture of \d+ bytes, \d+ expected"):
            read_rgba(path)


@pytest.mark.parametrize("kind", ["8", "16", "palette"])
def test_every_turned_bit_is_refused(tmp_path, kind):
    data = png_file(tmp_path / "a.png", kind=kind).read_bytes()
    for at in range(0, len(data), 17):
        (tmp_path / "b.png").write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        with pytest.raises(MediaError):
            read_rgba(tmp_path / "b.png")


def test_a_palette_that_is_missing(tmp_path):
    chunks = png_chunks(png_file(tmp_path / "a.png", kind="palette").read_bytes())
    (tmp_path / "a.png").write_bytes(png_of([pair for pair in chunks if pair[0] != b"PLTE"]))
    with pytest.raises(MediaError):
        read_rgba(tmp_path / "a.png")


@pytest.mark.parametrize("count", [0, 2**31])
def test_a_count_of_pictures_that_none_can_be(tmp_path, count):
    images = [Image.fromarray(image) for image in ladder()]
    images[0].save(tmp_path / "a.png", save_all=True, append_images=images[1:], duration=50)
    chunks = png_chunks((tmp_path / "a.png").read_bytes())
    (tmp_path / "a.png").write_bytes(png_of([(n, struct.pack(">II", count, 0) if n == b"acTL" else p) for n, p in chunks]))
    if count == 0:  # a still, to which the rest is nothing
        assert np.array_equal(read_rgba(tmp_path / "a.png").rgba(), ladder(1))
    else:
        with pytest.raises(MediaError, match="expected 2147483648"):
            read_rgba(tmp_path / "a.png")
    assert read_record(tmp_path / "a.png") is None


def test_small_pictures_on_a_canvas_of_gigabytes(tmp_path):
    """200 pictures of a pixel each, on 8192 x 8192."""
    pixel = zlib.compress(bytes(5))
    parts = [(b"IHDR", struct.pack(">IIBBBBB", 8192, 8192, 8, 6, 0, 0, 0)), (b"acTL", struct.pack(">II", 200, 0)), (b"IDAT", pixel)]
    for index in range(200):
        parts.append((b"fcTL", struct.pack(">IIIIIHHBB", 2 * index, 1, 1, 0, 0, 1, 20, 0, 0)))
        parts.append((b"fdAT", struct.pack(">I", 2 * index + 1) + pixel))
    (tmp_path / "a.png").write_bytes(png_of([*parts, (b"IEND", b"")]))
    assert count_frames(tmp_path / "a.png") == 200
    with pytest.raises(MediaError, match="200 frames of 8192x8192, expected at most 8 GiB"):
        read_rgba(tmp_path / "a.png")


# WebP, EXIF, GIF, zip


@pytest.mark.parametrize(("quality", "marker", "height"), [(None, b"VP8L", 11), (60, b"VP8 ", 16)])
def test_a_picture_smaller_than_its_frame_is_refused(tmp_path, quality, marker, height):
    """libwebp fills the rest of the frame with what was decoded before: another picture in a window than in a row."""
    images = ladder()
    clip = RgbaClip(rgb=images[..., :3], alpha=images[..., 3], fps=16.0)
    data = bytearray(webp_bytes(clip, quality=quality))
    data[data.index(marker, data.index(marker) + 1) + height] ^= 1 << 2
    (tmp_path / "a.webp").write_bytes(data)
    for read in (count_frames, read_rgba):
        with pytest.raises(MediaError, match=r"a picture of 64x\d+ in a frame of 64x32"):
            read(tmp_path / "a.webp")


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_broken_exif_is_none(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x010E] = "words " * 20
    image = ladder(1)[0]
    for keep in (9, 14, 40):
        Image.fromarray(image).save(tmp_path / f"a{suffix}", lossless=True, exact=True, exif=exif.tobytes()[:keep])
        assert np.array_equal(read_rgba(tmp_path / f"a{suffix}").rgba()[0], image)
        assert read_record(tmp_path / f"a{suffix}") is None


def exif_bytes(*entries: tuple[int, int, int, bytes]) -> bytes:
    """(tag, type, count, value of four bytes) of a TIFF's one directory, lowest byte first."""
    directory = b"".join(struct.pack("<HHI", tag, kind, count) + value for tag, kind, count, value in entries)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4)


@pytest.mark.parametrize("orientation", range(10))
def test_orientations_need_nothing_else_of_exif(tmp_path, orientation):
    """The resolution is a word, which cannot be written again; the description, where a record would be, is a number."""
    numbers = struct.pack("<HH", orientation, 0), struct.pack("<I", 5)
    notes = exif_bytes((0x010E, 4, 1, numbers[1]), (0x0112, 3, 1, numbers[0]), (0x011A, 2, 4, b"abc\0"))
    image = ladder(1)[0]
    Image.fromarray(image).save(tmp_path / "a.webp", lossless=True, exact=True, exif=notes)
    whole = Image.Exif()
    whole[0x0112] = orientation
    Image.fromarray(image).save(tmp_path / "b.webp", lossless=True, exact=True, exif=whole)
    with Image.open(tmp_path / "b.webp") as picture:
        upright = np.array(ImageOps.exif_transpose(picture).convert("RGBA"))
    assert np.array_equal(read_rgba(tmp_path / "a.webp").rgba()[0], upright)
    assert read_record(tmp_path / "a.webp") is None


def gif(path: Path, frames: int) -> Path:
    levels = np.arange(16, dtype=np.uint8).reshape(4, 4)
    images = [Image.fromarray(np.roll(levels, t, axis=0)) for t in range(frames)]
    images[0].save(path, save_all=True, append_images=images[1:], duration=50, transparency=0, disposal=2)
    return path


def test_a_gif_of_one_picture(tmp_path):
    clip = read_rgba(gif(tmp_path / "a.gif", 1))
    assert clip.alpha.tolist() == [np.where(np.arange(16) == 0, 0, 255).reshape(4, 4).tolist()]


def test_a_gif_whose_second_picture_lies_outside(tmp_path):
    path = gif(tmp_path / "a.gif", 2)
    data = bytearray(path.read_bytes())
    second = data.rindex(b"\x2c\0\0\0\0\4\0\4\0")
    data[second + 1] = 2
    path.write_bytes(data)
    with pytest.raises(MediaError, match="frames of"):
        read_rgba(path)


def archive(path: Path, *, stems: Sequence[str] = "012") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(ladder(1)[0]).save(buffer, format="PNG")
    with zipfile.ZipFile(path, "w") as file:
        for stem in stems:
            file.writestr(f"{stem}.png", buffer.getvalue())
    return path.read_bytes()


def test_a_gif_is_whole_or_refused(tmp_path):
    """Cut anywhere it is no shorter clip; zeros between its blocks, as some writers leave them, are nothing."""
    data = gif(tmp_path / "a.gif", 3).read_bytes()
    for size in range(len(data)):
        (tmp_path / "a.gif").write_bytes(data[:size])
        with pytest.raises(MediaError):
            count_frames(tmp_path / "a.gif")
    control = data.index(b"\x21\xf9")
    (tmp_path / "a.gif").write_bytes(data[:control] + b"\0\0" + data[control:])
    assert read_rgba(tmp_path / "a.gif").num_frames == 3
    (tmp_path / "a.gif").write_bytes(data[:control] + b"\1" + data[control:])
    with pytest.raises(MediaError, match="no block begins with 1, at byte"):
        read_rgba(tmp_path / "a.gif")


@pytest.mark.parametrize("window", [{}, {"start": 1999, "count": 1}])
def test_small_pictures_on_a_gif_screen_of_gigabytes(tmp_path, window):
    """Pillow draws the whole screen for each: counting 2000 took ten minutes."""
    head = b"GIF89a" + struct.pack("<HHBBB", 8192, 8192, 0x80, 0, 0) + bytes(6)
    pixel = b"\x21\xf9\4\x09\5\0\0\0" + b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\2\2\x44\1\0"
    (tmp_path / "a.gif").write_bytes(head + 2000 * pixel + b";")
    started = time.process_time()
    assert count_frames(tmp_path / "a.gif") == 2000
    with pytest.raises(MediaError, match="2000 frames of 8192x8192, expected at most 8 GiB"):
        read_rgba(tmp_path / "a.gif", **window)
    assert time.process_time() - started < 5


ENTRY, NAME_SIZE, COMMENT_SIZE, NAME = 46 + len("0.png"), 28, 32, 46
"""Bytes of an entry in an archive's table, and where in it they are."""


@pytest.mark.parametrize(
    ("entry", "changes", "why"),
    [
        (2, {NAME_SIZE: 0, COMMENT_SIZE: 5}, "differ"),  # no name, whose last character is asked for
        (2, {NAME: ord("x")}, "differ"),
        (2, {NAME + 1: ord("_")}, "differ"),  # no extension: no frame
        (1, {COMMENT_SIZE: ENTRY}, "2 entries, its end says 3"),  # the third is the second's comment
    ],
)
def test_a_damaged_table_of_a_zip_loses_no_frame(tmp_path, entry, changes, why):
    data = bytearray(archive(tmp_path / "a.zip"))
    assert read_rgba(tmp_path / "a.zip").num_frames == 3
    begin = data.index(b"PK\1\2") + entry * ENTRY
    for offset, value in changes.items():
        data[begin + offset] = value
    (tmp_path / "a.zip").write_bytes(data)
    for read in (count_frames, read_rgba):
        with pytest.raises(MediaError, match=why):
            read(tmp_path / "a.zip")


def test_names_in_a_zip_are_as_long_as_names_of_files(tmp_path):
    """Python makes no number of more than 4300 digits, and frames are in the order of their numbers."""
    archive(tmp_path / "a.zip", stems=["1" * 251, "2" * 251])
    assert read_rgba(tmp_path / "a.zip").num_frames == 2
    archive(tmp_path / "a.zip", stems=["1" * 5000, "2" * 5000])
    for read in (count_frames, read_rgba):
        with pytest.raises(MediaError, match=r"a name of 5004 characters, expected at most 255"):
            read(tmp_path / "a.zip")


def test_what_is_no_picture_is_said_in_words(tmp_path):
    (tmp_path / "a.webp").write_bytes(b"not a picture" * 30)
    with pytest.raises(MediaError, match="no picture of a known format") as error:
        read_rgba(tmp_path / "a.webp")
    assert " at 0x" not in str(error.value)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"prompt": ' + "1" * 5000 + ', "seed": 1}'])
def test_a_comment_that_is_no_record(tmp_path, text):
    info = PngInfo()
    info.add_itxt("wan_alpha", text)
    Image.fromarray(ladder(1)[0]).save(tmp_path / "a.png", pnginfo=info)
    assert read_record(tmp_path / "a.png") is None


# EXR


def exr_file(path: Path, *, parts: int = 1, tiled: bool = False, kind: str = "f2") -> Path:
    openexr = pytest.importorskip("OpenEXR")
    header = {"compression": openexr.ZIP_COMPRESSION, "type": openexr.tiledimage if tiled else openexr.scanlineimage}
    header |= {"tiles": openexr.TileDescription()} if tiled else {}
    header["comments"] = "words"
    pixels = np.ascontiguousarray((ladder(1)[0] / 255).astype(kind))
    named = [openexr.Part({**header, "name": f"part {index}"}, {"RGBA": pixels}) for index in range(parts)]
    openexr.File(named).write(str(path))
    return path


@pytest.mark.parametrize(
    ("marker", "offset", "parts", "tiled"),
    [(b"dataWindow\0box2i\0", 12, 1, False), (b"dataWindow\0box2i\0", 12, 2, False), (b"tiles\0tiledesc\0", 4, 1, True)],
    ids=["window", "window of the last part", "tile"],
)
def test_sizes_of_exr_are_held_against_limits(tmp_path, marker, offset, parts, tiled):
    path = exr_file(tmp_path / "a.exr", parts=parts, tiled=tiled)
    assert read_rgba(path).num_frames == 1
    data = bytearray(path.read_bytes())
    at = data.rindex(marker) + len(marker) + 4 + offset
    struct.pack_into("<i", data, at, 8_000_000)
    path.write_bytes(data)
    with pytest.raises(MediaError, match=r"80000\d\d, expected sides of 1 to 16384"):
        read_rgba(path)


def test_words_of_exr_that_are_none(tmp_path):
    path = exr_file(tmp_path / "a.exr")
    path.write_bytes(path.read_bytes().replace(b"words", b"w\xfford"))
    with pytest.raises(MediaError, match="UnicodeDecodeError"):
        read_record(path)


def test_light_beyond_all_bounds_is_clipped(tmp_path):
    openexr = pytest.importorskip("OpenEXR")
    pixels = np.full((4, 4, 4), 3e38, np.float32)
    pixels[0, :, 3], pixels[1], pixels[2], pixels[3, :, 3] = 1e-30, np.inf, np.nan, 0.5
    header = {"compression": openexr.NO_COMPRESSION, "type": openexr.scanlineimage}
    openexr.File(header, {"RGBA": pixels}).write(str(tmp_path / "a.exr"))
    clip = read_rgba(tmp_path / "a.exr")
    assert clip.alpha[0, :, 0].tolist() == [0, 255, 0, 128]
    assert clip.rgb[0, 3].min() == 255
