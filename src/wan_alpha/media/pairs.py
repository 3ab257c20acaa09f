"""Which colour belongs to which matte: by the endings of their names, by two folders, by bare names; and which format of a clip is read.

XXX.mp4 + XXX_seg | XXX_alpha | XXX_pha | XXX_matte | XXX_mask      XXX_rgb + XXX_alpha      XXX_fgr + XXX_pha
rgb/XXX + alpha/XXX      fgr/XXX + pha/XXX, with or without these endings, in sub-folders of one name too      XXX/rgb + XXX/alpha
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wan_alpha.errors import DatasetError
from wan_alpha.media.left_out import TEXT_SUFFIXES, tell_left_out
from wan_alpha.media.listing import entries, fault_of, home_of, is_frame_folder, is_media, leads_back, name_of
from wan_alpha.media.sidecar import EXR_ENDING, SIDECAR_ENDING, ZIP_ENDING
from wan_alpha.media.stills import JPEG_SUFFIXES, is_jpeg, is_opaque_still, natural_key, still_files, text_beside
from wan_alpha.media.video import holds_alpha

COLOUR_ENDINGS = ("_rgb", "_fgr")
MATTE_ENDINGS = ("_alpha", "_pha", "_seg", "_matte", "_mask")
COLOUR_FOLDERS = ("rgb", "fgr", "image", "images")
MATTE_FOLDERS = ("alpha", "pha", "seg", "matte", "mask", "alphas", "mattes", "masks")
USUAL_PARTNER = {"rgb": "alpha", "fgr": "pha"}
OPAQUE_SUFFIXES = (".mp4", ".m4v")
"""Containers that hold alpha in few codecs (PNG, FFV1, HEVC's layer): alone, without it, they lack their matte."""
FORMATS = ("", ".zip", ".exr", ".png", ".apng", ".mkv", ".avi", ".mov", ".webp", ".webm", ".gif", *OPAQUE_SUFFIXES, *JPEG_SUFFIXES)
"""Folders of frames and files, most faithful first: of one clip in several formats the first is read."""
EXPORT_ENDINGS = (EXR_ENDING, Path(ZIP_ENDING).stem)
PAIR_RANK = FORMATS.index(".webm")


@dataclass(frozen=True, kw_only=True)
class FoundClip:
    """Either rgba, or rgb and alpha. A clip that cannot be used has a problem instead."""

    name: str
    rgba: Path | None = None
    rgb: Path | None = None
    alpha: Path | None = None
    caption: Path | None = None
    problem: DatasetError | None = None
    others: tuple[Path, ...] = ()
    """The same clip in other formats, which are not read."""

    @property
    def files(self) -> list[Path]:
        return [path for path in (self.rgba, self.rgb, self.alpha) if path is not None]


def stem_before(name: str, endings: Sequence[str]) -> str | None:
    """NAME without one of ENDINGS, in whatever case; "" for the bare word (rgb, ALPHA); None without any.

    >>> stem_before("d_ALPHA", MATTE_ENDINGS), stem_before("alpha", MATTE_ENDINGS), stem_before("a", MATTE_ENDINGS)
    ('d', '', None)
    """
    for ending in endings:
        if name.lower().endswith(ending):
            return name[: -len(ending)]
        if name.lower() == ending[1:]:
            return ""
    return None


def related_stems(path: Path) -> set[str]:
    """Under which stems a file or folder may be a half."""
    name = name_of(path)
    return {stem for stem in (name, stem_before(name, COLOUR_ENDINGS), stem_before(name, MATTE_ENDINGS)) if stem is not None}


def pair_up(paths: Sequence[Path]) -> tuple[list[FoundClip], list[Path]]:
    """The pairs among files and frame folders of one folder, and the rest. More than one matte of a colour is that clip's problem."""
    mattes: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        stem = stem_before(name_of(path), MATTE_ENDINGS)
        if stem is not None:
            mattes[stem].append(path)
    pairs: list[FoundClip] = []
    used: set[Path] = set()
    for ending in (*COLOUR_ENDINGS, ""):
        colours: dict[str, list[Path]] = defaultdict(list)
        for path in paths:
            stem = stem_before(name_of(path), (ending,)) if ending else name_of(path)
            if stem in mattes and path not in used:
                colours[stem].append(path)
        for stem, group in colours.items():
            own = [path for path in mattes[stem] if path not in used]
            if own:
                used.update(group, own)
                pairs.append(_pair(stem, group, own))
    return pairs, [path for path in paths if path not in used]


def _pair(stem: str, colours: list[Path], mattes: list[Path]) -> FoundClip:
    """One clip of its colour and its matte, each in one format or several: halves of one format before others, then the most faithful.

    Of no STEM, it is called after the folder that holds both.
    """
    chosen = [(colour, matte) for matte in sorted(mattes, key=_rank) for colour in sorted(colours, key=_rank)]
    rgb, alpha = next(((colour, matte) for colour, matte in chosen if _format(colour) == _format(matte)), chosen[0])
    names = sorted({name_of(matte) for matte in mattes})
    problem = None
    if len(names) > 1:
        problem = DatasetError(rgb, got=f"{len(names)} mattes ({', '.join(names)})", expected="one", do="remove the others")
    others = tuple(path for path in (*colours, *mattes) if path not in (rgb, alpha))
    home = home_of(rgb)
    name = stem or name_of(home)
    caption = caption_of(rgb, name, beyond=alpha) or (None if stem else caption_of(home, name))
    return FoundClip(name=name, rgb=rgb, alpha=alpha, caption=caption, problem=problem, others=others)


def one_of_each(pairs: Iterable[FoundClip], alone: Iterable[Path]) -> Iterator[FoundClip]:
    """The clips of one folder: of those of one name, which are one clip in several formats, the most faithful."""
    by_name: dict[str, list[FoundClip]] = defaultdict(list)
    for clip in (*pairs, *(clip_alone(path) for path in alone)):
        by_name[_exported_name(clip)].append(clip)
    for name, clips in by_name.items():
        # An opaque copy of a clip lacks no matte.
        usable = [clip for clip in clips if clip.problem is None]
        broken = [clip for clip in clips if clip.problem is not None and not (usable and clip.alpha is None)]
        best = min(usable, key=_clip_rank, default=None)
        if best is not None:
            others = (path for clip in clips if clip is not best and clip not in broken for path in (*clip.files, *clip.others))
            yield replace(best, name=name, others=(*best.others, *others))
        yield from broken


def _exported_name(clip: FoundClip) -> str:
    """What a clip is a format of: X where export wrote it as X_exr/ or X_png.zip, and says so in its sidecar; else its own name."""
    for ending in EXPORT_ENDINGS:
        stem = clip.name.removesuffix(ending)
        if stem != clip.name and clip.rgba is not None and (clip.rgba.parent / (stem + SIDECAR_ENDING)).is_file():
            return stem
    return clip.name


def _clip_rank(clip: FoundClip) -> int:
    return PAIR_RANK if clip.rgba is None else _rank(clip.rgba)


def _rank(path: Path) -> int:
    form = _format(path)
    return FORMATS.index(form) if form in FORMATS else len(FORMATS)


def _format(path: Path) -> str:
    return "" if path.is_dir() else path.suffix.lower()


def clip_alone(path: Path) -> FoundClip:
    """A file or a folder of frames without a partner: RGBA, or half a pair where it has no alpha."""
    name = name_of(path)
    if not _is_opaque(path):
        return FoundClip(name=name, rgba=path, caption=caption_of(path, name))
    stem, form = stem_before(name, MATTE_ENDINGS), "/" if path.is_dir() else path.suffix
    if stem is not None:
        wanted = f"{stem}_rgb{form}".removeprefix("_") + " (its colour)"
    else:
        stem = stem_before(name, COLOUR_ENDINGS)
        stem = name if stem is None else stem
        wanted = f"{stem}_alpha{form}".removeprefix("_") + (f" or {stem}_seg{form}" if stem else "") + " (its matte)"
    problem = DatasetError(
        path,
        got="half a pair",
        expected=f"{wanted} beside it",
        do="add that file, or give an RGBA clip (.mov, .webm, .webp, PNG folder)",
    )
    return FoundClip(name=name, rgb=path, problem=problem)


def _is_opaque(path: Path) -> bool:
    if path.is_dir():
        return not fault_of(path) and any(is_jpeg(still) for still in still_files(path))
    return path.is_file() and (is_opaque_still(path) or (path.suffix.lower() in OPAQUE_SUFFIXES and not holds_alpha(path)))


def is_half(name: str) -> bool:
    """Whether a name says that its picture is half of a pair."""
    return stem_before(name, (*COLOUR_ENDINGS, *MATTE_ENDINGS)) is not None


def caption_beside(path: Path, stem: str, ending: str, *, beyond: Path | None = None) -> Path | None:
    """The text STEM + ENDING of the clip at PATH, or of its file's own name; of a pair whose other half, BEYOND, lies in a folder of its
    own, also in the folder that holds both, where no clip of that name lies too."""
    own = path.stem if path.is_file() else path.name
    places = [(path.parent, name) for name in (stem, own)]
    if beyond is not None and path.parent != beyond.parent and (home := path.parent.parent) == beyond.parent.parent:
        taken = {name_of(other) for other in home.iterdir() if other.is_dir() or is_media(other)}
        places += [(home, name) for name in (stem, own) if name not in taken]
    return next((text for folder, name in places if (text := text_beside(folder, name, ending))), None)


def caption_of(path: Path, stem: str, *, beyond: Path | None = None) -> Path | None:
    """XXX.txt beside the clip, else among its frames caption.txt, prompt.txt or the folder's own name."""
    beside = caption_beside(path, stem, ".txt", beyond=beyond)
    if beside is not None or not path.is_dir():
        return beside
    return next((text for name in ("caption", "prompt", path.name) if (text := text_beside(path, name, ".txt"))), None)


# Two folders


def folder_pairs(folders: Iterable[Path]) -> list[tuple[Path, Path]]:
    """(colours, mattes) among folders of one folder, by their names in whatever case: rgb + alpha and fgr + pha before other twos."""
    by_name = {path.name.lower(): path for path in folders}
    colours = {name: by_name[name] for name in COLOUR_FOLDERS if name in by_name}
    mattes = {name: by_name[name] for name in MATTE_FOLDERS if name in by_name}
    usual = [(name, matte) for name, matte in USUAL_PARTNER.items() if name in colours and matte in mattes]
    pairs = [(colours.pop(name), mattes.pop(matte)) for name, matte in usual]
    return [*pairs, *zip(colours.values(), mattes.values(), strict=False)]


def pair_around(folder: Path) -> tuple[Path, Path] | None:
    """The folder of colours and that of mattes where FOLDER is one of the two, or in one of the two, and the other one is there too."""
    for half in (folder, *folder.parents):
        if name_of(half).lower() not in (*COLOUR_FOLDERS, *MATTE_FOLDERS) or fault_of(home_of(half)) is not None:
            continue
        inner = folder.relative_to(half)
        if ".." in inner.parts:  # rgb/../clips is not in rgb
            continue
        beside = [path for path in entries(home_of(half)) if path.is_dir() and (path.name == name_of(half) or not fault_of(path))]
        for pair in folder_pairs(beside):
            if name_of(half) in (path.name for path in pair):
                colours, mattes = (half / inner if path.name == name_of(half) else path / inner for path in pair)
                return (colours, mattes) if colours.is_dir() and mattes.is_dir() else None
    return None


def pair_folders(colours: Path, mattes: Path, *, exclude: Path | None, above: tuple[Path, ...] = ()) -> Iterator[FoundClip]:
    """Clips of equal names in two folders and in their sub-folders of equal names.

    Two folders of numbered frames are one clip, named after the folder that holds them.
    """
    if is_frame_folder(colours) and is_frame_folder(mattes):
        home = colours.resolve().parent
        yield FoundClip(name=home.name, rgb=colours, alpha=mattes, caption=caption_of(home, home.name))
        return
    for folder, untold in ((colours, TEXT_SUFFIXES), (mattes, ())):
        tell_left_out(folder, [path for path in entries(folder) if not (path.is_dir() or is_media(path))], untold=untold)
    above = (*above, colours.resolve(), mattes.resolve())
    for clip in pair_across(colours, mattes, exclude=exclude):
        if clip.rgb is not None and clip.alpha is not None and _are_folders_of_clips(clip.rgb, clip.alpha):
            if not any(leads_back(path, above) for path in clip.files):
                yield from pair_folders(clip.rgb, clip.alpha, exclude=exclude, above=above)
        else:
            yield clip


def _are_folders_of_clips(*folders: Path) -> bool:
    return all(path.is_dir() and not fault_of(path) and not is_frame_folder(path) for path in folders)


def pair_across(colours: Path, mattes: Path, *, exclude: Path | None = None) -> Iterator[FoundClip]:
    """Clips of equal names in two folders, also where the names have endings; what has no partner is a clip with a problem."""
    rgb, alpha = (_halves_in(folder, exclude=exclude) for folder in (colours, mattes))
    clips = [_pair(name, rgb.pop(name), alpha.pop(name)) for name in list(rgb) if name in alpha]
    by_stem = {stem_before(name, MATTE_ENDINGS) or name: name for name in alpha}
    for name in list(rgb):
        stem = stem_before(name, COLOUR_ENDINGS) or name
        if stem in by_stem:
            clips.append(_pair(stem, rgb.pop(name), alpha.pop(by_stem.pop(stem))))
    for name, (first, *others) in rgb.items():
        clips.append(_half(FoundClip(name=name, rgb=first, others=tuple(others)), "matte", mattes))
    for name, (first, *others) in alpha.items():
        clips.append(_half(FoundClip(name=name, alpha=first, others=tuple(others)), "colour", colours))
    yield from sorted(clips, key=lambda clip: natural_key(Path(clip.name)))


def _half(clip: FoundClip, missing: str, other: Path) -> FoundClip:
    problem = DatasetError(
        clip.files[0],
        got=f"half a pair: no {clip.name} in {name_of(other)}/",
        expected=f"its {missing} of the same name there",
        do=f"add the {missing} or remove the clip",
    )
    return replace(clip, problem=problem)


def _halves_in(folder: Path, *, exclude: Path | None) -> dict[str, list[Path]]:
    """The files and folders of one of two folders of pairs, by name."""
    halves: dict[str, list[Path]] = defaultdict(list)
    for path in entries(folder, exclude=exclude):
        if path.is_dir() or is_media(path):
            halves[name_of(path)].append(path)
    return {name: sorted(paths, key=_rank) for name, paths in halves.items()}
