"""One run at a time in one place. The lock ends with its process, however that ends: a killed run blocks nobody."""

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wan_alpha.errors import UsageError

try:
    import fcntl
except ImportError:  # a system without flock
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)


@contextmanager
def alone(lock: Path, *, place: Path) -> Iterator[None]:
    """While this run works in PLACE no other does: the file LOCK, in an existing folder, is held and then removed.

    UsageError names the run that works there, or a folder that cannot be written.
    Where files cannot be locked, a warning says that nothing keeps others out.
    """
    with _held(lock, place=place, together=False):
        yield


@contextmanager
def one_of_several(lock: Path, *, rank: int, place: Path) -> Iterator[None]:
    """As alone, for one process of a job that several do together: they share LOCK, and each has its rank for itself."""
    own = lock.with_name(f"{lock.name}.{rank}")
    with _held(lock, place=place, together=True), _held(own, place=place, together=False):
        yield


@contextmanager
def _held(lock: Path, *, place: Path, together: bool) -> Iterator[None]:
    if fcntl is None:
        log.warning("%s: this system locks no files; see that no other run works there", place)
        yield
        return
    file = _taken(lock, place=place, together=together)
    try:
        yield
    finally:
        if _is_last(file):
            lock.unlink(missing_ok=True)  # whoever opened it meanwhile sees that it is gone
        os.close(file)


def _taken(lock: Path, *, place: Path, together: bool) -> int:
    """A descriptor of the locked file that now stands at LOCK."""
    while True:
        try:
            file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            got, do = error.strerror, "choose another --output_path"
            raise UsageError(lock.parent, got=got, expected="a folder that can be written", do=do) from error
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if together else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(file, 200).decode(errors="replace").strip() or "it has just begun"
            os.close(file)
            raise UsageError(
                "--output_path",
                got=f"{place}, where another run works ({holder})",
                expected="one run at a time",
                do=f"wait for it, or choose another folder; if it runs no more, remove {lock} and run this again",
            ) from None
        except OSError as error:
            log.warning("%s: cannot be locked (%s); see that no other run works in %s", lock, error.strerror, place)
        if _stands_at(lock, file):
            os.truncate(file, 0)
            os.write(file, f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}".encode())
            return file
        os.close(file)  # its holder ended, and removed it, between opening and locking


def _is_last(file: int) -> bool:
    """Whether nobody else of the same job holds the lock too. It is lost with the question."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return not isinstance(error, BlockingIOError)
    return True


def _stands_at(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False
