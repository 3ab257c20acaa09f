"""Captions of source clips: written beside them, or asked of the user's own captioner."""

import logging
import shlex
from dataclasses import dataclass
from pathlib import Path

from wan_alpha.data.commands import run_command
from wan_alpha.data.user_json import parse_json
from wan_alpha.errors import DatasetError, UsageError
from wan_alpha.media.find import FoundClip
from wan_alpha.media.pairs import caption_beside

log = logging.getLogger(__name__)

CAPTION_KEYS = ("caption", "prompt")
MAX_CHARACTERS = 10_000
MAX_CAPTION_BYTES = 2**20
"""Of a file with a caption, for JSON may say more of a clip, and of what a captioner prints."""
PLACEHOLDER = "{clip}"


def read_caption(found: FoundClip, listed: str | None) -> str | None:
    """The .txt beside the clip, else "caption" or "prompt" of the .json there, else LISTED; None without any.

    DatasetError names the file that is not UTF-8 or not JSON.
    """
    path = caption_file(found)
    if path is None:
        return listed
    if path.is_file() and path.stat().st_size > MAX_CAPTION_BYTES:
        got = f"{path.stat().st_size} bytes"
        raise DatasetError(path, got=got, expected=f"a caption, in at most {MAX_CAPTION_BYTES} bytes", do="shorten or remove it")
    if path == found.caption:
        return read_text(path)
    values = parse_json(read_text(path), where=path, expected='{"caption": "..."}', do="repair or remove the file")
    return next((values[key] for key in CAPTION_KEYS if isinstance(values, dict) and isinstance(values.get(key), str)), listed)


def caption_file(found: FoundClip) -> Path | None:
    """The clip's .txt, else XXX.json beside it, or beside both folders of its pair: by the clip's name, and by its colour file's own."""
    return found.caption or caption_beside(found.files[0], found.name, ".json", beyond=found.alpha)


@dataclass(frozen=True, kw_only=True)
class Captioner:
    """A command of the user's that prints a clip's caption. It runs without a shell; {clip} in it becomes the clip's path."""

    command: str
    timeout_s: float
    retries: int

    def __post_init__(self) -> None:
        try:
            words = shlex.split(self.command)
        except ValueError as error:
            raise UsageError("--caption_command", got=f"{self.command} ({error})", expected="a command line") from error
        if not words:
            raise UsageError("--caption_command", got="nothing", expected=f"a command, such as 'my_captioner {PLACEHOLDER}'")

    def caption(self, clip: Path) -> str:
        """What the command prints for CLIP. DatasetError names the clip when every try fails."""
        words = [word.replace(PLACEHOLDER, str(clip)) for word in shlex.split(self.command)]
        if PLACEHOLDER not in self.command:
            words.append(str(clip))
        reason = ""
        for attempt in range(1 + self.retries):
            reason, text = self._run(words)
            if not reason:
                return text
            log.warning("%s: captioner, try %d: %s", clip, attempt + 1, reason)
        raise DatasetError(
            clip, got=f"no caption ({reason})", expected=f"text from {words[0]}", do="run the command by hand on this clip, or write a .txt"
        )

    def _run(self, words: list[str]) -> tuple[str, str]:
        """(why it failed, its text): one of them is empty."""
        try:
            reason, out = run_command(words, timeout_s=self.timeout_s, max_bytes=MAX_CAPTION_BYTES)
        except OSError as error:
            raise UsageError("--caption_command", got=f"{words[0]}: {error.strerror}", expected="a command that runs") from error
        if reason:
            return reason, ""
        try:
            text = out.decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            return f"text that is not UTF-8: {error}", ""
        return ("", text) if 0 < len(text) <= MAX_CHARACTERS else (f"{len(text)} characters", "")


def read_text(path: Path) -> str:
    """A text that people write, such as a caption. DatasetError when it cannot be read or is not UTF-8."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(path, got=type(error).__name__, expected="text in UTF-8", do="save it as UTF-8 text") from error
    if "\0" in text:  # of UTF-16, which are UTF-8 too
        raise DatasetError(path, got="NUL characters", expected="text in UTF-8", do="save it as UTF-8 text")
    return text
