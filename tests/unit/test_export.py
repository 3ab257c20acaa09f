"""export: every format verified, timing true, sources never overwritten; what a generated clip says of itself goes along."""

import json
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from wan_alpha.cli import main
from wan_alpha.config import ExportConfig
from wan_alpha.errors import DatasetError, MediaError, UsageError
from wan_alpha.export import export, over_background
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.formats import FORMATS
from wan_alpha.media.read import read_pair, read_rgba
from wan_alpha.media.record import read_record
from wan_alpha.media.video import read_video
from wan_alpha.media.write import write_png_sequence, write_webp


def ladder(frames: int = 4, height: int = 16, width: int = 18) -> RgbaClip:
    alpha = np.resize(np.arange(256), (frames, height, width)).astype(np.uint8)
    return RgbaClip(rgb=np.full((*alpha.shape, 3), (200, 30, 60), np.uint8), alpha=alpha, fps=16.0)


RECORD = {"prompt": 'A "blue" ring & 一个圆环.', "seed": 7, "weights": {"transformer": "ab" * 32}, "sampling": {"sigma_shift": 5.0}}
ALL_FORMATS = tuple(name for name in (*FORMATS, "preview") if name != "exr" or find_spec("OpenEXR"))


def names(folder):
    """The clips' files: everything but the record of the run, the sidecars and the sheet."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".json" and path.name != "export_sheet.png")


def test_one_clip_in_all_formats(tmp_path):
    write_png_sequence(ladder(), tmp_path / "clip")
    written = export(ExportConfig(source=tmp_path / "clip", output_path=tmp_path / "out")).files
    out = tmp_path / "out"
    assert names(out) == ["clip", "clip.webp", "clip_alpha.mp4", "clip_preview.mp4", "clip_rgb.mp4"]
    assert sorted(path.name for path in written) == names(out)
    for clip in (read_rgba(out / "clip"), read_rgba(out / "clip.webp"), read_pair(out / "clip_rgb.mp4", out / "clip_alpha.mp4")):
        assert np.array_equal(clip.alpha, ladder().alpha)
        assert clip.fps == 16
    assert np.array_equal(read_rgba(out / "clip.webp").rgb, ladder().rgb)


def test_every_file_carries_the_record_of_a_generated_clip(tmp_path):
    """From each format on to the next too, and no other comment is taken for one."""
    write_png_sequence(replace(ladder(), record=json.dumps(RECORD, ensure_ascii=False)), tmp_path / "clip")
    written = export(ExportConfig(source=tmp_path / "clip", output_path=tmp_path / "out", formats=ALL_FORMATS)).files
    assert len(written) == len(ALL_FORMATS) + 1
    for path in written:
        assert json.loads(read_record(path) or "null") == RECORD, path.name
    for path in (tmp_path / "out" / "clip").iterdir():
        assert json.loads(read_record(path) or "null") == RECORD
    assert json.loads((tmp_path / "out" / "clip_export.json").read_text())["record"] == RECORD
    window = read_rgba(tmp_path / "out" / "clip.webp", start=2, count=1)
    assert np.array_equal(window.alpha, ladder().alpha[2:3])
    for name in ("clip.mov", "clip.webp"):
        export(ExportConfig(source=tmp_path / "out" / name, output_path=tmp_path / name, formats=("webm",)))
        assert json.loads(read_record(tmp_path / name / "clip.webm") or "null") == RECORD
    for number, text in enumerate((None, "null", "[1]", '{"prompt": "no seed"}', "{broken")):
        write_png_sequence(replace(ladder(frames=1), record=text), tmp_path / f"other_{number}")
        assert read_record(tmp_path / f"other_{number}") is None
    export(ExportConfig(source=tmp_path / "other_0", output_path=tmp_path / "plain", formats=("webp", "webm")))
    assert "record" not in json.loads((tmp_path / "plain" / "other_0_export.json").read_text())


def test_preview_shows_the_board(tmp_path):
    clip = ladder()
    frames = over_background(RgbaClip(rgb=clip.rgb, alpha=np.zeros_like(clip.alpha), fps=16.0), "checkerboard")
    assert set(np.unique(frames)) == {200, 255}
    assert frames[0, 0, 0, 0] != frames[0, 0, 8, 0] == frames[0, 8, 0, 0] != frames[0, 8, 8, 0]
    opaque = RgbaClip(rgb=clip.rgb, alpha=np.full_like(clip.alpha, 255), fps=16.0)
    assert np.array_equal(over_background(opaque, "checkerboard"), clip.rgb)
    assert over_background(RgbaClip(rgb=clip.rgb, alpha=np.zeros_like(clip.alpha), fps=16.0), "#0a141e")[0, 0, 0].tolist() == [10, 20, 30]
    write_png_sequence(clip, tmp_path / "clip")
    export(ExportConfig(source=tmp_path / "clip", output_path=tmp_path / "out", formats=("preview",)))
    decoded = read_video(tmp_path / "out" / "clip_preview.mp4")
    assert decoded.rgb.shape == clip.rgb.shape
    assert np.abs(decoded.rgb.astype(int) - over_background(clip, "checkerboard")).mean() < 8


def test_folder_of_clips(tmp_path):
    write_png_sequence(ladder(), tmp_path / "in" / "one")
    write_webp(ladder(frames=3), tmp_path / "in" / "two.webp")
    Image.new("RGB", (4, 4)).save(tmp_path / "in" / "sheet.png")
    (tmp_path / "in" / "run.json").write_text("{}")
    export(ExportConfig(source=tmp_path / "in", output_path=tmp_path / "out", formats=("webp",)))
    assert names(tmp_path / "out") == ["one.webp", "two.webp"]
    export(ExportConfig(source=tmp_path / "in", output_path=tmp_path / "in" / "out", formats=("webp",)))
    export(ExportConfig(source=tmp_path / "in", output_path=tmp_path / "in" / "out", formats=("webp", "png")))
    assert names(tmp_path / "in" / "out") == ["one", "one.webp", "two", "two.webp"]


def test_a_changed_level_is_an_error_and_leaves_nothing(tmp_path, monkeypatch):
    write_png_sequence(ladder(), tmp_path / "clip")

    def lossy(clip, path, *, quality):
        write_webp(RgbaClip(rgb=clip.rgb, alpha=clip.alpha // 2 * 2, fps=clip.fps), path)

    monkeypatch.setattr("wan_alpha.media.formats.write_webp", lossy)
    with pytest.raises(MediaError, match=r"clip\.webp: got alpha off by up to 1"):
        export(ExportConfig(source=tmp_path / "clip", output_path=tmp_path / "out"))
    assert names(tmp_path) == ["clip"]


def test_sources_and_foreign_folders_are_kept(tmp_path):
    write_webp(ladder(), tmp_path / "clip.webp")
    with pytest.raises(UsageError, match="would be overwritten"):
        export(ExportConfig(source=tmp_path / "clip.webp", output_path=tmp_path))
    (tmp_path / "out" / "clip").mkdir(parents=True)
    (tmp_path / "out" / "clip" / "thesis.doc").write_text("mine")
    with pytest.raises(MediaError, match=r"thesis\.doc"):
        export(ExportConfig(source=tmp_path / "clip.webp", output_path=tmp_path / "out"))
    assert names(tmp_path / "out") == ["clip"]


def test_bad_sources(tmp_path):
    with pytest.raises(DatasetError, match="no such file"):
        export(ExportConfig(source=tmp_path / "none", output_path=tmp_path / "out"))
    (tmp_path / "clip.psd").touch()
    with pytest.raises(MediaError, match=r"unknown extension \.psd"):
        export(ExportConfig(source=tmp_path / "clip.psd", output_path=tmp_path / "out"))
    (tmp_path / "clip.mp4").touch()
    with pytest.raises(DatasetError, match="half a pair"):
        export(ExportConfig(source=tmp_path / "clip.mp4", output_path=tmp_path / "out"))
    with pytest.raises(UsageError, match="--formats"):
        export(ExportConfig(source=tmp_path / "clip.mp4", output_path=tmp_path / "out", formats=()))
    assert not (tmp_path / "out").exists()


def test_damaged_clips_are_named_and_the_others_exported(tmp_path, capsys):
    for name in ("a", "b", "c"):
        write_webp(ladder(), tmp_path / "in" / f"{name}.webp")
    path = tmp_path / "in" / "b.webp"
    path.write_bytes(path.read_bytes()[:200])
    (tmp_path / "in" / "d.mp4").touch()
    arguments = ["export", str(tmp_path / "in"), "--output_path", str(tmp_path / "out"), "--formats", "webp"]
    assert main(arguments) == 2
    assert not (tmp_path / "out").exists()
    capsys.readouterr()
    assert main([*arguments, "--on_bad_sample", "skip"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert names(tmp_path / "out") == ["a.webp", "c.webp"]
    assert [line.split(": ")[1] for line in lines if line.startswith("not exported: ")] == ["b", "d"]
    assert lines[-1] == "2 clips could not be exported: b, d"
    for name in ("a", "c"):
        (tmp_path / "in" / f"{name}.webp").unlink()
    with pytest.raises(DatasetError, match=r"2 clips, none of them usable.*b\.webp"):
        export(ExportConfig(source=tmp_path / "in", output_path=tmp_path / "none", on_bad_sample="skip"))
    assert not (tmp_path / "none").exists()
