"""Every error that wan_alpha raises on purpose.

    WanAlphaError
    ├── UsageError       a setting, a name or a combination of flags that cannot work
    ├── MediaError       a picture, a video or a matte that cannot be used as asked
    │   └── DiskFull     no clip's fault: the place for files takes no more, of the next clip neither
    ├── DatasetError     a folder, a table or a row of a dataset
    ├── CheckpointError  a file of weights: missing, of another layout, with missing or extra keys
    └── CacheError       cached latents that belong to other weights or settings

A message is one line: what, got, expected, and the next command. The command line prints it and exits with code 2.
"""

import errno
import os
import re

MAX_SHOWN = 600
"""Characters of what was got or expected: a line stays one that can be read, whatever a file holds."""
CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Characters that end a line, move the cursor, or turn the direction of what follows."""


class WanAlphaError(Exception):
    """Base of all errors that name their own cure.

    >>> str(WanAlphaError("clip.mp4", got="15 frames", expected="4n+1 frames", do="use --num_frames 13 or 17"))
    'clip.mp4: got 15 frames, expected 4n+1 frames; use --num_frames 13 or 17'
    """

    def __init__(self, what: object, *, got: object = None, expected: object = None, do: str = "") -> None:
        details = [f"{word} {_shortened(str(value))}" for word, value in (("got", got), ("expected", expected)) if value is not None]
        message = one_line(str(what)) + (": " + ", ".join(details) if details else "")
        super().__init__(one_line(printable(" ".join((message + (f"; {do}" if do else "")).split()))))


class UsageError(WanAlphaError):
    pass


class MediaError(WanAlphaError):
    pass


class DiskFull(MediaError):
    pass


class DatasetError(WanAlphaError):
    pass


class CheckpointError(WanAlphaError):
    pass


class CacheError(WanAlphaError):
    pass


def is_disk_full(error: Exception) -> bool:
    """Whether no more can be written there. OpenEXR says so in words alone."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EROFS) or os.strerror(errno.ENOSPC) in str(error)


def printable(text: str) -> str:
    r"""Text that UTF-8 can hold: bytes of a file name that are not UTF-8 are shown as they are.

    >>> printable("L\udcf6we.webp")
    'L\\xf6we.webp'
    """
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half a character that is no byte of a name
        return text.encode("utf-8", "backslashreplace").decode("utf-8")


def one_line(text: str) -> str:
    r"""Text whose control characters are shown, not obeyed: a file's name may hold any.

    >>> one_line("a\nb\x1b[2K.webp")
    'a\\nb\\x1b[2K.webp'
    """
    return CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN // 2]} ... ({len(text)} characters)"


def did_you_mean(name: str, known: list[str]) -> str:
    """A hint for a misspelt name: the closest known one, then the whole list."""
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1)
    return (f"did you mean {close[0]!r}? " if close else "") + "known: " + ", ".join(known)
