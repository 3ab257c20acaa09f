"""Several processes that share one job through a folder."""

import threading
import time
from pathlib import Path

import pytest

from wan_alpha.data import shares
from wan_alpha.data.shares import Share, heartbeat, this_share, wait_for
from wan_alpha.errors import CacheError, UsageError


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(shares, "POLL_SECONDS", 0.01)


def test_shares_cover_everything_once(monkeypatch: pytest.MonkeyPatch) -> None:
    items = list(range(11))
    parts = [Share(rank=rank, count=3).of(items) for rank in range(3)]
    assert sorted(item for part in parts for item in part) == items
    assert all(Share(rank=0, count=3).owner(items.index(item)) == rank for rank, part in enumerate(parts) for item in part)
    assert this_share() == Share()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert this_share() == Share(rank=1, count=4)
    monkeypatch.setenv("RANK", "4")
    with pytest.raises(UsageError, match="RANK"):
        this_share()


def test_waiting_ends_when_the_others_are_done(tmp_path: Path) -> None:
    done = threading.Event()
    threading.Timer(0.1, done.set).start()
    wait_for(lambda: set() if done.is_set() else {1}, folder=tmp_path, patience_s=10.0)
    assert done.is_set()


def test_a_live_process_is_waited_for_and_a_silent_one_is_not(tmp_path: Path) -> None:
    stop = threading.Event()

    def work() -> None:
        with heartbeat(tmp_path, Share(rank=1, count=2)):
            stop.wait(0.5)

    worker = threading.Thread(target=work)
    worker.start()
    wait_for(lambda: {1} if worker.is_alive() else set(), folder=tmp_path, patience_s=0.3)  # outlives the patience
    assert not list(tmp_path.iterdir())
    with pytest.raises(CacheError, match=r"process 1: got no sign of life.*run the same command again"):
        wait_for(lambda: {1}, folder=tmp_path, patience_s=0.05)


@pytest.mark.parametrize("moment", ["stat", "read_text"])
def test_a_sign_that_vanishes_while_it_is_looked_at_is_no_error(tmp_path: Path, monkeypatch, moment: str) -> None:
    """Its process has just ended."""
    sign, real = tmp_path / "1.alive", getattr(Path, moment)

    def too_late(path: Path, *arguments: object, **named: object) -> object:
        if path == sign and path in tmp_path.iterdir():
            path.unlink()
        return real(path, *arguments, **named)

    left = [{1}, {1}]
    sign.write_text("")
    monkeypatch.setattr(Path, "is_file", lambda path: True)
    monkeypatch.setattr(Path, moment, too_late)
    wait_for(lambda: left.pop() if left else set(), folder=tmp_path, patience_s=10.0)
    assert not left


def test_a_failure_is_told_at_once(tmp_path: Path) -> None:
    def fail() -> None:
        with pytest.raises(OSError), heartbeat(tmp_path, Share(rank=2, count=3)):  # noqa: PT012
            time.sleep(0.1)
            raise OSError("disk full")

    worker = threading.Thread(target=fail)
    worker.start()
    with pytest.raises(CacheError, match="process 2: got OSError: disk full"):
        wait_for(lambda: {2}, folder=tmp_path, patience_s=10.0)
    worker.join()


def test_one_process_leaves_no_sign(tmp_path: Path) -> None:
    with heartbeat(tmp_path / "none", Share()):
        assert not (tmp_path / "none").exists()
