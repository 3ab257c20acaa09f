"""What the command line draws: progress on stderr (a bar, or sparse lines where it is no terminal), pictures on terminals that can."""

import base64
import errno
import io
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wan_alpha.errors import one_line
from wan_alpha.progress import Advance, install_display

LINE_EVERY_SECONDS = 15.0
KITTY_CHUNK = 4096
READER_LEFT = (errno.EPIPE, errno.EIO)
"""What writing to a pipe, or to a terminal, says once nobody reads it any more."""


def install_progress() -> None:
    """Show progress of long work from now on."""
    install_display(_bar if sys.stderr.isatty() else _lines)


@contextmanager
def _bar(label: str, total: int, done: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[values]}"),
    )
    with Progress(*columns, console=Console(file=lasting_stderr())) as bars:
        task = bars.add_task(label, total=total, completed=done, values="")
        yield lambda **values: bars.update(task, advance=1, values=_text(values))


@contextmanager
def _lines(label: str, total: int, done: int) -> Iterator[Advance]:
    started = last = time.monotonic()
    count = done

    def advance(**values: float) -> None:
        nonlocal count, last
        count, now = count + 1, time.monotonic()
        if now - last >= LINE_EVERY_SECONDS or count == total:
            last = now
            left = (now - started) / max(1, count - done) * (total - count)
            say(f"{label} {count}/{total}, {left / 60:.1f} min left  {_text(values)}")

    yield advance


def _text(values: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in values.items())


def say(text: str) -> None:
    """A line on stderr. Work does not end because nobody reads it any more."""
    _write(lasting_stderr(), f"{text}\n")


class LineFormatter(logging.Formatter):
    """One line for each message, whatever the names in it hold; tracebacks below it keep theirs."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return one_line(super().formatMessage(record))


def open_stderr() -> None:
    """Where a process starts without stderr (`2>&-`), what is said goes nowhere."""
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - for the rest of the process


def lasting_stderr() -> Any:
    """stderr for progress and log: work goes on when it takes nothing any more."""
    return _Lasting(sys.stderr)


class _Lasting(io.TextIOBase):
    """A stream whose reader may leave, as a closed terminal does, or whose disk may be full: what is written from then on goes nowhere."""

    def __init__(self, stream: Any) -> None:  # sys.stderr, or what stands in for it
        self.stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override] # rich asks what the terminal can show
        return self.stream.encoding

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()

    def write(self, text: str) -> int:
        self._try(lambda: self.stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self.stream.flush)

    def _try(self, write: Callable[[], object]) -> None:
        try:
            write()
        except OSError:
            mute(self.stream)


def _write(stream: Any, text: str) -> None:
    stream.write(text)
    stream.flush()


def reader_left(write: Callable[[], object]) -> bool:
    """Whether `write` found nobody to read. Other errors (a full disk) go on."""
    try:
        write()
    except OSError as error:
        if error.errno not in READER_LEFT:
            raise
        return True
    return False


def mute(stream: Any) -> None:
    """Send what is still to be written nowhere: the reader has left, and the interpreter's last flush would complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def show_picture(path: Path) -> None:
    """Draw a PNG on the terminal, where it speaks kitty's or iTerm's graphics protocol; nothing elsewhere."""
    sequence = picture_sequence(path.read_bytes(), os.environ) if sys.stdout is not None and sys.stdout.isatty() else ""
    if sequence:
        reader_left(lambda: _write(sys.stdout, f"{sequence}\n"))  # the lines that follow report it


def picture_sequence(png: bytes, environment: Mapping[str, str]) -> str:
    """The escape sequence that draws a PNG on the terminal of an environment; empty for one that draws none.

    https://sw.kovidgoyal.net/kitty/graphics-protocol and https://iterm2.com/documentation-images.html
    """
    data = base64.b64encode(png).decode()
    program = environment.get("TERM_PROGRAM", "")
    if "kitty" in environment.get("TERM", "") or "KITTY_WINDOW_ID" in environment or program == "ghostty":
        chunks = [data[i : i + KITTY_CHUNK] for i in range(0, len(data), KITTY_CHUNK)]
        heads = ["a=T,f=100," if i == 0 else "" for i in range(len(chunks))]
        lasts = [int(i + 1 < len(chunks)) for i in range(len(chunks))]
        return "".join(f"\x1b_G{head}m={more};{chunk}\x1b\\" for head, more, chunk in zip(heads, lasts, chunks, strict=True))
    if program in ("iTerm.app", "WezTerm"):
        return f"\x1b]1337;File=inline=1;size={len(png)}:{data}\x07"
    return ""
