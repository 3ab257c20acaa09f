"""What lies in a source folder, before anyone asks which clips it makes: what may be one, what cannot be opened, links that go round."""

import logging
import os
from pathlib import Path

from wan_alpha.errors import printable
from wan_alpha.media.animation import is_animation
from wan_alpha.media.left_out import is_own_picture
from wan_alpha.media.read import MEDIA_SUFFIXES
from wan_alpha.media.stills import is_jpeg, is_sequence, natural_key, still_files

log = logging.getLogger(__name__)


def home_of(path: Path) -> Path:
    """The folder that holds PATH, also where PATH is "." or ends in ".."."""
    return path.parent if path.name not in ("", "..") else Path(os.path.abspath(path)).parent


def name_of(path: Path) -> str:
    """What a clip is called after one of its files or folders."""
    return (path.name or Path(os.path.abspath(path)).name) if path.is_dir() else path.stem


def entries(folder: Path, *, exclude: Path | None = None) -> list[Path]:
    """What lies in FOLDER in natural order, without what is hidden, unfinished, or EXCLUDE."""
    paths = sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=natural_key)
    return [path for path in paths if not (path.is_dir() and (path.name.endswith(".partial") or path.resolve() == exclude))]


def is_media(path: Path) -> bool:
    """Whether a file is named like a clip, and not like a preview of one."""
    return path.suffix.lower() in MEDIA_SUFFIXES and not is_own_picture(path)


def media_files(folder: Path, *, exclude: Path | None = None) -> list[Path]:
    """Every file in FOLDER and below that is named like a clip; links to folders are not followed, EXCLUDE is left out."""
    found = []
    for path in entries(folder, exclude=exclude and exclude.resolve()):
        if path.is_dir() and not path.is_symlink() and not fault_of(path):
            found += media_files(path, exclude=exclude)
        elif path.is_file() and is_media(path):
            found.append(path)
    return found


def is_frame_folder(folder: Path) -> bool:
    """Nothing but the numbered frames of one clip (and text)."""
    files = [path for path in folder.iterdir() if not path.name.startswith(".")]
    stills = still_files(folder)
    others = [path for path in files if path.is_dir() or (path.suffix.lower() in MEDIA_SUFFIXES and not is_jpeg(path))]
    return set(others) <= set(stills) and is_sequence(stills) and not any(is_animation(path) for path in stills)


def leads_back(folder: Path, above: tuple[Path, ...]) -> bool:
    """Whether a folder is a link to one that is being scanned, or to one above that: followed, it would lead here again."""
    target = folder.resolve()
    back = folder.is_symlink() and (target in above or above[-1].is_relative_to(target))
    if back:
        log.warning("%s: a link back to %s is not followed", folder, target)
    return back


def fault_of(path: Path) -> str | None:
    """Why a file or folder cannot be opened, or named in a report."""
    if printable(str(path)) != str(path):
        return "a name that is not UTF-8"
    if not path.is_file() and not path.is_dir():
        return "neither a file nor a folder" if path.exists() else "a link to nothing" if path.is_symlink() else "no such file or folder"
    if not os.access(path, os.R_OK | os.X_OK if path.is_dir() else os.R_OK):
        return "no permission to read it"
    return None
