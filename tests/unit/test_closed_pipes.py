"""A reader that leaves early (`wan-alpha ... | head -1`): no traceback, no half-written file, and work that is under way is finished."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.write import write_webp

BROKEN_PIPE_EXIT = 141


def into_closed_pipe(*words: str, stderr_too: bool = False) -> tuple[int, str]:
    """Exit code and stderr of a command whose stdout nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run([sys.executable, "-m", "wan_alpha", *words], stdout=writer, stderr=writer if stderr_too else subprocess.PIPE)
    finally:
        os.close(writer)
    return done.returncode, (done.stderr or b"").decode()


@pytest.fixture
def source(tmp_path) -> Path:
    for index in range(3):
        levels = np.random.default_rng(index).integers(0, 256, (2, 16, 16, 4), dtype=np.uint8)
        write_webp(RgbaClip(rgb=levels[..., :3], alpha=levels[..., 3], fps=16.0), tmp_path / "in" / f"{index}.webp")
    return tmp_path / "in"


def test_text_that_nobody_reads():
    assert into_closed_pipe("export", "--dry_run") == (BROKEN_PIPE_EXIT, "")


def test_files_are_whole_when_nobody_reads_the_report(tmp_path, source):
    """stderr is closed as well: progress and log have no reader either."""
    code, _ = into_closed_pipe("export", str(source), "--output_path", str(tmp_path / "out"), "--formats", "webp", stderr_too=True)
    assert code == BROKEN_PIPE_EXIT
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == sorted([*(f"{i}.webp" for i in range(3)), *(f"{i}_export.json" for i in range(3)), "export_sheet.png", "run.json"])


def test_a_terminal_that_closes_under_the_progress_bar(tmp_path, source):
    """Writing to it is another error than to a pipe, EIO."""
    ours, terminal = pty.openpty()
    words = ["export", str(source), "--output_path", str(tmp_path / "out"), "--formats", "webp"]
    running = subprocess.Popen([sys.executable, "-m", "wan_alpha", *words], stdout=terminal, stderr=terminal)
    os.close(terminal)
    assert os.read(ours, 1) == b"\x1b"  # rich has begun to draw
    os.close(ours)
    assert running.wait() == BROKEN_PIPE_EXIT
    assert (tmp_path / "out" / "run.json").is_file()


def test_an_error_that_nobody_reads():
    assert into_closed_pipe("docter", stderr_too=True) == (2, "")
