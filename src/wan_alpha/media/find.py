"""Find the clips in a folder: RGBA files, folders of frames, and colour + matte pairs in the layouts people use (pairs.py).

A picture is a clip of one frame, in pairs too. A folder of nothing but pictures that are numbered alike (stills.is_sequence) is one clip.
A caption XXX.txt lies beside its clip, or beside both folders of its pair, or is caption.txt among its frames.
"""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from wan_alpha.errors import DatasetError, printable
from wan_alpha.media.animation import is_animation
from wan_alpha.media.left_out import tell_frames_as_stills, tell_left_out, tell_other_formats, tell_pictures_without_alpha
from wan_alpha.media.listing import entries, fault_of, home_of, is_frame_folder, is_media, leads_back, name_of
from wan_alpha.media.naming import with_different_names
from wan_alpha.media.pairs import (
    COLOUR_FOLDERS,
    MATTE_FOLDERS,
    FoundClip,
    clip_alone,
    folder_pairs,
    is_half,
    one_of_each,
    pair_across,
    pair_around,
    pair_folders,
    pair_up,
    related_stems,
)
from wan_alpha.media.read import MEDIA_SUFFIXES
from wan_alpha.media.stills import STILL_SUFFIXES, is_opaque_still, natural_key, still_files

log = logging.getLogger(__name__)


def find_clips(source: Path, *, exclude: Path | None = None) -> list[FoundClip]:
    """All clips of a folder and its sub-folders in natural order; a file, or a folder of nothing but numbered frames, is one clip.

    SOURCE may be half of a pair, a file, its frames, or one of the two folders of pairs: it stands for the pairs with what lies beside it.
    A picture without alpha and without a partner is left out, with a warning; so is a clip's thumbnail, a picture of the same name, and
    so are other formats of one clip, files of its name beside it. Clips of one name in several folders are called after these too.
    EXCLUDE is a folder to leave out (the output); so is, with a warning, a link back to a folder above it. DatasetError for a missing
    or empty folder. What cannot be opened, named in a report or paired is a clip with a problem.
    """
    fault = fault_of(source)
    if fault is not None:
        raise DatasetError(source, got=fault, expected="a clip or a folder of clips that can be read")
    if source.is_file():
        return [_with_partner(source)]
    clips = [checked(clip) for clip in _clips_of(source, exclude and exclude.resolve())]
    if not clips:
        raise _no_clips(source)
    for folder, caption in ((path, clip.caption) for clip in clips for path in clip.files if path.is_dir() and clip.problem is None):
        known = {*still_files(folder), caption}
        tell_left_out(folder, [path for path in entries(folder) if path not in known], untold=())
    tell_other_formats([(clip.files[0], clip.others) for clip in clips if clip.others])
    return sorted(with_different_names(clips, source), key=lambda clip: natural_key(Path(clip.name)))


def _clips_of(source: Path, exclude: Path | None) -> Iterator[FoundClip]:
    """What a folder is: pairs with a folder beside it, the frames of one clip, or a folder of clips."""
    frames = is_frame_folder(source)
    pair = None if frames and name_of(source).lower() not in (*COLOUR_FOLDERS, *MATTE_FOLDERS) else pair_around(source)
    if pair is not None:
        yield from pair_folders(*pair, exclude=exclude)
    elif frames:
        yield _with_partner(source)
    else:
        yield from _scan(source, exclude, ())


def _no_clips(source: Path) -> DatasetError:
    seen = sorted({path.suffix.lower() or "no extension" for path in source.rglob("*") if path.is_file()})
    return DatasetError(
        source,
        got=f"a folder with files of {', '.join(seen[:8])} only" if seen else "an empty folder",
        expected=f"folders of PNG frames or files of {', '.join(MEDIA_SUFFIXES)} with alpha",
        do="point --source at the clips",
    )


def _with_partner(source: Path) -> FoundClip:
    """A file or a folder of frames as the clip that it is part of: with the other half of its pair where that lies beside it."""
    home, alone = home_of(source), clip_alone(source)
    if fault_of(home) is not None:
        return alone
    around = pair_around(home)
    across = next((clip for clip in pair_across(*around) if source in clip.files), None) if around else None
    if across is not None and across.problem is None:
        return across
    stems = related_stems(source)
    beside = [path for path in entries(home) if path == source or (stems & related_stems(path) and _may_be_half(path))]
    paired = next((clip for clip in pair_up(beside)[0] if source in clip.files), None)
    if paired is not None:
        return paired
    return across if across is not None and alone.problem is not None else alone


def _may_be_half(path: Path) -> bool:
    return fault_of(path) is None and (is_frame_folder(path) if path.is_dir() else is_media(path))


def _scan(folder: Path, exclude: Path | None, above: tuple[Path, ...]) -> Iterator[FoundClip]:
    """ABOVE: the folders, resolved, whose scan led here."""
    inside = entries(folder, exclude=exclude)
    above = (*above, folder.resolve())
    folders = [path for path in inside if path.is_dir() and not leads_back(path, above)]
    named = [path for path in inside if is_media(path)]
    files = [path for path in named if path.is_file()]
    closed = [path for path in folders if fault_of(path)] + [
        path for path in named if path.exists() and not (path.is_file() or path.is_dir())
    ]
    yield from (FoundClip(name=name_of(path), rgba=path) for path in closed)
    folders = [path for path in folders if path not in closed]
    known = {*files, *closed}
    tell_left_out(folder, [path for path in inside if path not in known and not path.is_dir()])
    pairs = folder_pairs(folders)
    for colours, mattes in pairs:
        yield from pair_folders(colours, mattes, exclude=exclude, above=above)
    others = [path for path in folders if not any(path in pair for pair in pairs)]
    frames = dict.fromkeys(path for path in others if is_frame_folder(path))
    yield from _clips_beside(folder, files, [*frames])
    for path in others:
        if path not in frames:
            yield from _scan(path, exclude, above)


def _clips_beside(folder: Path, files: list[Path], frames: list[Path]) -> Iterator[FoundClip]:
    """The clips that files and frame folders of one folder make."""
    stills = {path for path in files if path.suffix.lower() in STILL_SUFFIXES and not is_animation(path)}
    moving = {path.stem: path for path in files if path not in stills}
    thumbnails = {path for path in stills if path.stem in moving}
    for path in sorted(thumbnails, key=natural_key):
        log.warning("%s: a picture of the name of %s is left out as its thumbnail", path, moving[path.stem].name)
    pairs, alone = pair_up([path for path in (*files, *frames) if path not in thumbnails])
    opaque = dict.fromkeys(path for path in alone if path in stills and not is_half(path.stem) and is_opaque_still(path))
    tell_pictures_without_alpha(folder, [*opaque])
    clips = list(one_of_each(pairs, [path for path in alone if path not in opaque]))
    yield from clips
    tell_frames_as_stills(folder, [clip.rgba for clip in clips if clip.rgba in stills])


def checked(clip: FoundClip) -> FoundClip:
    """The clip, or the same with a problem and a printable name when one of its files has a fault."""
    path, fault = next(((path, fault) for path in clip.files if (fault := fault_of(path))), (None, None))
    if fault is None or clip.problem is not None:
        return replace(clip, name=printable(clip.name))
    problem = DatasetError(path, got=fault, expected="a file that can be read", do="rename, repair or remove it")
    return replace(clip, name=printable(clip.name), problem=problem)
