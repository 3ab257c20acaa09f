"""A table as a source: its rows are the clips, whatever their files are called; its prompts are the captions."""

import json
from pathlib import Path

import numpy as np
import pytest

from wan_alpha.config import DoctorConfig, ExportConfig, PrepareConfig, PreviewConfig
from wan_alpha.data.manifest import read_manifest
from wan_alpha.doctor import doctor
from wan_alpha.errors import DatasetError, UsageError
from wan_alpha.export import export
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.write import write_pair, write_webp
from wan_alpha.prepare import prepare
from wan_alpha.sheet import preview


def noise(seed: int = 0) -> RgbaClip:
    levels = np.random.default_rng(seed).integers(0, 256, (3, 16, 16, 4), dtype=np.uint8)
    return RgbaClip(rgb=levels[..., :3], alpha=levels[..., 3], fps=16.0)


def pair(rgb: Path, alpha: Path, *, seed: int = 0) -> None:
    for made, path in zip(write_pair(noise(seed), rgb.parent / "made"), (rgb, alpha), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        made.rename(path)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A pair whose names tell nothing, and an RGBA clip."""
    pair(tmp_path / "in" / "a" / "foo.mp4", tmp_path / "in" / "b" / "bar.mp4")
    write_webp(noise(1), tmp_path / "in" / "c.webp")
    return tmp_path / "in"


TABLES = {
    "metadata.csv": "video_fgr,video_pha,prompt,frame_height,frame_width\na/foo.mp4,b/bar.mp4,A red ball,64,64\n",
    "metadata.jsonl": json.dumps({"rgb": "a/foo.mp4", "alpha": "b/bar.mp4", "prompt": "A red ball"}) + "\n",
    "t2v.csv": "video_fgr,video_pha,prompt\na/foo.mp4,b/bar.mp4,A red ball\n",
}


@pytest.mark.parametrize("name", TABLES)
def test_rows_that_names_could_not_pair(tmp_path, folder, caplog, name):
    """The folder or the table itself; the same clips that training would read."""
    (folder / name).write_text(TABLES[name])
    (folder / "a" / "foo.txt").write_text("not this")
    for source in (folder / name, *([folder] if name.startswith("metadata") else [])):
        (made,) = prepare(PrepareConfig(source=source, output_path=tmp_path / "out")).clips
        assert (made.video, made.prompt) == ("foo", "A red ball")
        (seen,) = doctor(DoctorConfig(source=source, output_path=tmp_path / "doctor")).diagnoses
        assert (seen.name, seen.caption, seen.frames) == ("foo", "A red ball", 3)
        (entry,) = read_manifest(folder, folder / name)
        assert seen.origin == (str(entry.rgb), str(entry.alpha))
    assert f"{folder / name}: 1 files beside it are in none of its rows and are left out, such as c.webp" in caplog.text


def test_the_published_table_without_prompts(tmp_path, folder):
    (folder / "vae.csv").write_text("video_fgr,video_pha,status\na/foo.mp4,b/bar.mp4,dynamic\n")
    (made,) = prepare(PrepareConfig(source=folder / "vae.csv", output_path=tmp_path / "out")).clips
    assert made.prompt == "foo"
    (folder / "a" / "foo.txt").write_text("A blue ball")
    (made,) = prepare(PrepareConfig(source=folder / "vae.csv", output_path=tmp_path / "out")).clips
    assert made.prompt == "A blue ball"


def test_an_empty_prompt_stays_empty(tmp_path, folder):
    (folder / "metadata.csv").write_text("video,prompt\nc.webp,\n")
    (made,) = prepare(PrepareConfig(source=folder, output_path=tmp_path / "out")).clips
    assert made.prompt == ""


def test_rows_of_one_name_and_of_one_file(tmp_path, folder):
    pair(folder / "d" / "foo.mp4", folder / "d" / "bar.mp4", seed=2)
    rows = ["a/foo.mp4,b/bar.mp4,one", "d/foo.mp4,d/bar.mp4,two", "a/foo.mp4,b/bar.mp4,three"]
    (folder / "metadata.csv").write_text("\n".join(["video_fgr,video_pha,prompt", *rows]) + "\n")
    clips = prepare(PrepareConfig(source=folder, output_path=tmp_path / "out")).clips
    assert {clip.video: clip.prompt for clip in clips} == {"a_foo": "one", "d_foo": "two", "a_foo_2": "three"}


def test_a_prepared_folder_is_its_table(tmp_path, folder):
    """What lies there besides, such as half of a clip that was removed by hand, is no clip."""
    (folder / "metadata.csv").write_text(TABLES["metadata.csv"])
    prepare(PrepareConfig(source=folder, output_path=tmp_path / "set"))
    (tmp_path / "set" / "old_rgb.mp4").touch()
    report = doctor(DoctorConfig(source=tmp_path / "set", output_path=tmp_path / "doctor"))
    assert [one.name for one in report.diagnoses] == ["foo"]


BAD_ROWS = {
    "metadata.csv": (
        'video_fgr,video_pha,prompt\na/foo.mp4,b/bar.mp4,one\n\nc.webp,"in\ntwo lines", three, four\nc.webp\na/foo.mp4,b/bar.mp4,five\n',
        {5: "got 4 cells, expected 3: video_fgr, video_pha, prompt; put quotes", 6: "got 1 cell, expected 3: video_fgr"},
    ),
    "vae.csv": (  # the published table, without prompts
        "video_fgr,video_pha,status\na/foo.mp4,b/bar.mp4,static\na/foo.mp4,b/bar.mp4\na/foo.mp4,b/bar.mp4,static\n",
        {3: "got 2 cells, expected 3: video_fgr, video_pha, status"},
    ),
    "metadata.jsonl": (
        '{"rgba": "c.webp", "prompt": "one"}\n{"rgba": "c.w\n{"rgba": 7, "prompt": ""}\n{"rgba": "c.webp"}\n'
        '{"video": "c.webp", "prompt": ""}\n',
        {2: "got broken JSON", 3: "got rgba = 7, expected text", 4: "got columns rgba, expected a column 'prompt'"},
    ),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_is_that_rows_problem(tmp_path, folder, name):
    """Told by its line, as any clip that cannot be read is; the rows before and after it are clips."""
    text, problems = BAD_ROWS[name]
    (folder / name).write_text(text)
    source = folder / name if name == "vae.csv" else folder
    report = prepare(PrepareConfig(source=source, output_path=tmp_path / "out", on_bad_sample="skip"))
    assert len(report.clips) == 2
    assert len(report.skipped) == len(problems)
    found = doctor(DoctorConfig(source=source, output_path=tmp_path / "doctor")).diagnoses
    unreadable = [(one.name, one.findings[0].says) for one in found if one.findings and one.findings[0].name == "unreadable file"]
    assert (len(found), len(unreadable)) == (2 + len(problems), len(problems))
    for (line, problem), (skipped, why), (name_seen, says) in zip(problems.items(), report.skipped, unreadable, strict=True):
        assert why == says
        assert why.startswith(f"{folder / name}, line {line}: {problem}")
        assert skipped == name_seen
        assert f"line {line}" in skipped
    with pytest.raises(DatasetError, match=f"line {next(iter(problems))}: got"):
        prepare(PrepareConfig(source=source, output_path=tmp_path / "out"))


def test_lines_of_which_none_is_a_clip(tmp_path, folder, caplog):
    """Another program's, one of them broken; and text that is none."""
    (folder / "metadata.jsonl").write_text('{"epoch": 1}\n{"epo\n')
    assert [clip.video for clip in prepare(PrepareConfig(source=folder, output_path=tmp_path / "out", on_bad_sample="skip")).clips] == ["c"]
    assert "not taken from the table: " in caplog.text
    (folder / "metadata.jsonl").write_text("{\n{\n")
    with pytest.raises(DatasetError, match=r"metadata\.jsonl, line 1: got broken JSON"):
        prepare(PrepareConfig(source=folder, output_path=tmp_path / "out"))


def test_tables_that_are_none(tmp_path, folder):
    (folder / "shots.csv").write_text("shot,take\n1,2\n")
    with pytest.raises(
        DatasetError, match=r"shots\.csv, line 2: got columns shot, take, expected a column 'prompt'; rename or add the column$"
    ):
        prepare(PrepareConfig(source=folder / "shots.csv", output_path=tmp_path / "out"))
    (folder / "metadata.csv").write_text(TABLES["metadata.csv"])
    with pytest.raises(DatasetError, match="no clips of split 'train'"):
        prepare(PrepareConfig(source=folder, output_path=tmp_path / "out", split="train"))
    with pytest.raises(UsageError, match="the source folder"):
        prepare(PrepareConfig(source=folder / "metadata.csv", output_path=folder))


def test_preview_and_export_take_a_table_that_is_named(folder, tmp_path):
    table = folder / "t2v.csv"
    table.write_text(TABLES["t2v.csv"])
    drawn = preview(PreviewConfig(source=table, output_path=tmp_path / "sheet.png"))
    assert [row.split()[0].rstrip(",:") for row in drawn.rows] == ["foo"]
    written = export(ExportConfig(source=table, output_path=tmp_path / "out", formats=("webp",)))
    assert [path.name for path in written.files] == ["foo.webp"]
    table.write_text("video_fgr,video_pha,prompt\na/foo.mp4,b/none.mp4,A red ball\n")
    with pytest.raises(DatasetError, match=r"t2v.csv, line 2: got video_pha = 'b/none.mp4', which is not in"):
        export(ExportConfig(source=table, output_path=tmp_path / "other", formats=("webp",)))
