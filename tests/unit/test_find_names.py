"""Clips of one name: in several folders, in several formats, beside an export. Each keeps a name of its own, and nothing else stops."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from wan_alpha.config import DoctorConfig, ExportConfig, PrepareConfig, PreviewConfig
from wan_alpha.dataset_report import PrepareReport
from wan_alpha.doctor import doctor
from wan_alpha.errors import DatasetError
from wan_alpha.export import export
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.find import find_clips
from wan_alpha.media.naming import with_different_names
from wan_alpha.media.pairs import FoundClip
from wan_alpha.media.write import write_pair, write_png_sequence, write_webp
from wan_alpha.prepare import prepare
from wan_alpha.sheet import preview


def noise(seed: int = 0) -> RgbaClip:
    levels = np.random.default_rng(seed).integers(0, 256, (3, 16, 16, 4), dtype=np.uint8)
    return RgbaClip(rgb=levels[..., :3], alpha=levels[..., 3], fps=16.0)


def touch(folder: Path, *names: str) -> Path:
    """Movies whose contents do not matter for their names."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["walk/0001.mov", "run/0001.mov", "jump.mov"], ["jump", "run_0001", "walk_0001"]),
        (["0001.mov", "run/0001.mov"], ["0001", "run_0001"]),
        (["a/b/0001.mov", "a/c/0001.mov"], ["a_b_0001", "a_c_0001"]),
        (["walk/0001.mov", "run/0001.mov", "walk_0001.webm"], ["run_0001", "walk_0001_mov", "walk_0001_webm"]),
        (["walk/fgr/1.mp4", "walk/pha/1.mp4", "run/fgr/1.mp4", "run/pha/1.mp4"], ["run_1", "walk_1"]),
        (["x/rgb.mp4", "x/alpha.mp4", "y/x/rgb.mp4", "y/x/alpha.mp4"], ["x", "y_x"]),
    ],
)
def test_clips_of_one_name_are_called_after_their_folders(tmp_path, files, expected):
    found = find_clips(touch(tmp_path, *files))
    assert [clip.name for clip in found] == expected
    assert all(clip.problem is None for clip in found)


def test_names_do_not_depend_on_the_order():
    paths = [Path("in") / name for name in ("a/1.mov", "b/1.mov", "a_1.mov", "A/1.mov", "b_1.webm", "c.mov")]
    clips = [FoundClip(name=path.stem, rgba=path) for path in paths]
    named = []
    for order in itertools.permutations(clips):
        found = with_different_names(order, Path("in"))
        named.append({str(clip.rgba): clip.name for clip in found})
        assert len({clip.name.casefold() for clip in found}) == len(paths)
    assert all(names == named[0] for names in named)
    assert named[0]["in/c.mov"] == "c"


@pytest.mark.parametrize(
    ("files", "read", "told"),
    [
        (["a.mov", "a.webm"], ["a.mov"], "a.mov, not a.webm"),
        (["a.mov", "a.mp4"], ["a.mov"], "a.mov, not a.mp4"),
        (["a.mov", "a.mp4", "a_alpha.mp4"], ["a.mp4", "a_alpha.mp4"], "a.mp4, not a.mov"),
        (["a.webm", "a_rgb.mp4", "a_alpha.mp4"], ["a_rgb.mp4", "a_alpha.mp4"], "a_rgb.mp4, not a.webm"),
        (["a.mov", "a_rgb.mp4", "a_alpha.mp4"], ["a.mov"], "a.mov, not a_rgb.mp4, a_alpha.mp4"),
        (["fgr/a.mov", "fgr/a.mp4", "pha/a.mp4"], ["a.mp4", "a.mp4"], "a.mp4, not a.mov"),
    ],
)
def test_one_clip_in_several_formats_is_read_in_one(tmp_path, caplog, files, read, told):
    (found,) = find_clips(touch(tmp_path, *files))
    assert [path.name for path in found.files] == read
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.endswith(f"clips in several formats (1) are read in one of them: {told}; give another name to what is another clip")


def test_half_a_pair_in_several_formats_loses_none_of_them(tmp_path):
    found = find_clips(touch(tmp_path, "fgr/a.mp4", "fgr/a.mov", "pha/b.webm", "pha/b.mkv"))
    assert [(clip.files[0].name, [path.name for path in clip.others]) for clip in found] == [("a.mov", ["a.mp4"]), ("b.mkv", ["b.webm"])]
    assert all("half a pair" in str(clip.problem) for clip in found)


def test_the_folder_of_an_export(tmp_path):
    write_png_sequence(noise(), tmp_path / "in" / "clip")
    export(ExportConfig(source=tmp_path / "in", output_path=tmp_path / "in" / "out", formats=("png", "zip", "webm", "prores", "pair")))
    (found,) = find_clips(tmp_path / "in" / "out")
    assert (found.name, found.rgba) == ("clip", tmp_path / "in" / "out" / "clip")
    assert preview(PreviewConfig(source=tmp_path / "in" / "out", output_path=tmp_path / "sheet.png")).rows == ("clip",)
    report = doctor(DoctorConfig(source=tmp_path / "in", output_path=tmp_path / "report"))
    assert [one.name for one in report.diagnoses] == ["clip", "out_clip"]
    assert "duplicate" in {found.name for one in report.diagnoses for found in one.findings}


@pytest.mark.parametrize(("sidecar", "names"), [(True, ["a"]), (False, ["a", "a_exr", "a_png"])])
def test_formats_whose_names_export_lengthens(tmp_path, sidecar, names):
    touch(tmp_path, "a.mov", "a_png.zip", *(["a_export.json"] if sidecar else []))
    write_png_sequence(noise(), tmp_path / "a_exr")
    assert [clip.name for clip in find_clips(tmp_path)] == names


def test_two_mattes_are_that_clips_problem(tmp_path):
    write_pair(noise(), tmp_path / "a")
    (tmp_path / "a_seg.mp4").write_bytes((tmp_path / "a_alpha.mp4").read_bytes())
    write_webp(noise(1), tmp_path / "b.webp")
    a, b = find_clips(tmp_path)
    assert "got 2 mattes (a_alpha, a_seg), expected one" in str(a.problem)
    assert b.problem is None


def test_a_name_that_leaves_no_room_for_endings_is_one_bad_clip(tmp_path):
    """The others are exported, prepared and repaired."""
    for name in ("ok", "x" * 229, "é" * 115):
        write_webp(noise(len(name)), tmp_path / "in" / f"{name}.webp")
    out = tmp_path / "out"
    exported = export(ExportConfig(source=tmp_path / "in", output_path=out / "e", on_bad_sample="skip"))
    assert exported.exit_code == 1
    assert "a name of 230 bytes, expected at most 229" in exported.failed["é" * 115]
    prepared = prepare(PrepareConfig(source=tmp_path / "in", output_path=out / "p", on_bad_sample="skip", windows="fixed", num_frames=1))
    assert {clip.video[:-6] for clip in prepared.clips} == {"ok", "x" * 229}
    repaired = doctor(DoctorConfig(source=tmp_path / "in", output_path=out / "d", fix=True)).repaired
    assert isinstance(repaired, PrepareReport)
    assert [name for name, _ in repaired.skipped] == ["é" * 115]
    with pytest.raises(DatasetError, match="a name of 230 bytes"):
        export(ExportConfig(source=tmp_path / "in" / ("é" * 115 + ".webp"), output_path=out / "one"))


def test_two_clips_never_share_a_place_in_an_export(tmp_path):
    """A's EXR frames and a_EXR's PNG frames; systems there are that take A_exr for a_EXR."""
    for name in ("A", "a_EXR"):
        write_png_sequence(noise(), tmp_path / "in" / name)
    with pytest.raises(DatasetError, match=r"a_EXR for this clip and for .*in/A, expected a place for each"):
        export(ExportConfig(source=tmp_path / "in", output_path=tmp_path / "out", formats=("exr", "png"), fps=16.0))
    assert not (tmp_path / "out").exists()
    files = export(ExportConfig(source=tmp_path / "in", output_path=tmp_path / "out", formats=("png",), fps=16.0)).files
    assert [path.name for path in files] == ["A", "a_EXR"]
