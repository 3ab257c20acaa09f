"""Safe stops: signals that let the step under way finish, and the command that goes on from there."""

import dataclasses
import shlex
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from wan_alpha.config import TrainConfig
from wan_alpha.run_record import config_as_json

IMPATIENT_SECONDS = 1.0
"""A launcher passes a signal on to processes that have had it already: what follows sooner is the same request."""


@contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """SIGINT and SIGTERM set a flag, so that the step under way is finished and saved; a later second one stops at once."""
    requested: list[float] = []

    def remember(number: int, frame: object) -> None:
        requested.append(time.monotonic())
        if requested[-1] - requested[0] > IMPATIENT_SECONDS:
            raise KeyboardInterrupt

    try:
        previous = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # signals reach the main thread only
        previous = {}
    try:
        yield lambda: bool(requested)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def resume_command(config: TrainConfig, *, verb: str, processes: int = 1) -> str:
    """The command line that continues this run: every setting that is not the default, and --resume latest."""
    plain, default = config_as_json(dataclasses.replace(config, resume="latest")), config_as_json(type(config)())
    program = "wan-alpha" if processes == 1 else f"torchrun --nproc_per_node {processes} -m wan_alpha"
    words = [word for name, value in plain.items() if value != default[name] for word in _flag(name, value)]
    return f"{program} {verb} {shlex.join(words)}"


def _flag(name: str, value: object) -> list[str]:
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no_{name}"]
    return [f"--{name}", *(str(item) for item in (value if isinstance(value, list) else [value]))]
