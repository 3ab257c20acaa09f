"""One job shared by several processes that meet in a folder: each does its share, and waits for the others without hanging.

RANK and WORLD_SIZE, which `accelerate launch`, torchrun and job arrays set, say which share is whose. Nothing is sent: finished
files are the messages, so the processes may run on several machines with one file system, or after one another.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from wan_alpha.errors import CacheError, UsageError, WanAlphaError

T = TypeVar("T")
BEAT_SECONDS, POLL_SECONDS, PATIENCE_SECONDS = 2.0, 0.2, 120.0


@dataclass(frozen=True, kw_only=True)
class Share:
    """Process `rank` of `count`; rank 0 is the main one."""

    rank: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.count:
            raise UsageError("RANK and WORLD_SIZE", got=f"{self.rank} of {self.count}", expected="0 <= RANK < WORLD_SIZE")

    def of(self, items: Sequence[T]) -> list[T]:
        """Every count-th item, from this process's rank on."""
        return list(items[self.rank :: self.count])

    def owner(self, position: int) -> int:
        """Rank of the process whose share holds items[position]."""
        return position % self.count


def this_share() -> Share:
    """What the environment says; one process when it says nothing."""
    return Share(rank=int(os.environ.get("RANK", "0")), count=int(os.environ.get("WORLD_SIZE", "1")))


@contextmanager
def heartbeat(folder: Path, share: Share) -> Iterator[None]:
    """While this process works, FOLDER/RANK.alive is touched; if it fails, the file says why. A single process writes nothing."""
    if share.count == 1:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    sign, stop = _sign(folder, share.rank), threading.Event()
    sign.write_text("")

    def beat() -> None:
        while not stop.wait(BEAT_SECONDS):
            sign.touch()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    except BaseException as error:
        stop.set()
        thread.join()
        sign.write_text(str(error) if isinstance(error, WanAlphaError) else f"{type(error).__name__}: {error}")
        raise
    stop.set()
    thread.join()
    sign.unlink(missing_ok=True)


def wait_for(pending: Callable[[], set[int]], *, folder: Path, patience_s: float = PATIENCE_SECONDS) -> None:
    """Return when `pending` names no rank any more. Raises CacheError when one of those it names has failed or shows no life.

    pending: ranks whose share is not finished, looked up in the finished files. A rank that has not touched its sign for
    `patience_s` seconds is given up; what it finished before is kept, so the job continues where it stopped when it is run again.
    """
    signs: dict[int, _Sign] = {}
    while ranks := pending():
        for rank in sorted(ranks):
            sign = signs.setdefault(rank, _Sign(folder, rank))
            sign.look()
            silent = time.monotonic() - sign.since > patience_s
            if silent or (sign.reason and sign.moved):
                got = sign.reason or f"no sign of life for {patience_s:.0f} s"
                raise CacheError(f"process {rank}", got=got, do="run the same command again: what is finished is kept")
        time.sleep(POLL_SECONDS)


class _Sign:
    """What one process shows: when it last moved (by this process's clock), and why it failed, if it did.

    A reason that was there from the start may be an earlier run's: it counts once the file moves, or stays still for too long.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self.path = _sign(folder, rank)
        self.touched, self.since = self._seen()[0], time.monotonic()
        self.moved, self.reason = False, ""

    def look(self) -> None:
        touched, self.reason = self._seen()
        if touched != self.touched:
            self.touched, self.since, self.moved = touched, time.monotonic(), True

    def _seen(self) -> tuple[int, str]:
        """When the sign was touched, and what it says; it may vanish at any moment, when its process ends."""
        try:
            return self.path.stat().st_mtime_ns, self.path.read_text()
        except FileNotFoundError:
            return 0, ""


def _sign(folder: Path, rank: int) -> Path:
    return folder / f"{rank}.alive"
