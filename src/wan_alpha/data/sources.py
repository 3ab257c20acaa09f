"""Where a dataset's clips come from: files of a folder with their captions, and procedural scenes. Listing opens no clip.

The clips of a folder are its files, or the rows of its table (metadata.csv or .jsonl; data/manifest.py), which may be named itself.
A caption is the prompt of the clip's row, else XXX.txt or XXX.json beside the clip, else `caption` in the folder's manifest.json, else
what a captioner command prints (for an empty caption too), else the words of the file's name.
"""

import hashlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from wan_alpha.config import MAX_SEED
from wan_alpha.data.captions import MAX_CHARACTERS, Captioner, caption_file, read_caption, read_text
from wan_alpha.data.manifest import TABLE_SUFFIXES, AnotherTable, ClipTable, not_there, path_in, read_table, tables_of
from wan_alpha.data.materials import CUTS_CAPTION, material_caption, render_cuts, render_material
from wan_alpha.data.synthetic import render_subject, sample_transparent_scene, transparent_caption
from wan_alpha.data.user_json import parse_json
from wan_alpha.errors import DatasetError, MediaError, did_you_mean, printable
from wan_alpha.geometry import ClipSize
from wan_alpha.limits import MAX_FRAMES
from wan_alpha.media.clip import RgbaClip, media_errors
from wan_alpha.media.find import FoundClip, checked, find_clips
from wan_alpha.media.listing import media_files
from wan_alpha.media.naming import with_different_names
from wan_alpha.media.pairs import caption_of
from wan_alpha.media.read import BY_FILE, ReadSettings, read_clip

log = logging.getLogger(__name__)

LISTING = "manifest.json"
Links = Literal["refuse", "follow"]
ProceduralKind = Literal["shapes", "materials", "cuts"]


@dataclass(frozen=True, kw_only=True)
class FileSource:
    """A clip in files. Every method may raise DatasetError or MediaError, which name the file."""

    name: str
    found: FoundClip
    settings: ReadSettings
    listed_caption: str | None = None
    listed_frames: int | None = None
    row_caption: str = ""
    """The prompt of the table's row that the clip is; before any text beside the clip."""

    def read(self, *, count: int | None = None) -> RgbaClip:
        """Every frame, or the first COUNT."""
        if self.found.problem is not None:
            raise self.found.problem
        found = self.found
        clip = read_clip(rgba=found.rgba, rgb=found.rgb, alpha=found.alpha, count=count, settings=self.settings)
        if count is None and self.listed_frames is not None and clip.num_frames != self.listed_frames:
            expected = f"{self.listed_frames} (manifest.json)"
            raise MediaError(self.origin()[0], got=f"{clip.num_frames} frames", expected=expected, do="copy the file again")
        return clip

    def caption(self, captioner: Captioner | None = None) -> str:
        written = self.row_caption or read_caption(self.found, self.listed_caption)
        if captioner is not None and not (written or "").strip():
            written = captioner.caption(self.found.files[0])
        caption = " ".join((self.name.replace("_", " ").replace("-", " ") if written is None else written).split())
        if len(caption) > MAX_CHARACTERS:
            got = f"a caption of {len(caption)} characters"
            raise DatasetError(self.found.files[0], got=got, expected=f"at most {MAX_CHARACTERS}", do="shorten it")
        return caption

    def origin(self) -> tuple[str, ...]:
        return tuple(printable(str(path)) for path in self.found.files)

    def digest(self) -> str:
        """SHA-256 of the files' bytes, in order; of a folder, file by file in order of their names."""
        if self.found.problem is not None:
            raise self.found.problem
        digest = hashlib.sha256()
        for file in _files(self.found.files):
            with media_errors(file), file.open("rb") as stream:
                for block in iter(lambda: stream.read(1 << 20), b""):
                    digest.update(block)
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class ProceduralSource:
    """A rendered scene with exact alpha: a captioned shape (data/synthetic.py), a material or several cut together (data/materials.py)."""

    name: str
    kind: ProceduralKind
    seed: int
    size: ClipSize
    fps: float

    def read(self, *, count: int | None = None) -> RgbaClip:
        size = {"num_frames": self.size.num_frames, "height": self.size.height, "width": self.size.width}
        if self.kind == "shapes":
            colour, alpha = render_subject(sample_transparent_scene(self.seed), **size)
        else:
            colour, alpha = (render_material if self.kind == "materials" else render_cuts)(self.seed, **size)
        rgb, matte = (np.rint(values[:count] * 255).astype(np.uint8) for values in (colour, alpha))
        return RgbaClip(rgb=rgb, alpha=matte, fps=self.fps)

    def caption(self, captioner: Captioner | None = None) -> str:
        if self.kind == "shapes":
            return transparent_caption(sample_transparent_scene(self.seed))
        return material_caption(self.seed) if self.kind == "materials" else CUTS_CAPTION

    def origin(self) -> tuple[str, ...]:
        return (f"procedural {self.kind}, seed {self.seed}",)

    def digest(self) -> str:
        clip = self.read()
        return hashlib.sha256(clip.rgb.tobytes() + clip.alpha.tobytes()).hexdigest()


Source = FileSource | ProceduralSource


def clips_of(source: Path, *, exclude: Path | None = None) -> list[FoundClip]:
    """The clips of a table, where SOURCE is one (as file_sources has them), else of a folder or a file, as find_clips has them."""
    if _is_table(source):
        return [one.found for one in file_sources(source, settings=BY_FILE, exclude=exclude)]
    return find_clips(source, exclude=exclude)


def file_sources(
    source: Path,
    *,
    settings: ReadSettings,
    exclude: Path | None = None,
    split: str | None = None,
    links: Links = "refuse",
) -> list[FileSource]:
    """The clips of a folder in natural order, or of a table in its order; of one SPLIT of the folder's manifest.json if asked for.

    SOURCE is a clip, a folder, whose table counts where it has one, or a table, whose folder holds the clips. EXCLUDE is a folder to leave
    out.

    DatasetError for what find_clips refuses, for a manifest.json or a table that cannot be read or is a link out of the folder. As the
    clip's own problem: a row of either that names a missing file or one outside the folder, and a link out of it among the clip's files
    or its caption (unless links = follow).
    """
    named = _is_table(source)
    folder = source.parent if named else source
    listed = {} if named else _read_listing(folder, links)
    table = None if listed else read_table(folder, source) if named else _table_of(folder, links)
    if table is not None:
        listings = [] if split is not None else _rows(table, folder, exclude)
    else:
        listings = [_listing_of(found, listed) for found in find_clips(source, exclude=exclude)]
        listings += [one for one in listed.values() if one.found.problem is not None]
    if split is not None:
        listings = [one for one in listings if one.split == split]
    if not listings:
        splits = sorted({str(one.split) for one in listed.values() if one.split is not None})
        raise DatasetError(
            folder, got=f"no clips of split {split!r}", expected="a manifest.json with it", do=did_you_mean(str(split), splits)
        )
    return [
        FileSource(
            name=one.found.name,
            found=one.found if links == "follow" else _inside(one.found, source),
            settings=settings,
            listed_caption=one.caption,
            listed_frames=one.frames,
            row_caption=one.prompt,
        )
        for one in listings
    ]


@dataclass(frozen=True, kw_only=True)
class _Listed:
    """A clip, and what manifest.json or a table says of it."""

    found: FoundClip
    caption: str | None = None
    prompt: str = ""
    frames: int | None = None
    split: object = None


def _rows(table: ClipTable, folder: Path, exclude: Path | None) -> list[_Listed]:
    """The rows of a table as clips, told apart by folders where their names are equal. A line says how many files are in no row."""
    found = []
    for entry in table.entries:
        first = entry.rgba or entry.rgb
        caption = None if first is None or entry.prompt else caption_of(first, entry.name, beyond=entry.alpha)
        files = {"rgba": entry.rgba, "rgb": entry.rgb, "alpha": entry.alpha} if first else {"rgba": table.path}
        found.append(checked(FoundClip(name=entry.name, **files, caption=caption, problem=entry.problem)))
    read = {_real(path) for clip in found for path in clip.files}
    left = [path for path in media_files(folder, exclude=exclude) if not read & {_real(path), _real(path.parent)}]
    if left:
        log.warning("%s: %d files beside it are in none of its rows and are left out, such as %s", table.path, len(left), left[0].name)
    unsaid = "" if table.has_prompts else None
    clips = with_different_names(found, folder)
    return [_Listed(found=clip, caption=unsaid, prompt=entry.prompt) for clip, entry in zip(clips, table.entries, strict=True)]


def _listing_of(found: FoundClip, listed: dict[Path, "_Listed"]) -> _Listed:
    entry = next((listed[_real(path)] for path in found.files if _real(path) in listed), None)
    return _Listed(found=found) if entry is None else replace(entry, found=found)


def procedural_sources(count: int, *, kind: ProceduralKind, seed: int, size: ClipSize, fps: float) -> list[ProceduralSource]:
    """Clips of the seeds from SEED on, named after their kind so that all kinds can lie in one folder."""
    stem = {"shapes": "synthetic", "materials": "material", "cuts": "cut"}[kind]
    seeds = [(seed + i) % (MAX_SEED + 1) for i in range(count)]
    return [ProceduralSource(name=f"{stem}_{i:04d}", kind=kind, seed=seeds[i], size=size, fps=fps) for i in range(count)]


def _inside(found: FoundClip, folder: Path) -> FoundClip:
    """The clip, or the same with a problem when one of its files, or its caption, is a link out of the folder."""
    if found.problem is not None:
        return found
    # The other half of a pair may lie beside FOLDER: then the folder that holds both is meant.
    named = folder if folder.is_dir() else folder.parent
    home = _real(Path(os.path.commonpath([os.path.abspath(path) for path in (named, *found.files)])))
    linked = next((path for path in _files(found.files) if not _real(path).is_relative_to(home)), None)
    caption = caption_file(found)  # that of FOLDER itself lies beside it
    if linked is None and caption is not None and not any(_real(caption).is_relative_to(place) for place in (home, _real(caption.parent))):
        linked = caption
    return found if linked is None else replace(found, problem=_link_out(linked, folder))


def _link_out(path: Path, folder: Path) -> DatasetError:
    do = "copy the file there, or say --links follow"
    return DatasetError(path, got=f"a link to {_real(path)}", expected=f"a file inside {folder}", do=do)


def _real(path: Path) -> Path:
    """Where a path leads; a link to itself leads nowhere, and is no error yet."""
    return Path(os.path.realpath(path))


def _read_listing(folder: Path, links: Links) -> dict[Path, _Listed]:
    """manifest.json of a source folder, a list of {file, caption, frames, split}, by resolved path; none is fine.

    A file of that name from another program is told and left alone: it names no clips.
    """
    path = folder / LISTING
    if not path.is_file():
        return {}
    _refuse_link_out(path, folder, links)
    entries = parse_json(read_text(path), where=path, expected="JSON", do="repair or remove the file")
    if not (isinstance(entries, list) and any(isinstance(entry, dict) and "file" in entry for entry in entries)):
        log.warning('%s: another program\'s: not a list of {"file": ..., "caption": ..., "split": ...}', path)
        return {}
    listed = {}
    for number, entry in enumerate(entries, 1):
        where = f"{path}, entry {number}"
        _check_entry(where, entry)
        file, problem = path, None
        try:
            file = path_in(folder, where, "file", entry["file"])
            if not file.exists():
                raise not_there(folder, where, "file", entry["file"], expected="an existing file", do="copy the file or remove its entry")
        except DatasetError as error:
            problem = error
        found = FoundClip(name=f"{LISTING} entry {number}", rgba=path if problem else file, problem=problem)
        known = _Listed(found=found, caption=entry.get("caption"), frames=entry.get("frames"), split=entry.get("split"))
        listed[path / str(number) if problem else _real(file)] = known
    return listed


def _refuse_link_out(table: Path, folder: Path, links: Links) -> None:
    if links == "refuse" and not _real(table).is_relative_to(_real(folder)):
        raise _link_out(table, folder)


def _check_entry(where: str, entry: object) -> None:
    if not isinstance(entry, dict):
        raise DatasetError(where, got=type(entry).__name__, expected='{"file": ..., "caption": ..., "split": ...}')
    file, caption, frames = (entry.get(name) for name in ("file", "caption", "frames"))
    if not isinstance(file, str) or not isinstance(caption, str | None):
        name = "caption" if isinstance(file, str) else "file"
        raise DatasetError(where, got=f"{name} = {entry.get(name)!r}", expected="text in quotes")
    if frames is not None and not (type(frames) in (int, float) and 1 <= frames <= MAX_FRAMES and frames == int(frames)):
        expected = f"a whole number from 1 to {MAX_FRAMES}, without quotes"
        raise DatasetError(where, got=f"frames = {frames!r}", expected=expected)


def _is_table(source: Path) -> bool:
    return source.is_file() and source.suffix.lower() in TABLE_SUFFIXES


def _table_of(folder: Path, links: Links) -> ClipTable | None:
    """The table of a folder of clips. One of another kind is told and left alone: it names no clips."""
    for path in tables_of(folder)[:1]:
        _refuse_link_out(path, folder, links)
        try:
            return read_table(folder, path)
        except AnotherTable as error:
            log.warning("clips and captions are not taken from the table: %s", error)
    return None


def _files(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        yield from sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
