"""Captions: beside the clip, or from the user's own command."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from faults import clean_clip
from wan_alpha.config import DoctorConfig, PrepareConfig
from wan_alpha.data.captions import Captioner
from wan_alpha.data.commands import run_command
from wan_alpha.doctor import doctor
from wan_alpha.errors import DatasetError, UsageError
from wan_alpha.media.write import write_pair, write_png_sequence, write_webp
from wan_alpha.prepare import prepare


@pytest.fixture
def clips(tmp_path) -> Path:
    for name in ("a", "b;touch oops", "c"):
        write_webp(clean_clip(6, side=16, num_frames=2), tmp_path / "in" / f"{name}.webp")
    (tmp_path / "in" / "a.txt").write_text("from the text file")
    (tmp_path / "in" / "a.json").write_text('{"caption": "not asked"}')
    (tmp_path / "in" / "c.json").write_text('{"prompt": "from the JSON file", "fps": 3}')
    return tmp_path / "in"


def python(code: str) -> str:
    return f"{sys.executable} -c '{code}'"


def prompts(source: Path, **settings: object) -> dict[str, str]:
    report = prepare(PrepareConfig(source=source, output_path=source.parent / "out", **settings))
    return {clip.video: clip.prompt for clip in report.clips} | dict(report.skipped)


def test_beside_the_clip_comes_first_then_the_command(clips):
    found = prompts(clips, caption_command=python('import sys; print("seen:", sys.argv[1][-9:])') + " {clip}")
    assert found == {"a": "from the text file", "b;touch oops": "seen: oops.webp", "c": "from the JSON file"}
    assert sorted(path.name for path in clips.parent.iterdir()) == ["in", "out"]


def test_an_empty_caption_is_asked_for_too(clips):
    (clips / "a.txt").write_text(" \n")
    (clips / "c.json").write_text('{"caption": ""}')
    assert prompts(clips)["a"] == ""
    assert set(prompts(clips, caption_command=python('print("a fox")')).values()) == {"a fox"}


def test_in_the_folder_of_the_frames(tmp_path, caplog):
    """caption.txt among the frames, unless a text lies beside their folder; what is not taken is told, what is taken is not."""
    for name in ("walk", "run"):
        write_png_sequence(clean_clip(6, side=16, num_frames=2), tmp_path / "in" / name)
        (tmp_path / "in" / name / "caption.txt").write_text(f"a person who {name}s")
    (tmp_path / "in" / "walk.txt").write_text("beside it")
    (tmp_path / "in" / "run" / "notes.txt").write_text("take 3")
    assert prompts(tmp_path / "in") == {"run": "a person who runs", "walk": "beside it"}
    assert [record.getMessage().partition(": ")[2][:21] for record in caplog.records if "left out" in record.message] == [
        "left out: .txt (1); d"
    ] * 2


def test_beside_two_folders_of_pairs(tmp_path):
    """In the folder that holds fgr/ and pha/, unless a clip there has that name: then the text is that one's."""
    source = tmp_path / "in"
    for name in ("a", "b", "c", "d"):
        for half, path in zip(("fgr", "pha"), write_pair(clean_clip(6, side=16, num_frames=2), tmp_path / name), strict=True):
            (source / half).mkdir(parents=True, exist_ok=True)
            path.rename(source / half / f"{name}.mp4")
    for name in ("a", "b", "c"):
        (source / f"{name}.txt").write_text(f"of the root, {name}")
    (source / "d.json").write_text('{"caption": "of the root, d"}')
    (source / "fgr" / "b.txt").write_text("beside the colour")
    write_webp(clean_clip(6, side=16, num_frames=2), source / "c.webp")
    found = prompts(source)
    assert (found["a"], found["b"], found["d"]) == ("of the root, a", "beside the colour", "of the root, d")
    assert list(found.values()).count("of the root, c") == 1, "the clip beside it, not the pair"


def test_without_a_command_the_name_speaks(clips):
    assert prompts(clips)["b;touch oops"] == "b;touch oops"


@pytest.mark.parametrize(
    ("code", "timeout_s", "why"),
    [
        ('import sys; sys.exit("no model")', 60.0, "exit code 1: no model"),
        ("pass", 60.0, "0 characters"),
        ("import sys; sys.stdout.buffer.write(bytes([99, 97, 102, 233]))", 60.0, "text that is not UTF-8"),
        ("import time; time.sleep(600)", 0.3, "no answer within 0.3 s"),
        ('while True: print("a fox" * 1000)', 60.0, "more than 1048576 bytes"),
    ],
)
def test_a_captioner_that_fails_is_named_and_asked_again(clips, code, timeout_s, why):
    started = time.monotonic()
    found = prompts(clips, caption_command=python(code), caption_timeout_s=timeout_s, caption_retries=1, on_bad_sample="skip")
    assert why in found["b;touch oops"]
    assert "b;touch oops.webp" in found["b;touch oops"]
    assert found["a"] == "from the text file"
    assert time.monotonic() - started < 120


def test_the_doctor_asks_once_for_its_repaired_copies_too(clips):
    """A clip for which there is no answer is not asked for again either, one that cannot be read never; a written caption needs none."""
    write_webp(clean_clip(6, side=16, num_frames=2), clips / "mute.webp")
    (clips / "broken.webp").write_bytes(b"RIFF")
    asked = clips.parent / "asked.txt"
    code = f'import sys; open("{asked}", "a").write(sys.argv[1][-9:] + "\\n"); sys.exit(1) if "mute" in sys.argv[1] else print("a fox")'
    settings = {"caption_command": python(code), "caption_retries": 0, "clips_with_errors": "keep"}
    report = doctor(DoctorConfig(source=clips, output_path=clips.parent / "out", fix=True, **settings))
    assert sorted(asked.read_text().splitlines()) == ["mute.webp", "oops.webp"]
    assert {clip.video: clip.prompt for clip in report.repaired.clips} == {
        "a": "from the text file",
        "b;touch oops": "a fox",
        "c": "from the JSON file",
    }
    left_out = dict(report.repaired.skipped)
    assert left_out.keys() == {"broken", "mute"}
    assert "mute.webp: got no caption (exit code 1" in left_out["mute"]


def test_a_captioner_may_talk_at_length_about_its_work(tmp_path):
    code = 'import sys; sys.stderr.write("loading " * 1_000_000); print("a fox")'
    assert Captioner(command=python(code), timeout_s=60.0, retries=0).caption(tmp_path / "x.webp") == "a fox"


@pytest.mark.skipif(os.name != "posix", reason="groups of processes are POSIX's")
def test_what_a_late_captioner_left_running_is_ended_too(tmp_path):
    """The command has ended by itself; what it started still holds its output."""
    started = tmp_path / "pid"
    reason, out = run_command(["sh", "-c", f"sleep 600 & echo $! > {started}"], timeout_s=1.0, max_bytes=100)
    assert (reason, out) == ("no answer within 1 s", b"")
    pid = int(started.read_text())
    until = time.monotonic() + 10
    while _runs(pid) and time.monotonic() < until:
        time.sleep(0.02)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    """Whether the process is there and not a zombie that nobody has collected yet."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z")


def test_a_captioner_that_recovers(tmp_path):
    code = f'import pathlib; p = pathlib.Path("{tmp_path}/tried"); ok = p.exists(); p.touch(); print("a fox" if ok else "")'
    assert Captioner(command=python(code), timeout_s=60.0, retries=1).caption(tmp_path / "x.webp") == "a fox"


def test_commands_that_cannot_be(tmp_path):
    for command, message in (("", "nothing"), ("'open", "No closing quotation")):
        with pytest.raises(UsageError, match=message):
            Captioner(command=command, timeout_s=1.0, retries=0)
    with pytest.raises(UsageError, match="a command that runs"):
        Captioner(command="/nowhere/captioner", timeout_s=1.0, retries=0).caption(tmp_path / "x.webp")


def test_broken_files(clips):
    (clips / "c.json").write_text("{")
    with pytest.raises(DatasetError, match=r"c\.json.*broken JSON"):
        prompts(clips)
    assert "broken JSON" in prompts(clips, on_bad_sample="skip")["c"]


def test_a_prepared_set_keeps_its_prompts(clips):
    first = prompts(clips)
    again = prepare(PrepareConfig(source=clips.parent / "out", output_path=clips.parent / "again"))
    assert {clip.video: clip.prompt for clip in again.clips} == first
    (clips / "metadata.csv").write_text("shot,take\n1,2\n")
    assert prompts(clips) == first
