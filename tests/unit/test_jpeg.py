"""JPEG as halves of pairs: frames and pictures, turned as their EXIF says; never a clip of its own, never in the inks of a print."""

import logging
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wan_alpha.config import DoctorConfig, ExportConfig, PrepareConfig
from wan_alpha.doctor import doctor
from wan_alpha.errors import DatasetError, MediaError
from wan_alpha.export import export
from wan_alpha.media.find import find_clips
from wan_alpha.media.read import count_frames, read_matte, read_pair
from wan_alpha.prepare import prepare

SIZE = (48, 64)
LEVELS = np.broadcast_to(np.linspace(0, 255, SIZE[1]).astype(np.uint8), SIZE)


def picture(path: Path, pixels: np.ndarray = LEVELS, **settings: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **({"quality": 95} if path.suffix != ".png" else {}), **settings)


def colour(number: int) -> np.ndarray:
    return np.full((*SIZE, 3), (40 * number, 200, 90), np.uint8)


@pytest.fixture
def matting(tmp_path) -> Path:
    """The usual form of matting sets, frames beside pictures."""
    for number in range(3):
        picture(tmp_path / "in" / "fgr" / "0000" / f"{number:05d}.jpg", colour(number))
        picture(tmp_path / "in" / "pha" / "0000" / f"{number:05d}.png")
    picture(tmp_path / "in" / "cat.JPEG", colour(4))
    picture(tmp_path / "in" / "cat_alpha.png")
    return tmp_path / "in"


def test_colour_in_jpeg_beside_mattes(tmp_path, matting, caplog):
    clip, cat = find_clips(matting)
    assert [(one.name, one.problem) for one in (clip, cat)] == [("0000", None), ("cat", None)]
    read = read_pair(clip.rgb, clip.alpha)
    assert np.array_equal(read.alpha, np.broadcast_to(LEVELS, (3, *SIZE)))
    assert np.abs(read.rgb[2].astype(int) - colour(2)).max() <= 2
    assert (count_frames(clip.rgb), read_pair(cat.rgb, cat.alpha).num_frames) == (3, 1)
    assert [made.frames for made in prepare(PrepareConfig(source=matting, output_path=tmp_path / "set")).clips] == [3, 1]
    assert len(export(ExportConfig(source=matting, output_path=tmp_path / "out", formats=("webp",))).files) == 2
    assert "left out" not in caplog.text


def test_a_lossy_matte_is_judged(tmp_path):
    edge = np.where(np.add.outer(np.arange(128), np.arange(128)) % 64 < 32, 255, 0).astype(np.uint8)
    for number in range(3):
        picture(tmp_path / "in" / "a_rgb" / f"{number}.jpg", np.dstack([np.roll(edge, number, 1)] * 3))
        (tmp_path / "in" / "a_alpha").mkdir(exist_ok=True)
        Image.fromarray(np.roll(edge, number, 1)).save(tmp_path / "in" / "a_alpha" / f"{number}.jpg", quality=60)
    (seen,) = doctor(DoctorConfig(source=tmp_path / "in", output_path=tmp_path / "out")).diagnoses
    assert seen.frames == 3
    assert "noisy matte" in {found.name for found in seen.findings}


def test_orientation_and_inks(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(tmp_path / "a.jpg", exif=exif)
    assert np.abs(read_matte(tmp_path / "a.jpg")[0][0].astype(int) - np.rot90(LEVELS, -1)).max() <= 2
    Image.new("CMYK", SIZE).save(tmp_path / "b.jpg")
    with pytest.raises(MediaError, match=r"b\.jpg: got the inks of a print \(CMYK\), expected RGB or grey; export the picture as sRGB"):
        read_matte(tmp_path / "b.jpg")


def test_damaged_notes_are_told_and_cost_no_picture(tmp_path, caplog):
    exif = Image.Exif()
    exif[0x010F] = "a camera of some make"
    picture(tmp_path / "a.jpg", exif=exif)
    data = bytearray((tmp_path / "a.jpg").read_bytes())
    place = data.index(b"MM\0*") + 8 + 2 + 4  # the length of the only entry
    data[place : place + 4] = b"\0\xff\xff\xff"
    (tmp_path / "a.jpg").write_bytes(data)
    assert read_matte(tmp_path / "a.jpg")[0].shape == (1, *SIZE)
    assert "a.jpg: its notes are damaged, its orientation may be lost: " in caplog.text


def test_half_a_pair(tmp_path):
    for number in range(3):
        picture(tmp_path / "walk" / f"{number}.jpg", colour(number))
    picture(tmp_path / "dog_alpha.jpg")
    for source in (tmp_path, tmp_path / "walk"):
        walk = find_clips(source)[-1]
        assert "walk: got half a pair, expected walk_alpha/ or walk_seg/ (its matte) beside it" in str(walk.problem)
    with pytest.raises(DatasetError, match=r"dog_alpha\.jpg: got half a pair, expected dog_rgb\.jpg \(its colour\)"):
        export(ExportConfig(source=tmp_path / "dog_alpha.jpg", output_path=tmp_path / "out"))


@pytest.mark.parametrize("other", ["sub/b.webp", "b.webp"])
def test_a_folder_with_a_clip_and_a_picture_is_no_folder_of_frames(tmp_path, other):
    picture(tmp_path / "in" / "0001.jpg", colour(0))
    picture(tmp_path / "in" / other, np.dstack([LEVELS] * 4))
    assert [clip.name for clip in find_clips(tmp_path)] == ["b"]


def test_pictures_beside_frames_and_clips_are_left_out(tmp_path, caplog):
    for number in range(3):
        picture(tmp_path / "walk" / f"{number}.png", np.dstack([LEVELS] * 4))
        picture(tmp_path / "walk" / f"{number}.jpg", colour(number))
    picture(tmp_path / "walk.jpg", colour(0))
    with zipfile.ZipFile(tmp_path / "run.zip", "w") as archive:
        for name in ("0.png", "0.jpg"):
            archive.write(tmp_path / "walk" / name, name)
    with caplog.at_level(logging.WARNING):
        assert [(clip.name, count_frames(clip.rgba)) for clip in find_clips(tmp_path)] == [("run", 1), ("walk", 3)]
    assert "walk: left out: .jpg (3)" in caplog.text
    assert "walk.jpg: a picture without alpha is left out" in caplog.text
