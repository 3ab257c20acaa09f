"""Pictures in a source folder: clips of one frame beside others, halves of pairs, or the frames of one clip."""

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wan_alpha.config import PrepareConfig
from wan_alpha.errors import DatasetError
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.find import find_clips
from wan_alpha.media.read import read_pair
from wan_alpha.media.write import write_webp
from wan_alpha.prepare import prepare


def picture(path: Path, mode: str = "RGBA", *, seed: int = 0) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = np.random.default_rng(seed).integers(0, 256, (16, 16, 4), dtype=np.uint8)
    image = Image.fromarray(levels) if mode == "RGBA" else Image.fromarray(levels).convert(mode)
    image.save(path, lossless=True)
    return np.asarray(image)


def clip(path: Path, frames: int = 3) -> None:
    levels = np.random.default_rng(frames).integers(0, 256, (frames, 16, 16, 4), dtype=np.uint8)
    write_webp(RgbaClip(rgb=levels[..., :3], alpha=levels[..., 3], fps=16.0), path)


def names(folder: Path) -> list[str]:
    return [found.name for found in find_clips(folder)]


@pytest.fixture
def mixed(tmp_path):
    """A clip, three stills, a pair of stills, frames in a folder of their own."""
    folder = tmp_path / "in"
    clip(folder / "moving.webp")
    picture(folder / "leaf.png")
    (folder / "leaf.txt").write_text("A green leaf.")
    picture(folder / "still_7.webp", seed=1)
    picture(folder / "glass_rgb.png", "RGB", seed=2)
    picture(folder / "glass_alpha.png", "L", seed=3)
    for index in range(4):
        picture(folder / "walk" / f"walk_{index:03d}.png", seed=4 + index)
    return folder


def test_stills_beside_clips(tmp_path, mixed):
    report = prepare(PrepareConfig(source=mixed, output_path=tmp_path / "out"))
    assert {c.video: c.frames for c in report.clips} == {"glass": 1, "leaf": 1, "moving": 3, "still_7": 1, "walk": 4}
    assert next(c.prompt for c in report.clips if c.video == "leaf") == "A green leaf."
    assert "stills: 3 single pictures, such as glass" in report.summary()
    assert not any(found.name == "short clip" for d in report.diagnoses if d.frames == 1 for found in d.findings)
    for name, alpha in (("leaf", picture(tmp_path / "x.png")[..., 3]), ("glass", picture(tmp_path / "y.png", "L", seed=3))):
        assert np.array_equal(read_pair(*(tmp_path / "out" / f"{name}_{half}.mp4" for half in ("rgb", "alpha"))).alpha[0], alpha)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["f_001.png", "f_002.png", "f_010.png"], ["in"]),
        (["shot2_1.webp", "shot2_2.webp"], ["in"]),
        (["00000.png"], ["in"]),
        (["cat.png"], ["cat"]),
        (["cat1.png"], ["cat1"]),
        (["cat.png", "dog.png"], ["cat", "dog"]),
        (["cat_1.png", "dog_1.png", "dog_2.png"], ["cat_1", "dog_1", "dog_2"]),
        (["IMG_2024_11.png", "IMG_2025_12.png"], ["IMG_2024_11", "IMG_2025_12"]),
        (["f_1.png", "f_2.png", "f_2.txt"], ["f_1", "f_2"]),
    ],
)
def test_pictures_or_frames(tmp_path, files, expected):
    """Numbered alike, and nothing else: one clip. Other names, two numbers that change, or a caption of its own: pictures."""
    for index, name in enumerate(files):
        if name.endswith(".txt"):
            (tmp_path / "in" / name).write_text("A cat.")
        else:
            picture(tmp_path / "in" / name, seed=index)
    assert names(tmp_path / "in") == expected


def test_a_sub_folder_of_pictures_is_looked_into(tmp_path):
    for name in ("fish/salmon.png", "fish/trout.png", "birds/1.png", "birds/2.png"):
        picture(tmp_path / name)
    assert names(tmp_path) == ["birds", "salmon", "trout"]


def test_colour_and_matte_folders_of_pictures_and_of_frames(tmp_path):
    for half, mode in (("fgr", "RGB"), ("pha", "L")):
        for name in ("cat", "dog"):
            picture(tmp_path / "stills" / half / f"{name}.png", mode)
        for index in range(3):
            picture(tmp_path / "spin" / half / f"{index:04d}.png", mode)
    found = {one.name: one for one in find_clips(tmp_path)}
    assert sorted(found) == ["cat", "dog", "spin"]
    assert all(one.problem is None and one.rgb and one.alpha for one in found.values())
    assert read_pair(found["spin"].rgb, found["spin"].alpha).num_frames == 3


def test_opaque_pictures_and_thumbnails_are_left_out_and_named(tmp_path, caplog):
    clip(tmp_path / "a.webp")
    picture(tmp_path / "a.png")
    picture(tmp_path / "contact_sheet.png", "RGB")
    with caplog.at_level(logging.WARNING):
        assert names(tmp_path) == ["a"]
    assert "a.png: a picture of the name of a.webp is left out as its thumbnail" in caplog.text
    assert "contact_sheet.png: a picture without alpha is left out; add contact_sheet_alpha.png" in caplog.text
    picture(tmp_path / "b.png", "RGB")
    names(tmp_path)
    assert f"{tmp_path}: 2 pictures without alpha are left out; add b_alpha.png, or an alpha channel (b.png)" in caplog.text


def test_files_of_other_kinds_are_left_out_and_counted(tmp_path, caplog):
    clip(tmp_path / "dragon_preview.webp")
    clip(tmp_path / "a.webp")
    for name in ("t0.jpg", "t1.jpg", "t0.tif", "a.txt", "a_preview.mp4", "dataset_sheet.png"):
        (tmp_path / name).touch()
    (tmp_path / "b.webp").symlink_to(tmp_path / "nowhere.webp")
    with caplog.at_level(logging.INFO, logger="wan_alpha"):
        assert names(tmp_path) == ["a", "dragon_preview"]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == [
        f"{tmp_path}: left out: broken link (1), .tif (1); docs/formats.md says what is read",
        f"{tmp_path}: 2 pictures without alpha are left out; add t0_alpha.png, or an alpha channel (t0.jpg)",
    ]
    assert f"{tmp_path}: left out: 2 previews and contact sheets of clips, such as a_preview.mp4" in caplog.text


def test_what_generate_draws_beside_its_clips_is_no_clip(tmp_path, caplog):
    """One of the same name that is no such drawing is a picture like others."""
    for index in range(2):
        picture(tmp_path / "000_star" / f"{index:05d}.png")
    picture(tmp_path / "000_star_preview.png", "RGB")
    (tmp_path / "000_star.json").write_text('{"prompt": "A star", "seed": 0, "fps": 16}')
    picture(tmp_path / "cat_preview.png")
    with caplog.at_level(logging.INFO, logger="wan_alpha"):
        assert names(tmp_path) == ["000_star", "cat_preview"]
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "left out: 1 previews and contact sheets of clips, such as 000_star_preview.png" in caplog.text


def strays(folder: Path, *files: str) -> None:
    for name in (*files, ".DS_Store"):
        (folder / name).touch()


@pytest.mark.parametrize("whole", [True, False])
def test_files_among_frames_are_left_out_and_counted(tmp_path, caplog, whole):
    """Text too, which nobody reads there; whether the folder is named itself or found in another."""
    for index in range(4):
        picture(tmp_path / "walk" / f"{index:03d}.png", seed=index)
    strays(tmp_path / "walk", "scene.psd", "notes.txt", "shot.jpg", "shot2.jpg")
    with caplog.at_level(logging.INFO, logger="wan_alpha"):
        assert names(tmp_path / "walk" if whole else tmp_path) == ["walk"]
    expected = f"{tmp_path / 'walk'}: left out: .txt (1), .psd (1), .jpg (2); docs/formats.md says what is read"
    assert [record.getMessage() for record in caplog.records] == [expected]


def test_files_among_halves_are_left_out_and_counted(tmp_path, caplog):
    """Beside colour text is a caption; beside mattes it is not read."""
    for half, mode in (("rgb", "RGB"), ("alpha", "L")):
        picture(tmp_path / half / "cat.png", mode)
        for index in range(3):
            picture(tmp_path / half / "spin" / f"{index:04d}.png", mode)
        strays(tmp_path / half, "cat.txt", "cat.psd", "cat")
        strays(tmp_path / half / "spin", "a.exe")
    with caplog.at_level(logging.INFO, logger="wan_alpha"):
        assert names(tmp_path) == ["cat", "spin"]
    told = [record.getMessage().removesuffix("; docs/formats.md says what is read") for record in caplog.records]
    assert sorted(told) == [
        f"{tmp_path}/alpha/spin: left out: .exe (1)",
        f"{tmp_path}/alpha: left out: no ending (1), .psd (1), .txt (1)",
        f"{tmp_path}/rgb/spin: left out: .exe (1)",
        f"{tmp_path}/rgb: left out: .psd (1)",
    ]


def test_files_beside_a_named_half_are_not_told(tmp_path, caplog):
    for half, mode in (("rgb", "RGB"), ("alpha", "L")):
        picture(tmp_path / half / "cat.png", mode)
        strays(tmp_path / half, "cat.psd")
    assert names(tmp_path / "rgb" / "cat.png") == ["cat"]
    assert caplog.text == ""


@pytest.mark.parametrize("stray", ["walk/thumb.png", "walk/making_of.webp"])
def test_numbered_frames_beside_other_files_are_named(tmp_path, caplog, stray):
    for index in range(4):
        picture(tmp_path / "walk" / f"{index:03d}.png", seed=index)
    assert (names(tmp_path), caplog.text) == (["walk"], "")
    (clip if "making" in stray else picture)(tmp_path / stray)
    with caplog.at_level(logging.WARNING):
        assert len(names(tmp_path)) == 5
    assert "walk: 4 numbered frames (000.png ...) beside other files are read as stills" in caplog.text


def test_listing_reads_no_pixels(tmp_path, monkeypatch):
    """Frames of a folder are told from animations by their first bytes; only what may move is read."""
    for index in range(5):
        picture(tmp_path / "walk" / f"{index}.png", seed=index)
        picture(tmp_path / "stills" / f"{'abcde'[index]}.webp", seed=index)
    clip(tmp_path / "moving.webp")
    read = []
    monkeypatch.setattr("wan_alpha.media.animation.read_bytes", lambda path: read.append(path.name) or path.read_bytes())
    assert names(tmp_path) == ["a", "b", "c", "d", "e", "moving", "walk"]
    assert read == ["moving.webp"]
    clip(tmp_path / "other" / "1.webp")
    assert "1" in names(tmp_path)
    assert set(read) == {"1.webp", "moving.webp"}


def test_half_a_pair_of_stills_is_an_error_of_that_pair(tmp_path):
    picture(tmp_path / "in" / "a.png")
    picture(tmp_path / "in" / "b_alpha.png", "L")
    with pytest.raises(DatasetError, match=r"b_alpha\.png: got half a pair, expected b_rgb\.png"):
        prepare(PrepareConfig(source=tmp_path / "in", output_path=tmp_path / "out"))
    report = prepare(PrepareConfig(source=tmp_path / "in", output_path=tmp_path / "out", on_bad_sample="skip"))
    assert [c.video for c in report.clips] == ["a"]
    assert report.skipped[0][0] == "b_alpha"


def test_a_folder_of_opaque_pictures_alone(tmp_path):
    picture(tmp_path / "cat.png", "RGB")
    with pytest.raises(DatasetError, match=r"files of \.png only, expected .*with alpha"):
        find_clips(tmp_path)


def test_an_exr_still_beside_a_clip(tmp_path):
    pytest.importorskip("OpenEXR")
    from wan_alpha.media.exr import write_exr_sequence
    from wan_alpha.media.read import count_frames, read_rgba

    levels = np.full((1, 8, 8), 255, np.uint8)
    write_exr_sequence(RgbaClip(rgb=np.zeros((1, 8, 8, 3), np.uint8), alpha=levels, fps=16.0), tmp_path / "exr", transfer="linear")
    (tmp_path / "exr" / "00000.exr").rename(tmp_path / "light.exr")
    (tmp_path / "exr").rmdir()
    clip(tmp_path / "a.webp")
    assert names(tmp_path) == ["a", "light"]
    assert (count_frames(tmp_path / "light.exr"), read_rgba(tmp_path / "light.exr").alpha.min()) == (1, 255)
