"""Output that nobody reads (`wan-alpha ... | head -1`) or that a full disk refuses: no traceback, no half-written file, finished work."""

import io
import os
import pty
import subprocess
import sys
from types import SimpleNamespace

import pytest

from wan_alpha import cli

BROKEN_PIPE_EXIT = 141
OTHER_COMMANDS = [["inspect", "x"], ["recipes"], ["--help"], ["--version"], ["doctor", "--help"], ["prepare", "--dry_run"]]


def into_closed_pipe(*words: str, stderr_too: bool = False) -> tuple[int, str]:
    """Exit code and stderr of a command whose stdout nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run([sys.executable, "-m", "wan_alpha", *words], stdout=writer, stderr=writer if stderr_too else subprocess.PIPE)
    finally:
        os.close(writer)
    return done.returncode, (done.stderr or b"").decode()


def test_text_that_nobody_reads():
    assert into_closed_pipe("export", "--dry_run") == (BROKEN_PIPE_EXIT, "")


def test_files_are_whole_when_nobody_reads_the_report(tmp_path, three_clips):
    """stderr is closed as well: progress and log have no reader either."""
    code, _ = into_closed_pipe("export", str(three_clips), "--output_path", str(tmp_path / "out"), "--formats", "webp", stderr_too=True)
    assert code == BROKEN_PIPE_EXIT
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == sorted([*(f"{i}.webp" for i in range(3)), *(f"{i}_export.json" for i in range(3)), "export_sheet.png", "run.json"])


def test_a_terminal_that_closes_under_the_progress_bar(tmp_path, three_clips):
    """Writing to it is another error than to a pipe, EIO."""
    ours, terminal = pty.openpty()
    words = ["export", str(three_clips), "--output_path", str(tmp_path / "out"), "--formats", "webp"]
    running = subprocess.Popen([sys.executable, "-m", "wan_alpha", *words], stdout=terminal, stderr=terminal)
    os.close(terminal)
    assert os.read(ours, 1) == b"\x1b"  # rich has begun to draw
    os.close(ours)
    assert running.wait() == BROKEN_PIPE_EXIT
    assert (tmp_path / "out" / "run.json").is_file()


def test_an_error_that_nobody_reads():
    assert into_closed_pipe("docter", stderr_too=True) == (2, "")


@pytest.mark.parametrize(
    "words", [[verb, "--output_path", "x"] for verb in [*cli.STAGES, "preview", "convert"]] + OTHER_COMMANDS, ids=" ".join
)
def test_a_full_standard_output_is_one_line_and_no_finding(words, monkeypatch, capsys):
    """Exit code 1 would tell a CI of findings. The verbs themselves are stand-ins: each prints at its end."""
    stage = SimpleNamespace(**{verb.function.split(":")[1]: lambda config: ["a result"] for verb in cli.VERBS.values()})
    monkeypatch.setattr(cli, "import_module", lambda name: stage)
    monkeypatch.setattr(cli, "_configure_console", lambda level: None)
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        code = cli.main(words)
    err = capsys.readouterr().err
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("error: standard output: got No space left on device")


@pytest.mark.parametrize(
    ("closed", "code"), [(">/dev/full", 2), (">&-", 2), ("2>&-", 0), ("2>/dev/full", 0), (">/dev/full 2>/dev/full", 2)]
)
def test_streams_that_take_nothing(closed, code, tmp_path, three_clips):
    """In a process of its own: the interpreter's last flush must be quiet too. What is written is whole."""
    words = [sys.executable, "-m", "wan_alpha", "export", str(three_clips), "--output_path", str(tmp_path / "out"), "--formats", "webp"]
    done = subprocess.run(["bash", "-c", f'"$@" {closed}', "-", *words], capture_output=True, text=True, check=False)
    assert done.returncode == code
    told = [line for line in done.stderr.splitlines() if line.startswith("error: standard output: got ")]
    assert len(told) == (code == 2 and "2>" not in closed)
    assert "Traceback" not in done.stderr
    assert (tmp_path / "out" / "run.json").is_file()


def test_a_name_that_standard_output_cannot_spell(monkeypatch):
    monkeypatch.setattr(cli, "_dispatch", lambda tokens: (["Löwe.webp"], 0))
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(shown := io.BytesIO(), encoding="ascii"))
    assert cli.main([]) == 0
    assert shown.getvalue() == b"L\\xf6we.webp\n"
