"""A command of the user's: what it prints, within a time and a size."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from typing import IO

CHUNK_BYTES = 2**16
MAX_COMPLAINT = 200
"""Characters of its errors that are passed on: the last ones."""


def run_command(words: Sequence[str], *, timeout_s: float, max_bytes: int) -> tuple[str, bytes]:
    """(why the command failed, what it printed): one of them is empty, or both where it printed nothing.

    It runs without a shell and without input. One that takes more than TIMEOUT_S seconds or prints more than MAX_BYTES bytes is ended with
    all that it started; no more than that is kept of what it prints. OSError when it does not start.
    """
    group = os.name == "posix"
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=group)
    assert process.stdout is not None
    assert process.stderr is not None
    until = time.monotonic() + timeout_s
    out = _Reader(process.stdout, keep=lambda kept: kept[: max_bytes + 1], stop_at=max_bytes)
    err = _Reader(process.stderr, keep=lambda kept: kept[-4 * MAX_COMPLAINT :], stop_at=None)
    try:
        for reader in (out, err):
            reader.start()
        out.join(timeout_s)
        if out.too_much:
            return f"more than {max_bytes} bytes", b""
        err.join(max(0.0, until - time.monotonic()))
        if out.is_alive() or err.is_alive():
            return f"no answer within {timeout_s:g} s", b""
        process.wait(max(0.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        return f"no answer within {timeout_s:g} s", b""
    finally:
        _end(process, readers=(out, err))
    if process.returncode:
        return f"exit code {process.returncode}: {err.kept.decode(errors='replace').strip()[-MAX_COMPLAINT:]}", b""
    return "", out.kept


class _Reader(threading.Thread):
    """Reads a pipe to its end, or until STOP_AT bytes are exceeded; KEEP says which of the bytes so far are kept."""

    def __init__(self, pipe: IO[bytes], *, keep: Callable[[bytes], bytes], stop_at: int | None) -> None:
        super().__init__(daemon=True)
        self.pipe, self.keep, self.stop_at = pipe, keep, stop_at
        self.kept = b""

    @property
    def too_much(self) -> bool:
        return self.stop_at is not None and len(self.kept) > self.stop_at

    def run(self) -> None:
        while not self.too_much and (chunk := os.read(self.pipe.fileno(), CHUNK_BYTES)):
            self.kept = self.keep(self.kept + chunk)


def _end(process: subprocess.Popen[bytes], *, readers: Sequence[_Reader]) -> None:
    """End what still runs: the process, and where there are groups all of its group that holds a pipe open; collect them."""
    running = process.poll() is None or any(reader.is_alive() for reader in readers)
    if running and os.name == "posix":
        with contextlib.suppress(ProcessLookupError):  # it ended just now
            os.killpg(process.pid, signal.SIGKILL)
    elif running:
        process.kill()
    process.wait()
    for reader in readers:
        reader.join(1.0)  # longer only where something left the group and holds the pipe; that thread ends with this program
        if not reader.is_alive():
            reader.pipe.close()
