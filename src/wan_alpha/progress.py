"""Progress of long work, shown by whoever installs a display: the command line does, a library user need not.

with progress("train-vae", total=500, done=0) as advance:
    advance(loss=0.12)
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Advance = Callable[..., None]
Display = Callable[[str, int, int], AbstractContextManager[Advance]]


@contextmanager
def _silent(label: str, total: int, done: int) -> Iterator[Advance]:
    yield lambda **values: None


_display: list[Display] = [_silent]


def install_display(display: Display) -> None:
    """Replace the display: a context manager (label, total, done) that yields `advance(**values)`, called once per finished item."""
    _display[0] = display


def progress(label: str, *, total: int, done: int = 0) -> AbstractContextManager[Advance]:
    return _display[0](label, total, done)
