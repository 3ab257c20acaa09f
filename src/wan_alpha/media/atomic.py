"""Files appear whole or not at all: they are written beside their place and renamed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wan_alpha.errors import MediaError


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Yield PATH.partial to write a file or a folder to. On success it takes PATH's place; on any error, Ctrl-C included, it is removed.

    Parent folders are made, and those made here are removed again on an error.
    """
    made = make_parents(path)
    partial = path.with_name(path.name + ".partial")
    remove(partial)
    try:
        yield partial
        if path.is_dir():
            remove(path)
        os.replace(partial, path)
    except BaseException:
        remove(partial)
        for folder in made:
            folder.rmdir()
        raise


@contextmanager
def staging(path: Path) -> Iterator[Path]:
    """Yield an empty folder PATH.partial for work whose results the caller moves to their places; it is removed in any case."""
    made = make_parents(path)
    folder = path.with_name(path.name + ".partial")
    try:
        remove(folder)
        folder.mkdir()
        yield folder
    except BaseException:
        remove(folder)
        for parent in made:
            parent.rmdir()
        raise
    remove(folder)


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
