"""Files appear whole or not at all: they are written beside their place and renamed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wan_alpha.errors import DiskFull, MediaError, is_disk_full
from wan_alpha.media.alone import alone, one_of_several


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Yield PATH.partial to write a file or a folder to. On success it takes PATH's place; on any error, Ctrl-C included, it is removed.

    Parent folders are made, and those made here are removed again on an error. What is of another kind than what was written stays.
    DiskFull names the file that did not fit, where the system does not.
    """
    check_place(path)
    made = make_parents(path)
    partial = path.with_name(path.name + ".partial")
    remove(partial)
    try:
        yield partial
        take_place(partial, path)
    except BaseException as error:
        remove(partial)
        remove_empty(made)
        if isinstance(error, OSError) and is_disk_full(error):
            raise DiskFull(path, got=error.strerror, expected="a file that can be written", do="check the free space") from error
        raise


def check_place(path: Path, *, by: Path | None = None) -> None:
    """MediaError for a pipe or a device at PATH; where BY is there to replace it, for a folder in a file's place or a file in a folder's.

    A file in the place of a pipe would leave its reader waiting for ever.
    """
    is_file, is_folder = path.is_file(), path.is_dir()
    if not path.exists() or (is_folder or is_file if by is None else is_folder if by.is_dir() else is_file):
        return
    got = "a folder" if is_folder else "a file" if is_file else "a pipe or a device"
    raise MediaError(path, got=got, expected="nothing, or what may be replaced", do="move it, or choose another --output_path")


def take_place(partial: Path, path: Path) -> None:
    """Move PARTIAL to PATH, whose file or folder it replaces (check_place)."""
    check_place(path, by=partial)
    if path.is_dir():
        remove(path)
    os.replace(partial, path)


@contextmanager
def staging(path: Path) -> Iterator[Path]:
    """Yield an empty folder PATH.partial for work whose results the caller moves to their places; it is removed in any case.

    UsageError when another run works on PATH.
    """
    folder = path.with_name(path.name + ".partial")
    with alone_beside(path):
        try:
            remove(folder)
            folder.mkdir()
            yield folder
        finally:
            remove(folder)


@contextmanager
def alone_beside(path: Path) -> Iterator[None]:
    """Make the missing parents of PATH and let no other run make PATH; after an error those parents that are empty are removed again."""
    made = make_parents(path)
    try:
        with alone(path.with_name(f".{path.name}.lock"), place=path):
            yield
    except BaseException:
        remove_empty(made)
        raise


@contextmanager
def alone_in(folder: Path, *, rank: int = 0, count: int = 1) -> Iterator[None]:
    """Make FOLDER and let no other run work in it; COUNT processes of one job may. After an error it goes if it is empty."""
    lock = folder / ".lock"
    made = make_parents(lock)
    try:
        with alone(lock, place=folder) if count == 1 else one_of_several(lock, rank=rank, place=folder):
            yield
    except BaseException:
        remove_empty(made)
        raise


def remove_empty(folders: list[Path]) -> None:
    """Remove folders that were made, innermost first, up to the first one that holds something."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def make_parents(path: Path) -> list[Path]:
    """Make the missing parent folders of PATH; returns them, innermost first."""
    missing = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MediaError(
            path.parent, got=error.strerror, expected="a folder that can be written", do="choose another --output_path"
        ) from error
    return missing


def remove(path: Path) -> None:
    """Remove a file or a folder; a missing one is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
