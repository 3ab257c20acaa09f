"""Half of a pair stands for the pair: by its ending, in rgb/ + alpha/ or fgr/ + pha/, as a file, as frames, as the folder of one half."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wan_alpha.config import DoctorConfig, ExportConfig, PrepareConfig
from wan_alpha.doctor import doctor
from wan_alpha.errors import DatasetError
from wan_alpha.export import export
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.find import find_clips
from wan_alpha.media.read import read_pair, read_rgba
from wan_alpha.media.write import write_pair, write_png_sequence, write_webp
from wan_alpha.prepare import prepare

FOLDERS = [("rgb", "alpha"), ("fgr", "pha"), ("RGB", "Alpha")]


def noise(seed: int = 0) -> RgbaClip:
    levels = np.random.default_rng(seed).integers(0, 256, (3, 16, 16, 4), dtype=np.uint8)
    return RgbaClip(rgb=levels[..., :3], alpha=levels[..., 3], fps=16.0)


def pair_in(home: Path, folders: tuple[str, str], name: str = "a", *, seed: int = 0) -> tuple[Path, Path]:
    """HOME/rgb/NAME.mp4 and HOME/alpha/NAME.mp4."""
    home.mkdir(parents=True, exist_ok=True)
    halves = tuple(home / folder / f"{name}.mp4" for folder in folders)
    for made, path in zip(write_pair(noise(seed), home / name), halves, strict=True):
        path.parent.mkdir(exist_ok=True)
        made.rename(path)
    return halves


def opaque_frames(levels: np.ndarray, folder: Path) -> Path:
    """Frames without alpha of their own, as a matte or as colour (T H W 3)."""
    folder.mkdir(parents=True)
    for index, frame in enumerate(levels):
        Image.fromarray(frame).save(folder / f"{index:04d}.png")
    return folder


@pytest.mark.parametrize("folders", FOLDERS)
@pytest.mark.parametrize("half", [0, 1])
def test_a_file_in_one_of_two_folders_is_the_pair(tmp_path, folders, half):
    halves = pair_in(tmp_path / "clips", folders)
    pair_in(tmp_path / "clips", folders, "b", seed=1)
    (found,) = find_clips(halves[half])
    assert (found.name, found.rgb, found.alpha) == ("a", *halves)
    written = export(ExportConfig(source=halves[half], output_path=tmp_path / "out", formats=("webp",))).files
    assert [path.name for path in written] == ["a.webp"]
    assert np.array_equal(read_rgba(tmp_path / "out" / "a.webp").alpha, noise().alpha)
    (tmp_path / "clips" / folders[0] / "a.txt").write_text("a red ball")
    (made,) = prepare(PrepareConfig(source=halves[half], output_path=tmp_path / "set")).clips
    assert (made.video, made.prompt) == ("a", "a red ball")


def test_a_relative_name_inside_the_folder(tmp_path, monkeypatch):
    halves = pair_in(tmp_path, ("rgb", "alpha"))
    monkeypatch.chdir(tmp_path / "alpha")
    for name in ("a.mp4", "../rgb/a.mp4"):
        (found,) = find_clips(Path(name))
        assert found.problem is None
        assert [path.resolve() for path in found.files] == list(halves)


@pytest.mark.parametrize("colours", ["rgb", "images"])
def test_a_way_that_leads_through_the_folder_and_out_again(tmp_path, monkeypatch, colours):
    """rgb/../clips is clips: its colour is no matte of itself."""
    (tmp_path / "in" / colours).mkdir(parents=True)
    (tmp_path / "in" / "masks").mkdir()
    for name in ("a", "b"):
        write_webp(noise(), tmp_path / "in" / "clips" / f"{name}.webp")
    monkeypatch.chdir(tmp_path / "in" / colours)
    for source in (Path("../clips"), tmp_path / "in" / colours / ".." / "clips"):
        assert [clip.rgba for clip in find_clips(source)] == [source / "a.webp", source / "b.webp"]
        assert [clip.rgba for clip in find_clips(source / "a.webp")] == [source / "a.webp"]
    assert [clip.rgba for clip in find_clips(Path(".."))] == [Path("../clips/a.webp"), Path("../clips/b.webp")]


@pytest.mark.parametrize(("half", "other"), [(0, "alpha"), (1, "rgb")])
def test_a_half_without_its_other_half(tmp_path, half, other):
    """The same for the file alone, for its folder, and for the folder of both."""
    halves = pair_in(tmp_path / "in", ("rgb", "alpha"))
    pair_in(tmp_path / "in", ("rgb", "alpha"), "b")
    halves[1 - half].unlink()
    missing = "matte" if half == 0 else "colour"
    message = rf"a\.mp4: got half a pair: no a in {other}/, expected its {missing} of the same name there; add the {missing}"
    for source in (halves[half], halves[half].parent, tmp_path / "in"):
        with pytest.raises(DatasetError, match=message):
            export(ExportConfig(source=source, output_path=tmp_path / "out"))
    report = prepare(PrepareConfig(source=tmp_path / "in", output_path=tmp_path / "set", on_bad_sample="skip"))
    assert ([clip.video for clip in report.clips], [name for name, _ in report.skipped]) == (["b"], ["a"])


def test_an_rgba_file_in_such_a_folder_stays_one(tmp_path):
    """Named alone; its neighbours' names, doubled or not, are no matter of its own."""
    pair_in(tmp_path, ("rgb", "alpha"))
    write_webp(noise(), tmp_path / "rgb" / "own.webp")
    write_webp(noise(), tmp_path / "rgb" / "a.webp")
    (found,) = find_clips(tmp_path / "rgb" / "own.webp")
    assert (found.rgba, found.problem) == (tmp_path / "rgb" / "own.webp", None)
    (found,) = find_clips(tmp_path / "rgb" / "a.webp")
    assert (found.rgba, found.problem) == (tmp_path / "rgb" / "a.webp", None)


def test_suffixes_inside_such_a_folder(tmp_path):
    pair_in(tmp_path, ("rgb", "alpha"), "z")
    rgb, alpha = write_pair(noise(), tmp_path / "rgb" / "c")
    for path in (rgb, alpha):
        (found,) = find_clips(path)
        assert (found.name, found.rgb, found.alpha) == ("c", rgb, alpha)


@pytest.mark.parametrize(
    ("colour", "matte", "name"),
    [("rgb", "alpha", "in"), ("fgr", "pha", "in"), ("walk_rgb", "walk_alpha", "walk"), ("walk", "walk_seg", "walk")],
)
def test_a_folder_of_frames_is_the_pair(tmp_path, colour, matte, name):
    clip, home = noise(), tmp_path / "in"
    opaque_frames(clip.rgb, home / colour)
    opaque_frames(clip.alpha, home / matte)
    for source in (home / colour, home / matte):
        (found,) = find_clips(source)
        assert (found.name, found.rgb, found.alpha) == (name, home / colour, home / matte)
        (made,) = prepare(PrepareConfig(source=source, output_path=tmp_path / "set")).clips
        assert made.video == name
        back = read_pair(tmp_path / "set" / f"{name}_rgb.mp4", tmp_path / "set" / f"{name}_alpha.mp4")
        assert np.array_equal(back.alpha, clip.alpha)


def test_one_frame_of_two_folders_of_frames(tmp_path):
    clip = noise()
    colour, matte = opaque_frames(clip.rgb, tmp_path / "rgb"), opaque_frames(clip.alpha, tmp_path / "alpha")
    (found,) = find_clips(matte / "0001.png")
    assert (found.name, found.rgb, found.alpha) == ("0001", colour / "0001.png", matte / "0001.png")


def test_frames_of_rgba_beside_a_pair_of_their_name(tmp_path):
    """As export leaves them: each is a clip of its own."""
    write_pair(noise(), tmp_path / "c")
    write_png_sequence(noise(), tmp_path / "c")
    (found,) = find_clips(tmp_path / "c")
    assert found.rgba == tmp_path / "c"


@pytest.mark.parametrize("half", [0, 1])
def test_the_folder_of_one_half_is_the_folder_of_pairs(tmp_path, half):
    halves = pair_in(tmp_path, ("fgr", "pha"))
    pair_in(tmp_path, ("fgr", "pha"), "b", seed=1)
    assert [(found.name, found.problem) for found in find_clips(halves[half].parent)] == [("a", None), ("b", None)]
    assert [one.name for one in doctor(DoctorConfig(source=halves[half].parent, output_path=tmp_path / "out")).diagnoses] == ["a", "b"]


def test_a_matte_is_a_clip_and_no_caption(tmp_path):
    halves = pair_in(tmp_path, ("rgb", "alpha"))
    for name in ("a.txt", "a.psd", "a_preview.mp4"):
        (tmp_path / "alpha" / name).touch()
    (found,) = find_clips(tmp_path)
    assert (found.rgb, found.alpha, found.problem) == (*halves, None)


def test_a_partner_that_is_a_link_out_is_refused(tmp_path):
    halves = pair_in(tmp_path / "in", ("rgb", "alpha"))
    halves[1].rename(tmp_path / "elsewhere.mp4")
    halves[1].symlink_to(tmp_path / "elsewhere.mp4")
    with pytest.raises(DatasetError, match=r"alpha/a\.mp4: got a link to .*elsewhere\.mp4"):
        prepare(PrepareConfig(source=halves[0], output_path=tmp_path / "out"))
    (made,) = prepare(PrepareConfig(source=halves[0], output_path=tmp_path / "out", links="follow")).clips
    assert made.video == "a"


@pytest.mark.parametrize(
    ("colour", "matte", "name"),
    [
        ("fgr/a_fgr", "pha/a_pha", "a"),
        ("fgr/a", "pha/a_alpha", "a"),
        ("rgb/a_rgb", "alpha/a_rgb", "a_rgb"),
        ("fgr/a", "alpha/a", "a"),
        ("rgb/a", "mask/a", "a"),
        ("images/a", "Masks/a", "a"),
        ("fgr/train/a", "pha/train/a", "a"),
        ("one/rgb", "one/alpha", "one"),
        ("one/Fgr", "one/Pha", "one"),
        ("d_RGB", "d_ALPHA", "d"),
        ("D_Fgr", "D_Matte", "D"),
    ],
)
def test_forms_of_pairs(tmp_path, colour, matte, name):
    """In a folder of clips, and each half named alone."""
    made, home = write_pair(noise(), tmp_path / "made"), tmp_path / "clips"
    halves = [home / f"{half}.mp4" for half in (colour, matte)]
    for path, half in zip(made, halves, strict=True):
        half.parent.mkdir(parents=True, exist_ok=True)
        path.rename(half)
    for source in (home, *halves):
        (found,) = find_clips(source)
        assert (found.name, found.rgb, found.alpha, found.problem) == (name, *halves, None)


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        ("d_ALPHA.MP4", "d_rgb.MP4 (its colour)"),
        ("d_RGB.MP4", "d_alpha.MP4 or d_seg.MP4 (its matte)"),
        ("alpha.mp4", "rgb.mp4 (its colour)"),
    ],
)
def test_what_half_a_pair_lacks(tmp_path, file, wanted):
    (tmp_path / file).touch()
    (found,) = find_clips(tmp_path)
    assert f"{file}: got half a pair, expected {wanted} beside it" in str(found.problem)


def test_nested_folders_of_pairs_keep_their_names_apart(tmp_path):
    for place in ("train", "val"):
        pair_in(tmp_path / "made" / place, ("fgr", "pha"), "0001")
        for half in ("fgr", "pha"):
            (tmp_path / "in" / half / place).mkdir(parents=True)
            (tmp_path / "made" / place / half / "0001.mp4").rename(tmp_path / "in" / half / place / "0001.mp4")
    (tmp_path / "in" / "pha" / "val" / "0002.mp4").touch()
    for half in ("fgr", "pha"):
        (tmp_path / "in" / half / "val" / "loop").symlink_to("..")
    found = find_clips(tmp_path / "in")
    assert [(clip.name, clip.problem is None) for clip in found] == [("0002", False), ("train_0001", True), ("val_0001", True)]
    assert "no 0002 in val/" in str(found[0].problem)
    assert [clip.name for clip in find_clips(tmp_path / "in" / "pha" / "val")] == ["0001", "0002"]


def test_two_colours_never_share_a_matte(tmp_path):
    for name in ("fgr/a.mp4", "fgr/a_rgb.mp4", "pha/a_alpha.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [(clip.name, clip.problem is None) for clip in find_clips(tmp_path)] == [("a", True), ("a_rgb", False)]


def test_a_caption_beside_the_folder_of_a_bare_pair(tmp_path):
    for half, made in zip(("rgb", "alpha"), write_pair(noise(), tmp_path / "made"), strict=True):
        (tmp_path / "in" / "one").mkdir(parents=True, exist_ok=True)
        made.rename(tmp_path / "in" / "one" / f"{half}.mp4")
    (tmp_path / "in" / "one.txt").write_text("A red ball.")
    (made,) = prepare(PrepareConfig(source=tmp_path / "in", output_path=tmp_path / "set")).clips
    assert (made.video, made.prompt) == ("one", "A red ball.")
