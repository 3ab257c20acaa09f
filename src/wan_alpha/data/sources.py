"""Where a dataset's clips come from: files of a folder with their captions, and procedural scenes. Listing opens no clip.

A caption is XXX.txt or XXX.json beside the clip, else `caption` in the folder's manifest.json or the prompt of its table (metadata.csv
or .jsonl), else a captioner command (for an empty caption too), else the words of the file's name.
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
from wan_alpha.data.manifest import DEFAULT_TABLES, AnotherTable, not_there, path_in, read_manifest
from wan_alpha.data.materials import CUTS_CAPTION, material_caption, render_cuts, render_material
from wan_alpha.data.synthetic import render_subject, sample_transparent_scene, transparent_caption
from wan_alpha.data.user_json import parse_json
from wan_alpha.errors import DatasetError, MediaError, did_you_mean, printable
from wan_alpha.geometry import ClipSize
from wan_alpha.media.clip import MAX_FRAMES, RgbaClip, media_errors
from wan_alpha.media.find import FoundClip, find_clips
from wan_alpha.media.read import ReadSettings, read_clip

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
        written = read_caption(self.found, self.listed_caption)
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


def file_sources(
    folder: Path,
    *,
    settings: ReadSettings,
    exclude: Path | None = None,
    split: str | None = None,
    links: Links = "refuse",
) -> list[FileSource]:
    """The clips of a folder in natural order, of one SPLIT of its manifest.json if asked for. EXCLUDE is a folder to leave out.

    DatasetError for what find_clips refuses, for a manifest.json or a table that names missing files or files outside the folder, for
    one that is a link out of it, and, as the clip's own problem, for such a link among its files or its caption (unless links = follow).
    """
    listed = _read_listing(folder, links)
    sources = []
    for found in find_clips(folder, exclude=exclude):
        entry = next((listed[_real(path)] for path in found.files if _real(path) in listed), None)
        if split is not None and (entry is None or entry.get("split") != split):
            continue
        caption, frames = (entry.get("caption"), entry.get("frames")) if entry else (None, None)
        sources.append(
            FileSource(
                name=found.name,
                found=found if links == "follow" else _inside(found, folder),
                settings=settings,
                listed_caption=caption,
                listed_frames=frames,
            )
        )
    if split is not None and not sources:
        splits = sorted({str(entry["split"]) for entry in listed.values() if "split" in entry})
        raise DatasetError(folder, got=f"no clips of split {split!r}", expected="a manifest.json with it", do=did_you_mean(split, splits))
    return sources


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


def _read_listing(folder: Path, links: Links) -> dict[Path, dict]:
    """manifest.json of a source folder, a list of {file, caption, frames, split}, by resolved path; else its table; none is fine.

    A file of that name from another program is told and left alone: it names no clips.
    """
    tables = [path for path in (folder / name for name in (LISTING, *DEFAULT_TABLES)) if path.is_file()]
    linked = next((path for path in tables if not _real(path).is_relative_to(_real(folder))), None)
    if linked is not None and links == "refuse":
        raise _link_out(linked, folder)
    path = folder / LISTING
    if path not in tables:
        return _read_table(folder) if tables else {}
    entries = parse_json(read_text(path), where=path, expected="JSON", do="repair or remove the file")
    if not (isinstance(entries, list) and any(isinstance(entry, dict) and "file" in entry for entry in entries)):
        log.warning('%s: another program\'s: not a list of {"file": ..., "caption": ..., "split": ...}', path)
        return _read_table(folder) if len(tables) > 1 else {}
    listed = {}
    for number, entry in enumerate(entries, 1):
        where = f"{path}, entry {number}"
        _check_entry(where, entry)
        file = path_in(folder, where, "file", entry["file"])
        if not file.exists():
            raise not_there(folder, where, "file", entry["file"], expected="an existing file", do="copy the file or remove its entry")
        listed[_real(file)] = entry
    return listed


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


def _read_table(folder: Path) -> dict[Path, dict]:
    """Prompts of a dataset's table. A table of another kind is told and left alone: it names no clips."""
    try:
        entries = read_manifest(folder)
    except AnotherTable as error:
        log.warning("captions are not taken from the table: %s", error)
        return {}
    files = {_real(path): entry.prompt for entry in entries for path in (entry.rgba or entry.rgb,) if path is not None}
    return {path: {"caption": prompt} for path, prompt in files.items()}


def _files(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        yield from sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
