"""Series of stills: folders and zips of PNG, WebP, EXR or JPEG. PNG of 16 bits goes through PyAV, because Pillow truncates it."""

import io
import logging
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import av
import numpy as np
from PIL import ExifTags, Image

from wan_alpha.errors import MediaError
from wan_alpha.media import exr
from wan_alpha.media.alpha_mode import AlphaMode
from wan_alpha.media.clip import CODEC_ERRORS, Bits, Decoded, change_bits, check_size, image_errors
from wan_alpha.media.colour import Levels, Rgb, frame_alpha, frame_rgb
from wan_alpha.media.png import PNG_SIGNATURE
from wan_alpha.media.png_check import check_chunks, check_rows
from wan_alpha.media.sidecar import series_rate
from wan_alpha.media.stack import FrameStack
from wan_alpha.media.transfer import Stored

log = logging.getLogger(__name__)

JPEG_SUFFIXES = (".jpg", ".jpeg")
"""Halves of pairs: they hold no alpha."""
STILL_SUFFIXES = (".png", ".webp", ".exr", *JPEG_SUFFIXES)
PICTURE_FORMATS = ("PNG", "WEBP", "GIF", "JPEG")
_T = Image.Transpose
TURNS: dict[object, Image.Transpose] = {
    **{2: _T.FLIP_LEFT_RIGHT, 3: _T.ROTATE_180, 4: _T.FLIP_TOP_BOTTOM},
    **{5: _T.TRANSPOSE, 6: _T.ROTATE_270, 7: _T.TRANSVERSE, 8: _T.ROTATE_90},
}
"""What makes pictures of EXIF's orientations upright. (ImageOps.exif_transpose writes the notes anew, for which they must be whole.)"""
ARCHIVE_SUFFIX = ".zip"
MAX_STILL_BYTES = 2**30
MAX_NAME = 255
MAX_ZIP_END, ZIP_64 = 22 + 65535, 65535
"""Bytes of an archive's end record with the longest comment; what it says where it leaves the number of entries to another record."""


@dataclass(frozen=True, kw_only=True)
class Still:
    """One file of a series; path is its place (inside an archive: ARCHIVE/NAME), as errors name it."""

    path: Path
    read: Callable[[], bytes]

    @property
    def is_exr(self) -> bool:
        return self.path.suffix.lower() == exr.SUFFIX


def natural_key(path: Path) -> tuple[list[tuple[int, int | str]], str]:
    """Sort key in which frame2 comes before frame10."""
    parts = re.split(r"(\d+)", path.name.casefold())
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts], path.name


def still_files(folder: Path) -> list[Path]:
    """The still images of a folder in natural order; JPEG only where there are no others, beside which it is a thumbnail."""
    files = [
        path for path in folder.iterdir() if path.suffix.lower() in STILL_SUFFIXES and path.is_file() and not path.name.startswith(".")
    ]
    return sorted(_without_thumbnails(files), key=natural_key)


def _without_thumbnails(files: list[Path]) -> list[Path]:
    return [path for path in files if not is_jpeg(path)] or files


def is_jpeg(path: Path) -> bool:
    return path.suffix.lower() in JPEG_SUFFIXES


def is_sequence(stills: list[Path]) -> bool:
    """Whether pictures of one folder are the frames of one clip: numbered alike, so that one number tells them apart, and none with a
    caption of its own. A picture alone is a frame when its name is a number.

    >>> is_sequence([Path("walk_1.png"), Path("walk_2.png")]), is_sequence([Path("cat.png"), Path("dog.png")])
    (True, False)
    """
    if not stills or any(text_beside(path.parent, path.stem, ending) for path in stills for ending in (".txt", ".json")):
        return False
    if len(stills) == 1:
        return stills[0].stem.isdecimal()
    return _numbers(stills) is not None


def frame_numbers(path: Path) -> list[str]:
    """The digits that tell the frames of a folder or zip apart, in natural order; none where no one number does."""
    with still_series(path) as series:
        return _numbers([still.path for still in series]) or []


def _numbers(stills: list[Path]) -> list[str] | None:
    words = {re.sub(r"\d+", "0", path.stem) for path in stills}
    columns = [column for column in zip(*(re.findall(r"\d+", path.stem) for path in stills)) if len(set(column)) > 1]
    return list(columns[0]) if len(words) == len(columns) == 1 else None


def text_beside(folder: Path, stem: str, ending: str) -> Path | None:
    """The file STEM + ENDING of a folder, also as some cameras and systems write the ending: .TXT, .Txt."""
    paths = (folder / (stem + form) for form in (ending, ending.upper(), ending.title()))
    return next((path for path in paths if path.is_file()), None)


def is_opaque_still(path: Path) -> bool:
    """Whether a file is one picture without alpha, from its header. False where it cannot be read (reading it says why)."""
    if is_jpeg(path):
        return True
    if path.suffix.lower() not in STILL_SUFFIXES or path.suffix.lower() == exr.SUFFIX:
        return False
    try:
        with image_errors(path), Image.open(path, formats=PICTURE_FORMATS) as image:
            return not image.has_transparency_data and not getattr(image, "is_animated", False)
    except MediaError:
        return False


@contextmanager
def still_series(path: Path) -> Iterator[list[Still]]:
    """The stills of a folder or a zip in natural order, at least one. They can be read inside the context, which holds the zip open."""
    if not path.exists():
        raise MediaError(path, got="no such file", expected="a folder or zip of images")
    if path.is_dir():
        yield _some(path, [Still(path=file, read=partial(read_bytes, file)) for file in still_files(path)])
        return
    with image_errors(path):
        archive = zipfile.ZipFile(path)
    with archive:
        entries = [entry for entry in archive.infolist() if _is_still(entry)]
        with image_errors(path):
            _check_table(path, archive)
        longest = max((len(part) for entry in entries for part in PurePosixPath(entry.filename).parts), default=0)
        if longest > MAX_NAME:
            raise MediaError(path, got=f"a name of {longest} characters", expected=f"at most {MAX_NAME}, as files have", do="rename it")
        folders = {PurePosixPath(entry.filename).parent for entry in entries}
        if len(folders) > 1:
            raise MediaError(path, got=f"stills in {len(folders)} folders", expected="the frames of one clip", do="make one zip per clip")
        stills = [Still(path=path / entry.filename, read=partial(_read_entry, path, archive, entry)) for entry in entries]
        frames = set(_without_thumbnails([still.path for still in stills]))
        yield _some(path, sorted((still for still in stills if still.path in frames), key=lambda still: natural_key(still.path)))


def _some(path: Path, stills: list[Still]) -> list[Still]:
    if not stills:
        raise MediaError(path, got="no pictures", expected=f"frames as {', '.join(STILL_SUFFIXES)}")
    return stills


def read_series(path: Path, *, start: int = 0, count: int | None = None, bits: Bits = 8, alpha_mode: AlphaMode = "file") -> Decoded:
    """Frames [start, start + count) of a folder or zip of stills; at 16 bits where asked for and the first still has them."""
    with still_series(path) as series:
        if len(series) <= start:
            raise MediaError(path, got=f"{len(series)} images", expected=f"more than {start} files of {', '.join(STILL_SUFFIXES)}")
        return _read_all(path, series[start : None if count is None else start + count], bits=bits, alpha_mode=alpha_mode)


def _read_all(path: Path, chosen: list[Still], *, bits: Bits, alpha_mode: AlphaMode) -> Decoded:
    rgb, alpha = FrameStack(path, count=len(chosen)), FrameStack(path, count=len(chosen))
    stored: list[Stored] = []
    shape: tuple[int, ...] = ()
    depth: Bits = 8
    for still in chosen:
        colour, matte, stated = read_still(still, bits=bits, alpha_mode=alpha_mode)
        height, width = colour.shape[:2]
        if not len(rgb):
            shape, depth = colour.shape, 8 if colour.dtype == np.uint8 else 16
        if colour.shape != shape:
            raise MediaError(still.path, got=f"{width}x{height}", expected=f"{shape[1]}x{shape[0]} as the frames before it")
        check_size(path, width=width, height=height, num_frames=len(chosen))
        if len(rgb) and (matte is None) != (not len(alpha)):
            got, expected = ("no alpha channel", "RGBA") if matte is None else ("an alpha channel", "none")
            raise MediaError(still.path, got=got, expected=f"{expected} as the frames before it")
        stored.append(stated)
        rgb.add(change_bits(colour, depth))
        if matte is not None:
            alpha.add(change_bits(matte, depth))
    return Decoded(
        rgb=rgb.joined(),
        alpha=alpha.joined() if len(alpha) else None,
        fps=series_rate(path),
        settled=len(alpha) > 0 and chosen[0].is_exr,
        divided=_why_divided(stored),
        transfer=stored[0].transfer,
    )


def _why_divided(stored: list[Stored]) -> str | None:
    """The reasons of all frames; and of how many, where it is not all of them."""
    reasons = [one.divided for one in stored if one.divided is not None]
    if not reasons:
        return None
    some = "" if len(reasons) == len(stored) else f"in {len(reasons)} of {len(stored)} frames, "
    return some + " and ".join(dict.fromkeys(reasons))


def read_still(still: Still, *, bits: Bits = 8, alpha_mode: AlphaMode = "file") -> tuple[Rgb, Levels | None, Stored]:
    """Colour and alpha of one image, and what they come from; alpha is None when it has none.

    alpha_mode is for EXR, whose colour comes straight (exr.decode).
    """
    data = still.read()
    if still.is_exr:
        return exr.decode(still.path, data, bits=bits, alpha_mode=alpha_mode)
    with image_errors(still.path):
        if data.startswith(PNG_SIGNATURE):
            check_chunks(data)
            check_rows(still.path, data)
        return *decode_picture(still.path, data, bits=bits), Stored()


def decode_picture(path: Path, data: bytes, *, bits: Bits) -> tuple[Rgb, Levels | None]:
    """Colour and alpha of a PNG, WebP, GIF or JPEG, as they are: that a PNG is whole is for the caller to find out (png_check.py)."""
    if is_16_bit_png(data):
        return read_16_bit_png(path, data, bits=bits)
    with _notes_logged(path), Image.open(io.BytesIO(data), formats=PICTURE_FORMATS) as image:
        check_size(path, width=image.width, height=image.height)
        if image.mode == "CMYK":
            raise MediaError(path, got="the inks of a print (CMYK)", expected="RGB or grey", do="export the picture as sRGB")
        turn = TURNS.get(exif_of(image).get(ExifTags.Base.Orientation))
        return split_channels(image if turn is None else image.transpose(turn))


@contextmanager
def _notes_logged(path: Path) -> Iterator[None]:
    """What Pillow warns of in notes beside the pixels (EXIF that is cut off, a second picture that is none) is a line of the log."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserWarning)
        yield
    for text in sorted({str(warning.message).strip() for warning in told}):
        log.warning("%s: its notes are damaged, its orientation may be lost: %s", path, " ".join(text.split()))


def read_bytes(path: Path) -> bytes:
    """A file's bytes; MediaError when it cannot be read or is larger than any picture."""
    if not path.is_file():
        raise MediaError(path, got="no such file", expected="an image")
    with image_errors(path):
        size = path.stat().st_size
        if size > MAX_STILL_BYTES:
            raise MediaError(path, got=f"{size >> 20} MiB", expected=f"a picture of at most {MAX_STILL_BYTES >> 20} MiB")
        return path.read_bytes()


def exif_of(image: Image.Image) -> Image.Exif:
    """What an opened picture says beside its pixels; nothing where that is broken, which spoils no pixel."""
    try:
        return image.getexif()
    except CODEC_ERRORS:
        return Image.Exif()


def split_channels(image: Image.Image) -> tuple[Rgb, Levels | None]:
    """8-bit RGB and alpha of an opened image; alpha is None when it has none."""
    if not image.has_transparency_data:
        return np.array(image.convert("RGB")), None
    rgba = np.array(image.convert("RGBA"))
    return rgba[..., :3], rgba[..., 3]


def is_16_bit_png(data: bytes) -> bool:
    return data.startswith(PNG_SIGNATURE) and len(data) > 24 and data[24] == 16


def read_16_bit_png(path: Path, data: bytes, *, bits: Bits = 8) -> tuple[Rgb, Levels | None]:
    """A PNG of 16 bits per channel, rounded to 8 where asked for (Pillow keeps the high byte, darker by half a level on average)."""
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    check_size(path, width=width, height=height)
    with av.open(io.BytesIO(data), mode="r", format="png_pipe") as container:
        frame = next(container.decode(video=0), None)
        if frame is None or (frame.width, frame.height) != (width, height):
            raise MediaError(path, got="no image data", expected="a complete PNG")
        return frame_rgb(frame, bits=bits), frame_alpha(frame, bits=bits)


def _check_table(path: Path, archive: zipfile.ZipFile) -> None:
    """BadZipFile where damage of the archive's table would lose an entry, and with it a frame: a name, or how many there are."""
    for entry in archive.infolist():
        archive.open(entry).close()  # compares its name with the one before its data
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - MAX_ZIP_END))
        end = file.read()
    stated = struct.unpack_from("<H", end, end.rfind(b"PK\5\6") + 10)[0]
    if stated not in (len(archive.infolist()), ZIP_64):
        raise zipfile.BadZipFile(f"{len(archive.infolist())} entries, its end says {stated}")


def _is_still(entry: zipfile.ZipInfo) -> bool:
    place = PurePosixPath(entry.filename)
    hidden = any(part.startswith((".", "__MACOSX")) for part in place.parts)
    return place.suffix.lower() in STILL_SUFFIXES and not hidden and not entry.is_dir()  # which fails for an empty name


def _read_entry(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """One file of an archive; no more of it is unpacked than its header states, and that is bounded."""
    if entry.file_size > MAX_STILL_BYTES:
        got = f"{entry.file_size >> 20} MiB unpacked"
        raise MediaError(path / entry.filename, got=got, expected=f"a picture of at most {MAX_STILL_BYTES >> 20} MiB")
    with image_errors(path), archive.open(entry) as file:
        data = file.read(entry.file_size + 1)
    if len(data) != entry.file_size:
        raise MediaError(path / entry.filename, got=f"{len(data)} bytes", expected=f"{entry.file_size} as the archive states")
    return data
