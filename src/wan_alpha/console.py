"""What the command line draws: progress on stderr (a bar, or sparse lines where it is no terminal), pictures on terminals that can."""

import base64
import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from wan_alpha.progress import Advance, install_display

LINE_EVERY_SECONDS = 15.0
KITTY_CHUNK = 4096


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
    with Progress(*columns, console=Console(stderr=True)) as bars:
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
    try:
        print(text, file=sys.stderr, flush=True)
    except BrokenPipeError:
        mute(sys.stderr)


def mute(stream: TextIO) -> None:
    """Send what is still to be written nowhere: the reader has left, and the interpreter's last flush would complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def show_picture(path: Path) -> None:
    """Draw a PNG on the terminal, where it speaks kitty's or iTerm's graphics protocol; nothing elsewhere."""
    sequence = picture_sequence(path.read_bytes(), os.environ) if sys.stdout.isatty() else ""
    if sequence:
        with contextlib.suppress(BrokenPipeError):  # the lines that follow report it
            print(sequence, flush=True)


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
