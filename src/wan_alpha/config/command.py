"""A configuration as the command that gives it: what an error or an index names as the next thing to type."""

import dataclasses
import shlex
from collections.abc import Mapping

from wan_alpha.config.common import RunConfig


def command(verb: str, config: RunConfig) -> str:
    """`wan-alpha VERB` with a flag for each field that is not its default.

    >>> from pathlib import Path
    >>> from wan_alpha.config import CacheConfig
    >>> command("cache", CacheConfig(draws=2, dataset_base_path=Path("my clips")))
    "wan-alpha cache --dataset_base_path 'my clips' --draws 2"
    """
    words = ["wan-alpha", verb]
    for field, value in ((field.name, getattr(config, field.name)) for field in dataclasses.fields(config)):
        if value == getattr(type(config)(), field):
            continue
        if isinstance(value, bool):
            words.append(f"--{'' if value else 'no_'}{field}")
        else:
            words += [f"--{field}", *(str(item) for item in (value if isinstance(value, tuple) else (value,)))]
    return shlex.join(words)


def with_flags(text: str, changes: Mapping[str, str | None]) -> str:
    """A command with other values of some flags; None leaves the flag out, so that its default counts.

    >>> with_flags("wan-alpha cache --height 32 --model 'my model' --draws 2", {"height": "64", "model": None, "width": "48"})
    'wan-alpha cache --draws 2 --height 64 --width 48'
    """
    head, flags = _flags(text)
    kept = [[name, *values] for name, values in flags.items() if name not in {f"--{name}" for name in changes}]
    added = [[f"--{name}", value] for name, value in changes.items() if value is not None]
    return shlex.join([*head, *(word for words in (*kept, *added) for word in words)])


def flag_value(text: str, name: str) -> str | None:
    """What a command says after a flag; None where it leaves the flag out.

    >>> flag_value("wan-alpha cache --model 'my model' --draws 2", "model")
    'my model'
    """
    values = _flags(text)[1].get(f"--{name}")
    return values[0] if values else None


def _flags(text: str) -> tuple[list[str], dict[str, list[str]]]:
    """(the words before the first flag, flag -> its values)."""
    head: list[str] = []
    flags: dict[str, list[str]] = {}
    words = head
    for word in shlex.split(text):
        if word.startswith("--"):
            words = flags.setdefault(word, [])
        else:
            words.append(word)
    return head, flags
