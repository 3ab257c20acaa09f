import logging
import re
import sys
from pathlib import Path

import pytest

from wan_alpha import cli, console, progress
from wan_alpha.console import install_progress
from wan_alpha.evaluate import grade


@pytest.fixture(autouse=True)
def no_display_before_or_after(monkeypatch):
    """The display is the process's: other tests run the command line, which installs one."""
    monkeypatch.setattr(progress, "_display", [progress._silent])


def test_lines_where_there_is_no_terminal(capsys, monkeypatch):
    monkeypatch.setattr(console, "LINE_EVERY_SECONDS", 0.0)
    install_progress()
    with progress.progress("training", total=4, done=2) as advance:
        advance(loss=0.25)
        advance(loss=0.125)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("training 3/4")
    assert lines[1].startswith("training 4/4")
    assert "loss 0.1250" in lines[1]


def test_a_library_user_sees_nothing(capsys):
    with progress.progress("caching", total=1) as advance:
        advance()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("rgb", "alpha", "word"), [(9.9, 4.9, "excellent"), (9.9, 5.1, "good"), (20.1, 1.0, "below the seed's 'good'")])
def test_the_seeds_grades(rgb, alpha, word):
    assert grade({"rgb_mae": rgb, "alpha_mae": alpha}) == word


def with_its_own_log(monkeypatch) -> None:
    """The command line logs to stderr where nothing else takes the log, as pytest does."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(console, "install_progress", lambda: None)


@pytest.mark.parametrize("verb", ["doctor", "prepare", "export", "preview"])
def test_names_with_line_breaks_stay_on_their_line(three_clips, tmp_path, capsys, monkeypatch, verb):
    """A clip, and one that cannot be read, whose names hold a line break and the order to clear the line."""
    with_its_own_log(monkeypatch)
    name, shown = "a\nerror: b\x1b[2K", "a\\nerror: b\\x1b[2K"
    (three_clips / "0.webp").rename(three_clips / f"{name}.webp")
    (three_clips / f"{name}2.webp").write_bytes(b"RIFF")
    flags = {"doctor": ["--fail_on", "never"], "prepare": ["--on_bad_sample", "skip"], "preview": []}
    place = tmp_path / ("out.png" if verb == "preview" else "out")
    export = ["--on_bad_sample", "skip", "--formats", "webp"]
    assert cli.main([verb, str(three_clips), "--output_path", str(place), *flags.get(verb, export)]) == (verb == "export")
    out, err = capsys.readouterr()
    assert f"{shown}2" in out
    assert "\x1b[2K" not in out + err
    assert not [line for line in (out + err).splitlines() if line.startswith("error: b")]
    if verb in ("prepare", "export"):
        assert f"skipped {shown}2: " in err


def test_log_on_a_terminal(capsys, monkeypatch):
    with_its_own_log(monkeypatch)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    cli._configure_console(logging.INFO)
    logging.getLogger("wan_alpha.test").warning("%s: left out", Path("a\nb\x1b[2K"))
    assert r"a\nb\x1b[2K: left out" in re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().err)
