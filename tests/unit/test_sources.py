"""Source folders as people have them: damaged, unreadable, linked, made on other systems. One clip's trouble stays that clip's."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from wan_alpha.config import DoctorConfig, PrepareConfig
from wan_alpha.data.sources import FileSource, file_sources
from wan_alpha.diagnosis import diagnose
from wan_alpha.doctor import doctor
from wan_alpha.errors import DatasetError, MediaError, WanAlphaError
from wan_alpha.findings.examine import Expected
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.find import find_clips
from wan_alpha.media.read import BY_FILE
from wan_alpha.media.write import write_webp
from wan_alpha.prepare import prepare


def clip(path: Path, frames: int = 3) -> Path:
    levels = np.random.default_rng(frames).integers(0, 256, (frames, 16, 16, 4), dtype=np.uint8)
    write_webp(RgbaClip(rgb=levels[..., :3], alpha=levels[..., 3], fps=16.0), path)
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    clip(tmp_path / "in" / "a.webp")
    return tmp_path / "in"


def sources(folder: Path, **settings: object) -> dict[str, FileSource]:
    return {source.name: source for source in file_sources(folder, settings=BY_FILE, **settings)}


def problem(source: FileSource) -> str:
    with pytest.raises(WanAlphaError) as caught:
        source.digest()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What cannot be opened or named


def test_a_name_that_is_not_utf8_is_that_clips_problem(tmp_path, folder):
    clip(folder / "z.webp").rename(os.fsdecode(os.fsencode(folder) + b"/L\xf6we.webp"))
    report = prepare(PrepareConfig(source=folder, output_path=tmp_path / "out", on_bad_sample="skip"))
    assert [made.video for made in report.clips] == ["a"]
    (name, why), *_ = report.skipped
    assert name == r"L\xf6we"
    assert r"L\xf6we.webp: got a name that is not UTF-8" in why
    assert json.loads((tmp_path / "out" / "report.json").read_text())["skipped"][0][0] == name
    found = doctor(DoctorConfig(source=folder, output_path=tmp_path / "doctor"))
    assert {diagnosis.name: diagnosis.findings[0].name for diagnosis in found.diagnoses}[name] == "unreadable file"


def test_pipes_are_named_and_never_opened(folder):
    os.mkfifo(folder / "b.webp")
    (folder / "c.mov").symlink_to("/nowhere/c.mov")
    (folder / "d.mov").symlink_to("d.mov")
    for half in ("rgb", "alpha"):
        (folder / "pair" / half).mkdir(parents=True)
        os.mkfifo(folder / "pair" / half / "e.mp4")
    found = sources(folder)
    assert {name: problem(source).split(": got ")[1].split(",")[0] for name, source in found.items() if name != "a"} == {
        "b": "neither a file nor a folder",
        "e": "neither a file nor a folder",
    }
    assert len(found["a"].digest()) == 64
    with pytest.raises(DatasetError, match="neither a file nor a folder"):
        find_clips(folder / "b.webp")


def test_what_may_not_be_read_is_named(folder, monkeypatch):
    clip(folder / "b.webp")
    clip(folder / "locked" / "c.webp")
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name not in ("b.webp", "locked") and real(path, mode))
    found = sources(folder)
    assert sorted(found) == ["a", "b", "locked"]
    assert all("no permission" in problem(found[name]) for name in ("b", "locked"))


def test_a_file_that_fails_while_it_is_read(folder):
    source = sources(folder)["a"]
    (folder / "a.webp").unlink()
    (folder / "a.webp").mkdir()
    (folder / "a.webp" / "0.webp").symlink_to("/proc/self/mem")  # opens, and gives an OSError when read
    with pytest.raises(MediaError, match=r"0\.webp: got OSError"):
        source.digest()


def test_exr_without_its_library_is_that_clips_problem(folder, monkeypatch):
    (folder / "frames").mkdir()
    for number in range(2):
        (folder / "frames" / f"{number}.exr").write_bytes(b"v/1\x01")
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    seen = diagnose(sources(folder)["frames"], expected=Expected()).diagnosis
    assert (seen.findings[0].name, "wan-alpha[exr]" in seen.findings[0].says) == ("unreadable file", True)


# Text around the clips

JSON_BOMBS = ["[" * 100_000 + "]" * 100_000, '{"caption": "x", "seed": ' + "1" * 5000 + "}", '{"caption": "\\ud800"}', "{"]


@pytest.mark.parametrize("text", JSON_BOMBS, ids=["deep", "long number", "half a character", "cut"])
def test_json_that_nobody_expects_is_one_error(folder, text):
    (folder / "a.json").write_text(text)
    with pytest.raises(DatasetError, match=r"a\.json: got broken JSON"):
        sources(folder)["a"].caption()
    (folder / "a.json").unlink()
    for name in ("metadata.jsonl", "manifest.json"):
        (folder / name).write_text(text)
        with pytest.raises(DatasetError, match=rf"{name}.*: got broken JSON"):
            sources(folder)
        (folder / name).unlink()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"file": "a.webp", "frames": "3"}, "got frames = '3', expected a whole number from 1 to 100000, without quotes"),
        *(
            ({"file": "a.webp", "frames": frames}, "expected a whole number from 1 to 100000")
            for frames in (0, -1, 2.5, 10**9, 10**400, True, float("nan"), float("inf"))
        ),
        ({"file": "a.webp", "caption": 5}, "got caption = 5, expected text in quotes"),
    ],
)
def test_manifest_entries_are_checked(folder, entry, message):
    (folder / "manifest.json").write_text(json.dumps([entry]))
    with pytest.raises(DatasetError) as caught:
        sources(folder)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", "héron".encode("utf-16"), "got UnicodeDecodeError, expected text in UTF-8"),
        ("a.txt", "heron".encode("utf-16-be"), "got NUL characters, expected text in UTF-8"),
        ("a.txt", b"x" * 10_001, "got a caption of 10001 characters, expected at most 10000"),
        ("a.txt", b"x" * 2**21, "got 2097152 bytes, expected a caption"),
        ("a.json", "é".encode("latin-1"), "expected text in UTF-8"),
        ("a.json", b'{"caption": "' + b"x" * 2**21 + b'"}', "expected a caption"),
    ],
)
def test_captions_that_are_none(folder, name, data, message):
    (folder / name).write_bytes(data)
    with pytest.raises(DatasetError) as caught:
        sources(folder)["a"].caption()
    assert message in str(caught.value)


BAD_PATHS = [
    ("a\0.webp", "got {} = 'a"),
    ("x" * 300, "expected a file name"),
    ("../a.webp", "which leaves"),
    ("gone.webp", "got {} = 'gone.webp', which is not in"),
    ("clips\\a.webp", "a Windows path, expected slashes; write clips/a.webp"),
    ("C:\\data\\a.webp", "a Windows path with a drive, which leaves"),
]


@pytest.mark.parametrize(("file", "message"), BAD_PATHS)
def test_an_entry_of_a_manifest_that_names_no_file_is_that_entrys_problem(folder, file, message):
    (folder / "manifest.json").write_text(json.dumps([{"file": file, "split": "train"}, {"file": "a.webp", "caption": "A lion"}]))
    found = sources(folder)
    assert sorted(found) == ["a", "manifest.json entry 1"]
    assert found["a"].caption() == "A lion"
    told = problem(found["manifest.json entry 1"])
    assert "manifest.json, entry 1: " in told
    assert message.format("file") in told
    assert list(sources(folder, split="train")) == ["manifest.json entry 1"]


@pytest.mark.parametrize(("file", "message"), BAD_PATHS[1:])
def test_a_row_that_names_no_file_is_that_rows_problem(folder, file, message):
    (folder / "metadata.csv").write_text(f"video,prompt\n{file},A tiger\na.webp,A lion\n")
    bad, good = sources(folder).values()
    assert "metadata.csv, line 2: " in problem(bad)
    assert message.format("video") in problem(bad)
    assert "--dataset" not in problem(bad), "a flag that doctor and prepare lack"
    assert bad.name.endswith("(line 2)")
    assert (bad.caption(), bad.origin()) == ("A tiger", (str(folder / "metadata.csv"),))
    assert (good.name, good.caption()) == ("a", "A lion")
    report = doctor(DoctorConfig(source=folder, output_path=folder.parent / "out"))
    assert [one.findings[0].name for one in report.diagnoses if one.worst == "error"] == ["unreadable file"]


@pytest.mark.parametrize("text", ['{"name": "my app"}', "[]", "[1, 2]"])
def test_another_programs_manifest_is_told_and_left_alone(folder, text, caplog):
    (folder / "manifest.json").write_text(text)
    (folder / "metadata.csv").write_text("video,prompt\na.webp,A lion\n")
    assert sources(folder)["a"].caption() == "A lion"
    assert "another program's" in caplog.text


def test_captions_of_cameras_that_shout(folder):
    (folder / "a.webp").rename(folder / "A.WEBP")
    (folder / "A.TXT").write_text("Caption upper")
    assert sources(folder)["A"].caption() == "Caption upper"
    (folder / "A.TXT").rename(folder / "A.JSON")
    (folder / "A.JSON").write_text('{"prompt": "JSON upper"}')
    assert sources(folder)["A"].caption() == "JSON upper"


# Links


@pytest.mark.parametrize("name", ["a.txt", "a.json"])
def test_a_caption_that_is_a_link_out_is_refused(tmp_path, folder, name):
    secret = tmp_path / "secret"
    secret.write_text('{"caption": "root"}')
    (folder / name).symlink_to(secret)
    assert f"{name}: got a link to {secret}" in problem(sources(folder)["a"])
    assert "root" in sources(folder, links="follow")["a"].caption()


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "manifest.json"])
def test_a_table_that_is_a_link_out_is_refused(tmp_path, folder, name):
    (tmp_path / "secret").write_text("[]")
    (folder / name).symlink_to(tmp_path / "secret")
    with pytest.raises(DatasetError, match=f"{name}: got a link to"):
        sources(folder)


def test_the_caption_beside_a_folder_of_frames_is_no_link_out(tmp_path):
    from wan_alpha.media.write import write_png_sequence

    levels = np.zeros((2, 8, 8, 4), np.uint8)
    write_png_sequence(RgbaClip(rgb=levels[..., :3], alpha=levels[..., 3], fps=16.0), tmp_path / "walk")
    (tmp_path / "walk.txt").write_text("a walk")
    assert sources(tmp_path / "walk")["walk"].caption() == "a walk"


def test_a_folder_link_back_is_not_followed(folder, caplog):
    clip(folder / "sub" / "b.webp")
    (folder / "sub" / "loop").symlink_to("..")
    (folder / "other").mkdir()
    (folder / "other" / "to_sub").symlink_to(folder)
    (folder / "sub" / "up").symlink_to("/")
    assert [found.name for found in find_clips(folder)] == ["a", "b"]
    assert caplog.text.count("is not followed") == 3
