"""A configuration as the command that gives it: what an error or an index names as the next thing to type."""

import dataclasses
import shlex

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
