"""Tables of clips: text stays text, paths stay inside, errors name the row."""

from pathlib import Path

import pytest

from wan_alpha.config import EvaluateConfig
from wan_alpha.data.manifest import read_manifest, write_manifest
from wan_alpha.errors import DatasetError
from wan_alpha.evaluate import evaluation_entries


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def table(folder: Path, text: str, name: str = "metadata.csv") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_seed_layout_is_read_as_text(tmp_path):
    touch(tmp_path, "001_rgb.mp4", "001_alpha.mp4", "1e3_rgb.mp4", "1e3_alpha.mp4")
    table(tmp_path, '\ufeffvideo,prompt\n001,"a red ball, ""spinning""\u2028here"\n1e3,\n')
    first, second = read_manifest(tmp_path)
    assert (first.name, first.prompt) == ("001", 'a red ball, "spinning"\u2028here')
    assert (second.name, second.prompt) == ("1e3", "")
    assert first.rgb == tmp_path / "001_rgb.mp4"
    assert first.alpha == tmp_path / "001_alpha.mp4"


def test_round_trip(tmp_path):
    touch(tmp_path, "a, b_rgb.mp4", "a, b_alpha.mp4", "n.a_rgb.mp4", "n.a_alpha.mp4")
    rows = [("a, b", 'says "hello",\nand NA'), ("n.a", "")]
    write_manifest(rows, tmp_path / "metadata.csv")
    assert [(entry.name, entry.prompt) for entry in read_manifest(tmp_path)] == rows


@pytest.mark.parametrize("value", ["x", "x.mp4", "x_rgb.mp4", "x_rgb"])
def test_video_may_carry_an_extension(tmp_path, value):
    touch(tmp_path, "x_rgb.mp4", "x_alpha.mp4")
    table(tmp_path, f"video,prompt\n{value},p\n")
    (entry,) = read_manifest(tmp_path)
    assert (entry.name, entry.rgb, entry.alpha) == ("x", tmp_path / "x_rgb.mp4", tmp_path / "x_alpha.mp4")


def test_rgba_files_and_folders(tmp_path):
    touch(tmp_path, "a.webp", "frames/0.png")
    table(tmp_path, "clip,prompt\na.webp,one\nframes,two\n")
    first, second = read_manifest(tmp_path, key="clip")
    assert (first.name, first.rgba, first.rgb) == ("a", tmp_path / "a.webp", None)
    assert (second.name, second.rgba) == ("frames", tmp_path / "frames")


def test_published_tables(tmp_path, caplog):
    touch(tmp_path, "fgr/7.mp4", "pha/7.mp4")
    table(
        tmp_path,
        "video_fgr,video_pha,prompt,cache_path,frame_height,frame_width,num_frames\nfgr/7.mp4,pha/7.mp4,p,c.pt,832,480,81\n",
        "t2v.csv",
    )
    with caplog.at_level("INFO"):
        (entry,) = read_manifest(tmp_path, tmp_path / "t2v.csv")
    assert (entry.name, entry.prompt, entry.rgb, entry.alpha) == ("7", "p", tmp_path / "fgr/7.mp4", tmp_path / "pha/7.mp4")
    assert "frame_height and frame_width ignored" in caplog.text
    table(tmp_path, "video_fgr,video_pha,status\nfgr/7.mp4,pha/7.mp4,dynamic\n", "vae.csv")
    assert read_manifest(tmp_path, tmp_path / "vae.csv")[0].prompt == ""


def test_jsonl(tmp_path):
    touch(tmp_path, "a.webp", "b.mp4", "c.mp4", "d_rgb.mp4", "d_alpha.mp4")
    lines = [
        '{"rgba": "a.webp", "prompt": "p"}',
        "",
        '{"rgb": "b.mp4", "alpha": "c.mp4", "prompt": "x\u2028y"}',
        '{"video": "d", "prompt": ""}',
    ]
    table(tmp_path, "\n".join(lines), "metadata.jsonl")
    a, b, d = read_manifest(tmp_path)
    assert (a.rgba, b.rgb, b.alpha, d.alpha) == tuple(tmp_path / name for name in ("a.webp", "b.mp4", "c.mp4", "d_alpha.mp4"))
    assert b.prompt == "x\u2028y"


def test_a_row_without_its_matte_stops_whatever_is_skipped(tmp_path):
    touch(tmp_path, "half_rgb.mp4")
    table(tmp_path, "video,prompt\nhalf,p\n")
    with pytest.raises(DatasetError, match=r"half_rgb.mp4 alone, expected half_alpha.mp4"):
        evaluation_entries(EvaluateConfig(dataset_base_path=tmp_path, on_bad_sample="skip"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vidoe,prompt\nx,p\n", "line 2: got columns vidoe, prompt, expected a column 'video'; did you mean 'vidoe'"),
        ("video,promt\nx,p\n", "did you mean 'promt'"),
        ("video_fgr,prompt\nx,p\n", "expected a column 'video_pha'"),
        ("video,prompt\nmissing,p\n", "line 2: got video = 'missing'.*missing_rgb.mp4 and missing_alpha.mp4"),
        ("video,prompt\nhalf,p\n", "half_rgb.mp4 alone, expected half_alpha.mp4"),
        ("video,prompt\nx,p\n../out,p\n", "line 3: .*leaves"),
        ("video,prompt\n/etc/passwd,p\n", "leaves"),
        ("video,prompt\n,p\n", "an empty video"),
        ("video,prompt\n.,p\n", r"line 2: got video = '\.', the table's own folder"),
        ("video,prompt\nsub/..,p\n", "the table's own folder"),
        ("video,video,prompt\nx,half,p\n", "got 2 columns 'video', expected one"),
        ("video,prompt\nx,a red, round ball\n", "line 2: got 3 cells, expected 2: video, prompt; put quotes around"),
        ("video,prompt\nx\n", "line 2: got 1 cell, expected 2: video, prompt; write the cells that are empty too"),
        ("video,prompt\nx,p\nx,a red, round ball\n", "line 3: got 3 cells"),
        ("video;prompt\nx;p\n", "save the table with commas between its cells, not semicolons"),
        ("video\tprompt\nx\tp\n", "save the table with commas between its cells, not tabs"),
        ("shot,take\nx,1,2\n", "line 2: got columns shot, take, expected a column 'prompt'"),
        ("video,prompt\n", "no rows"),
        ("", "no rows"),
        ('video,prompt\nx,"open\n', "unexpected end of data"),
    ],
)
def test_bad_tables(tmp_path, text, message):
    touch(tmp_path / "data", "x_rgb.mp4", "x_alpha.mp4", "half_rgb.mp4")
    touch(tmp_path, "out_rgb.mp4", "out_alpha.mp4")
    table(tmp_path / "data", text)
    with pytest.raises(DatasetError, match=message) as error:
        read_manifest(tmp_path / "data")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "line", ['{"rgba": 7, "prompt": ""}', "[1]", "{", '{"rgb": "a", "prompt": ""}', '{"rgba": "none.webp", "prompt": ""}']
)
def test_bad_jsonl(tmp_path, line):
    with pytest.raises(DatasetError, match="line 1"):
        read_manifest(tmp_path, table(tmp_path, line, "m.jsonl"))


def test_link_out_of_the_folder(tmp_path):
    touch(tmp_path, "out/x_rgb.mp4", "out/x_alpha.mp4", "data/y_alpha.mp4")
    (tmp_path / "data" / "y_rgb.mp4").symlink_to(tmp_path / "out" / "x_rgb.mp4")
    table(tmp_path / "data", "video,prompt\ny,p\n")
    with pytest.raises(DatasetError, match="leaves"):
        read_manifest(tmp_path / "data")


def test_missing_folder_and_table(tmp_path):
    with pytest.raises(DatasetError, match=r"no such folder.*wan-alpha prepare"):
        read_manifest(tmp_path / "none")
    with pytest.raises(DatasetError, match=r"metadata\.csv: got no such file"):
        read_manifest(tmp_path)
    (tmp_path / "metadata.csv").write_bytes(b"video,prompt\n\xff\xfe,p\n")
    with pytest.raises(DatasetError, match="UTF-8"):
        read_manifest(tmp_path)


def test_a_relative_base_folder(tmp_path, monkeypatch):
    folder = tmp_path / "data"
    folder.mkdir()
    for half in ("rgb", "alpha"):
        (folder / f"clip_{half}.mp4").touch()
    (folder / "metadata.csv").write_text("video,prompt\nclip,x\n")
    monkeypatch.chdir(tmp_path)
    (entry,) = read_manifest(Path("data"))
    assert entry.rgb == Path("data/clip_rgb.mp4")


def test_two_captions_of_one_clip_stay_apart(tmp_path):
    for half in ("rgb", "alpha"):
        (tmp_path / f"clip_{half}.mp4").touch()
    (tmp_path / "metadata.csv").write_text("video,prompt\nclip,short\nclip,long\n")
    assert [(entry.name, entry.prompt) for entry in read_manifest(tmp_path)] == [("clip", "short"), ("clip#2", "long")]


@pytest.mark.parametrize("value", ["x" * 300, "a/" * 3000 + "b", "\0"])
@pytest.mark.parametrize("form", ["video,prompt\n{},p\n", "video_fgr,video_pha,prompt\n{0},{0},p\n"])
def test_names_that_no_file_can_have(tmp_path, value, form):
    table(tmp_path, form.format(value))
    with pytest.raises(DatasetError, match=r"line 2: got video.* = '.*, expected a file name"):
        read_manifest(tmp_path)
