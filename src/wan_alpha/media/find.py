"""Find the clips in a folder: RGBA files, folders of frames, and colour + matte pairs in the layouts people use.

XXX.mp4 + XXX_seg | XXX_alpha | XXX_pha | XXX_matte | XXX_mask      XXX_rgb + XXX_alpha      XXX_fgr + XXX_pha
rgb/XXX + alpha/XXX                fgr/XXX + pha/XXX                captions XXX.txt beside the clip

A picture is a clip of one frame, in pairs too. A folder of nothing but pictures that are numbered alike (stills.is_sequence) is one clip.
"""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from wan_alpha.errors import DatasetError, printable
from wan_alpha.media.animation import is_animation
from wan_alpha.media.left_out import OWN_ENDINGS, TEXT_SUFFIXES, tell_frames_as_stills, tell_left_out
from wan_alpha.media.read import MEDIA_SUFFIXES
from wan_alpha.media.stills import STILL_SUFFIXES, is_opaque_still, is_sequence, natural_key, still_files, text_beside

log = logging.getLogger(__name__)

COLOUR_SUFFIXES = ("_rgb", "_fgr", "")
MATTE_SUFFIXES = ("_seg", "_alpha", "_pha", "_matte", "_mask")
HALVES = ("_rgb", "_fgr", *MATTE_SUFFIXES)
PAIR_FOLDERS = {"rgb": "alpha", "fgr": "pha"}
# Containers that cannot hold alpha in any codec read here: alone they lack their matte.
OPAQUE_SUFFIXES = (".mp4", ".m4v")


@dataclass(frozen=True, kw_only=True)
class FoundClip:
    """Either rgba, or rgb and alpha. A clip that cannot be used has a problem instead."""

    name: str
    rgba: Path | None = None
    rgb: Path | None = None
    alpha: Path | None = None
    caption: Path | None = None
    problem: DatasetError | None = None

    @property
    def files(self) -> list[Path]:
        return [path for path in (self.rgba, self.rgb, self.alpha) if path is not None]


def find_clips(source: Path, *, exclude: Path | None = None) -> list[FoundClip]:
    """All clips of a folder and its sub-folders in natural order; a file, or a folder of nothing but numbered frames, is one clip.

    SOURCE may be half of a pair, a file, its frames, or one of the two folders of pairs: it stands for the pairs with what lies beside it.
    A picture without alpha and without a partner is left out, with a warning; so is a clip's thumbnail, a picture of the same name.
    EXCLUDE is a folder to leave out (the output); so is, with a warning, a link back to a folder above it. DatasetError for a missing
    or empty folder and for two clips of one name. What cannot be opened or named in a report is a clip with a problem.
    """
    fault = _fault(source)
    if fault is not None:
        raise DatasetError(source, got=fault, expected="a clip or a folder of clips that can be read")
    if source.is_file():
        return [_with_partner(source)]
    clips = [_checked(clip) for clip in _clips_of(source, exclude and exclude.resolve())]
    if not clips:
        raise _no_clips(source)
    _refuse_equal_names(clips)
    for folder in (path for clip in clips for path in clip.files if path.is_dir() and clip.problem is None):
        stills = set(still_files(folder))
        tell_left_out(folder, [path for path in _entries(folder) if path not in stills], untold=())
    return sorted(clips, key=lambda clip: natural_key(Path(clip.name)))


def _clips_of(source: Path, exclude: Path | None) -> Iterator[FoundClip]:
    """What a folder is: pairs with a folder beside it, the frames of one clip, or a folder of clips."""
    pair = _folders_of_pairs(source)
    if pair is not None:
        yield from _pair_folders(*pair, exclude=exclude)
    elif _is_frame_folder(source):
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
    home, own = _home(source), _name(source)
    if _fault(home) is not None:
        return _alone(own, source)
    pair = _folders_of_pairs(home)
    across = next((clip for clip in _pair_by_name(*pair, only=own) if source in clip.files), None) if pair else None
    if across is not None and across.problem is None:
        return across
    stem = next((own.removesuffix(ending) for ending in HALVES if own.endswith(ending)), own)
    beside = [path for path in _entries(home) if path == source or _may_be_half(path, stem)]
    halves = [path for path in beside if _name(path) in {stem + ending for ending in HALVES}]
    named_colour = any(_name(path) in (f"{stem}_rgb", f"{stem}_fgr") for path in halves)
    clips = {own: source}
    for path in [*halves, *(path for path in beside if _name(path) == stem and not named_colour)]:
        if _name(path) != own:
            _add(clips, _name(path), path)
    paired = _pair_up(clips) if len(clips) > 1 else iter(())
    found = next((clip for clip in paired if source in clip.files), None) or _alone(own, source)
    return across if across is not None and found.problem is not None else found


def _may_be_half(path: Path, stem: str) -> bool:
    if _name(path) not in {stem, *(stem + ending for ending in HALVES)}:
        return False
    return _fault(path) is None and (_is_frame_folder(path) if path.is_dir() else _is_media(path))


def _home(path: Path) -> Path:
    """The folder that holds PATH, also where PATH is "." or ends in ".."."""
    return path.parent if path.name not in ("", "..") else Path(os.path.abspath(path)).parent


def _name(path: Path) -> str:
    """What a clip is called after one of its files or folders."""
    return path.stem if path.is_file() else path.name or Path(os.path.abspath(path)).name


def _entries(folder: Path, *, exclude: Path | None = None) -> list[Path]:
    """What lies in FOLDER in natural order, without what is hidden, unfinished, or EXCLUDE."""
    paths = sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=natural_key)
    return [path for path in paths if not (path.is_dir() and (path.name.endswith(".partial") or path.resolve() == exclude))]


def _is_media(path: Path) -> bool:
    return path.suffix.lower() in MEDIA_SUFFIXES and not path.name.endswith(OWN_ENDINGS)


def _scan(folder: Path, exclude: Path | None, above: tuple[Path, ...]) -> Iterator[FoundClip]:
    """ABOVE: the folders, resolved, whose scan led here."""
    entries = _entries(folder, exclude=exclude)
    above = (*above, folder.resolve())
    folders = [path for path in entries if path.is_dir() and not _leads_back(path, above)]
    named = [path for path in entries if _is_media(path)]
    files = [path for path in named if path.is_file()]
    closed = [path for path in folders if _fault(path)] + [
        path for path in named if path.exists() and not (path.is_file() or path.is_dir())
    ]
    yield from (FoundClip(name=path.name if path.is_dir() else path.stem, rgba=path) for path in closed)
    folders = [path for path in folders if path not in closed]
    clips: dict[str, Path] = {}
    tell_left_out(folder, [path for path in entries if path not in (*files, *closed) and not path.is_dir()])
    stills = {path for path in files if path.suffix.lower() in STILL_SUFFIXES and not is_animation(path)}
    for path in sorted(files, key=lambda path: path in stills):
        if path in stills and path.stem in clips and clips[path.stem] not in stills:
            log.warning("%s: a picture of the name of %s is left out as its thumbnail", path, clips[path.stem].name)
        else:
            _add(clips, path.stem, path)
    by_name = {path.name.casefold(): path for path in folders}
    pairs = [(path, by_name[PAIR_FOLDERS[name]]) for name, path in by_name.items() if PAIR_FOLDERS.get(name) in by_name]
    for colours, mattes in pairs:
        yield from _pair_folders(colours, mattes, exclude=exclude)
    others = [path for path in folders if not any(path in pair for pair in pairs)]
    frames = [path for path in others if _is_frame_folder(path)]
    for path in frames:
        _add(clips, path.name, path)
    paired = list(_pair_up(clips))
    yield from paired
    tell_frames_as_stills(folder, [clip.rgba for clip in paired if clip.rgba in stills])
    for path in others:
        if path not in frames:
            yield from _scan(path, exclude, above)


def _leads_back(folder: Path, above: tuple[Path, ...]) -> bool:
    """Whether a folder is a link to one that is being scanned, or to one above that: followed, it would lead here again."""
    target = folder.resolve()
    back = folder.is_symlink() and (target in above or above[-1].is_relative_to(target))
    if back:
        log.warning("%s: a link back to %s is not followed", folder, target)
    return back


def _fault(path: Path) -> str | None:
    """Why a file or folder cannot be opened, or named in a report."""
    if printable(str(path)) != str(path):
        return "a name that is not UTF-8"
    if not path.is_file() and not path.is_dir():
        return "neither a file nor a folder" if path.exists() else "a link to nothing" if path.is_symlink() else "no such file or folder"
    if not os.access(path, os.R_OK | os.X_OK if path.is_dir() else os.R_OK):
        return "no permission to read it"
    return None


def _checked(clip: FoundClip) -> FoundClip:
    """The clip, or the same with a problem and a printable name when one of its files has a fault."""
    path, fault = next(((path, fault) for path in clip.files if (fault := _fault(path))), (None, None))
    if fault is None or clip.problem is not None:
        return replace(clip, name=printable(clip.name))
    problem = DatasetError(path, got=fault, expected="a file that can be read", do="rename, repair or remove it")
    return replace(clip, name=printable(clip.name), problem=problem)


def _add(clips: dict[str, Path], name: str, path: Path) -> None:
    if name in clips:
        raise DatasetError(
            path, got=f"the name {name!r}, which {clips[name].name} has too", expected="one clip per name", do="rename or remove one"
        )
    clips[name] = path


def _pair_up(clips: dict[str, Path]) -> Iterator[FoundClip]:
    """Join colour and matte files of one folder; what is left over is RGBA or lacks its partner."""
    names = set(clips)
    used: set[str] = set()
    for suffix in COLOUR_SUFFIXES:
        for name in clips:
            if name in used or not name.endswith(suffix) or name == suffix:
                continue
            stem = name.removesuffix(suffix)
            mattes = [stem + s for s in MATTE_SUFFIXES if stem + s in names - used and stem + s != name]
            if len(mattes) > 1:
                raise DatasetError(clips[name], got=f"{len(mattes)} mattes ({', '.join(mattes)})", expected="one", do="remove the others")
            if mattes:
                used |= {name, mattes[0]}
                yield FoundClip(name=stem, rgb=clips[name], alpha=clips[mattes[0]], caption=_caption(clips[name], stem))
    for name, path in clips.items():
        if name in used:
            continue
        if is_opaque_still(path) and not name.endswith(HALVES):
            log.warning("%s: a picture without alpha is left out; add %s_alpha%s, or give it an alpha channel", path, name, path.suffix)
        else:
            yield _alone(name, path)


def _folders_of_pairs(folder: Path) -> tuple[Path, Path] | None:
    """The folder of colours and that of mattes where FOLDER is one of the two and the other one lies beside it."""
    name, home = _name(folder).casefold(), _home(folder)
    partner = PAIR_FOLDERS.get(name) or {mattes: colours for colours, mattes in PAIR_FOLDERS.items()}.get(name)
    if partner is None or _fault(home) is not None:
        return None
    other = next((path for path in _entries(home) if path.name.casefold() == partner and path.is_dir()), None)
    if other is None or _fault(other) is not None:
        return None
    return (folder, other) if name in PAIR_FOLDERS else (other, folder)


def _pair_folders(colours: Path, mattes: Path, *, exclude: Path | None) -> Iterator[FoundClip]:
    """Clips of equal names in two folders; two folders of numbered frames are one clip, named after the folder that holds them."""
    if _is_frame_folder(colours) and _is_frame_folder(mattes):
        home = colours.resolve().parent
        yield FoundClip(name=home.name, rgb=colours, alpha=mattes, caption=_caption(home, home.name))
        return
    for folder, untold in ((colours, TEXT_SUFFIXES), (mattes, ())):
        tell_left_out(folder, [path for path in _entries(folder) if not (path.is_dir() or _is_media(path))], untold=untold)
    yield from _pair_by_name(colours, mattes, exclude=exclude)


def _pair_by_name(colours: Path, mattes: Path, *, exclude: Path | None = None, only: str | None = None) -> Iterator[FoundClip]:
    """Clips of equal names in two folders, or the one that is called ONLY; what has no partner is a clip with a problem."""
    rgb, alpha = (_halves_in(folder, exclude=exclude, only=only) for folder in (colours, mattes))
    for name in sorted(rgb.keys() | alpha.keys(), key=lambda name: natural_key(Path(name))):
        if name in rgb and name in alpha:
            yield FoundClip(name=name, rgb=rgb[name], alpha=alpha[name], caption=_caption(rgb[name], name))
            continue
        path, other, half = (rgb[name], mattes, "matte") if name in rgb else (alpha[name], colours, "colour")
        problem = DatasetError(
            path,
            got=f"half a pair: no {name} in {_name(other)}/",
            expected=f"its {half} of the same name there",
            do=f"add the {half} or remove the clip",
        )
        yield FoundClip(name=name, rgb=rgb.get(name), alpha=alpha.get(name), problem=problem)


def _halves_in(folder: Path, *, exclude: Path | None, only: str | None) -> dict[str, Path]:
    """The files and folders of one of two folders of pairs, by name."""
    clips: dict[str, Path] = {}
    for path in _entries(folder, exclude=exclude):
        name = path.name if path.is_dir() else path.stem
        if (path.is_dir() or _is_media(path)) and only in (None, name):
            _add(clips, name, path)
    return clips


def _alone(name: str, path: Path) -> FoundClip:
    """A clip without a partner file."""
    if path.is_file() and (path.suffix.lower() in OPAQUE_SUFFIXES or is_opaque_still(path)):
        stem, ending = next(((name.removesuffix(s), s) for s in HALVES if name.endswith(s)), (name, ""))
        form = path.suffix
        wanted = f"{stem}_rgb{form} (its colour)" if ending in MATTE_SUFFIXES else f"{stem}_alpha{form} or {stem}_seg{form} (its matte)"
        problem = DatasetError(
            path,
            got="half a pair",
            expected=f"{wanted} beside it",
            do="add that file, or give an RGBA clip (.mov, .webm, .webp, PNG folder)",
        )
        return FoundClip(name=name, rgb=path, problem=problem)
    return FoundClip(name=name, rgba=path, caption=_caption(path, name))


def _caption(path: Path, stem: str) -> Path | None:
    """XXX.txt beside the clip; in a pair the matte-less stem or the colour's own name."""
    stems = (stem, path.stem if path.is_file() else path.name)
    return next((text for name in stems if (text := text_beside(path.parent, name, ".txt"))), None)


def _is_frame_folder(folder: Path) -> bool:
    """Nothing but the numbered frames of one clip (and text)."""
    files = [path for path in folder.iterdir() if not path.name.startswith(".")]
    media = [path for path in files if path.is_dir() or path.suffix.lower() in MEDIA_SUFFIXES]
    stills = still_files(folder)
    return len(stills) == len(media) and is_sequence(stills) and not any(is_animation(path) for path in stills)


def _refuse_equal_names(clips: list[FoundClip]) -> None:
    seen: dict[str, FoundClip] = {}
    for clip in clips:
        other = seen.setdefault(clip.name.casefold(), clip)
        if other is not clip:
            got = f"the name {clip.name!r} from {clip.files[0]} and {other.files[0]}"
            raise DatasetError("two clips of one name", got=got, expected="different names", do="rename or remove one")
