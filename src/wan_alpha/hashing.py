"""Hashes of files, for records of what was loaded."""

import hashlib
from functools import lru_cache
from pathlib import Path


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read as a stream; an unchanged file is read once, however many records name it."""
    found = path.stat()
    return _digest(path.resolve(), found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=4096)
def _digest(path: Path, mtime_ns: int, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
