"""Progress bars for the command line, on stderr: a bar with the loss and the time left, or sparse lines where it is no terminal."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from wan_alpha.progress import Advance, install_display

LINE_EVERY_SECONDS = 15.0


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
    from rich.console import Console

    console = Console(stderr=True, highlight=False, width=160)
    started = last = time.monotonic()
    count = done

    def advance(**values: float) -> None:
        nonlocal count, last
        count, now = count + 1, time.monotonic()
        if now - last >= LINE_EVERY_SECONDS or count == total:
            last = now
            left = (now - started) / max(1, count - done) * (total - count)
            console.print(f"{label} {count}/{total}, {left / 60:.1f} min left  {_text(values)}")

    yield advance


def _text(values: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in values.items())
