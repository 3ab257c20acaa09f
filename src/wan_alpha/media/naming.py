"""Names of clips that differ, on every system: clips of one name are called after their folders too, then after their format."""

import logging
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from wan_alpha.errors import DatasetError, printable
from wan_alpha.media.pairs import COLOUR_FOLDERS, MATTE_FOLDERS, FoundClip

log = logging.getLogger(__name__)

MAX_NAME = 255 - len("_00000_preview.mp4.partial")
"""Bytes of a clip's name, to which `prepare` and `export` add such endings. File systems hold 255."""


def check_name(name: str, path: object) -> None:
    """DatasetError where the files of a copy could not be called after the clip that lies at PATH."""
    size = len(name.encode())
    if size > MAX_NAME:
        raise DatasetError(path, got=f"a name of {size} bytes", expected=f"at most {MAX_NAME}, for endings to come", do="rename it")


def with_different_names(clips: Sequence[FoundClip], root: Path) -> list[FoundClip]:
    """The clips, in their order, with names that differ in more than case, whatever that order is.

    walk/0001.mov and run/0001.mov below ROOT become walk_0001 and run_0001; where that does not tell them apart the extension joins
    (walk_0001_mov), then a number. A clip whose name is its own keeps it; one that is listed twice is told apart by number alone.
    """
    names = [clip.name for clip in clips]
    keys = [(clip.name, *map(str, clip.files)) for clip in clips]
    firsts = {key: index for index, key in reversed([*enumerate(keys)])}
    once = sorted(firsts.values(), key=lambda index: keys[index][1:])
    for level in (1, 2):
        for index in _clashing(names, once):
            names[index] = _forms(clips[index], root)[level]
    clashing, used = _clashing(names, once), {names[index].casefold() for index in once}
    again = [index for index, key in enumerate(keys) if firsts[key] != index]
    for index in [*clashing, *again]:
        names[index] = _numbered(names[firsts[keys[index]]], used)
        used.add(names[index].casefold())
    told = sorted(name for name, clip in zip(names, clips, strict=True) if name != clip.name)
    if told:
        log.info("%s: %d clips of equal names are told apart by folder or format: %s", root, len(told), ", ".join(told[:4]))
    return [replace(clip, name=name) for clip, name in zip(clips, names, strict=True)]


def _clashing(names: Sequence[str], indices: Sequence[int]) -> list[int]:
    places: dict[str, list[int]] = defaultdict(list)
    for index in indices:
        places[names[index].casefold()].append(index)
    return [index for group in places.values() if len(group) > 1 for index in group]


def _numbered(name: str, used: set[str]) -> str:
    number = 2
    while f"{name}_{number}".casefold() in used:
        number += 1
    return f"{name}_{number}"


def _forms(clip: FoundClip, root: Path) -> tuple[str, str, str]:
    """Name, name with folders, name with folders and format."""
    path = clip.files[0]
    parts = [part for part in os.path.relpath(path.parent, root).split(os.sep) if part not in (os.curdir, os.pardir)]
    if clip.rgba is None:
        parts = [part for part in parts if part.lower() not in (*COLOUR_FOLDERS, *MATTE_FOLDERS)]
        parts = parts[:-1] if parts[-1:] == [clip.name] else parts  # a pair that is called after its folder
    full = printable("_".join([*parts, clip.name]))
    return clip.name, full, full + ("" if path.is_dir() else path.suffix.replace(".", "_"))
