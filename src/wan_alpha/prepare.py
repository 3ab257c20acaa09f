"""prepare: any RGBA source -> XXX_rgb.mp4 + XXX_alpha.mp4 + metadata.csv + report.json, each pair read back and compared.

Everything is made in OUTPUT_PATH.partial and moved when the last clip is done; an error or Ctrl-C leaves nothing behind.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from wan_alpha.config import PrepareConfig
from wan_alpha.data.manifest import write_manifest
from wan_alpha.data.synthetic import render_subject, sample_transparent_scene, transparent_caption
from wan_alpha.errors import DatasetError, MediaError, UsageError, did_you_mean
from wan_alpha.geometry import ClipSize
from wan_alpha.media.atomic import staging
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.find import FoundClip, find_clips
from wan_alpha.media.read import read_clip
from wan_alpha.media.verify import verify_pair
from wan_alpha.media.write import write_pair
from wan_alpha.progress import progress
from wan_alpha.run_record import now, write_run_record

log = logging.getLogger(__name__)

TABLE, REPORT = "metadata.csv", "report.json"


@dataclass(frozen=True, kw_only=True)
class ClipReport:
    """One prepared clip. Errors are on the 0..255 scale after reading the files back; colour where alpha is above 0."""

    video: str
    prompt: str
    frames: int
    height: int
    width: int
    fps: float
    source: tuple[str, ...]
    sha256: str
    alpha_max_error: int
    rgb_max_error: int
    rgb_mean_error: float
    alpha_min: int
    alpha_max: int
    almost_zero_share: float
    """Share of alpha in 1..8: what lossy mattes make of true zeros, and what soft glows end in."""
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PrepareReport:
    output_path: str
    clips: tuple[ClipReport, ...]
    skipped: tuple[tuple[str, str], ...]
    """(clip, why) of every clip left out with on_bad_sample = skip."""

    def summary(self) -> list[str]:
        frames = sum(clip.frames for clip in self.clips)
        notes = [f"{clip.video}: {', '.join(clip.notes)}" for clip in self.clips if clip.notes]
        left_out = [f"skipped {name}: {why}" for name, why in self.skipped]
        return [
            f"{self.output_path}: {len(self.clips)} clips, {frames} frames, alpha exact; report: {self.output_path}/{REPORT}",
            *notes,
            *left_out,
        ]


@dataclass(frozen=True, kw_only=True)
class _Job:
    name: str
    prompt: str
    found: FoundClip | None = None
    scene_seed: int = 0
    manifest_frames: int | None = None


def prepare(config: PrepareConfig) -> PrepareReport:
    """Make the dataset. DatasetError or MediaError names the clip that cannot be used."""
    jobs = _source_jobs(config) + _synthetic_jobs(config)
    if not jobs:
        raise UsageError("prepare", got="no source", expected="--source FOLDER, --synthetic N, or both")
    if config.output_path.exists() and not config.output_path.is_dir():
        raise UsageError("--output_path", got=f"the file {config.output_path}", expected="a folder")
    started = now()
    with staging(config.output_path) as folder:
        report = _prepare_all(jobs, config, folder)
        write_run_record(folder, verb="prepare", config=config, weights={}, started=started)
        _publish(folder, config.output_path)
    return report


def _prepare_all(jobs: list[_Job], config: PrepareConfig, folder: Path) -> PrepareReport:
    clips: list[ClipReport] = []
    skipped: list[tuple[str, str]] = []
    with progress("preparing", total=len(jobs)) as advance:
        for job in jobs:
            try:
                clips.append(_prepare_one(job, config, folder))
            except (DatasetError, MediaError) as error:
                if config.on_bad_sample == "error":
                    raise
                log.warning("skipped %s: %s", job.name, error)
                skipped.append((job.name, str(error)))
            advance()
    if not clips:
        raise DatasetError(config.source, got=f"{len(skipped)} clips, none of them usable", expected="at least one", do=skipped[0][1])
    report = PrepareReport(output_path=str(config.output_path), clips=tuple(clips), skipped=tuple(skipped))
    (folder / REPORT).write_text(json.dumps(asdict(report), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write_manifest([(clip.video, clip.prompt) for clip in clips], folder / TABLE)
    return report


def _prepare_one(job: _Job, config: PrepareConfig, folder: Path) -> ClipReport:
    clip = _read(job, config)
    if job.manifest_frames is not None and clip.num_frames != job.manifest_frames:
        raise MediaError(
            _sources(job)[0], got=f"{clip.num_frames} frames", expected=f"{job.manifest_frames} (manifest.json)", do="copy the file again"
        )
    rgb_path, alpha_path = write_pair(clip, folder / job.name)
    error = verify_pair(rgb_path, alpha_path, clip)
    low, high = int(clip.alpha.min()), int(clip.alpha.max())
    notes = [note for note, true in (("fully opaque", low == 255), ("fully transparent", high == 0)) if true]
    for note in notes:
        log.warning("%s: %s in every frame", job.name, note)
    return ClipReport(
        video=job.name,
        prompt=job.prompt,
        frames=clip.num_frames,
        height=clip.height,
        width=clip.width,
        fps=clip.fps,
        source=tuple(_sources(job)),
        sha256=_sha256(job.found.files) if job.found else hashlib.sha256(clip.rgb.tobytes() + clip.alpha.tobytes()).hexdigest(),
        alpha_min=low,
        alpha_max=high,
        almost_zero_share=round(float(np.mean((clip.alpha > 0) & (clip.alpha <= 8))), 6),
        notes=tuple(notes),
        **asdict(error),
    )


def _read(job: _Job, config: PrepareConfig) -> RgbaClip:
    if job.found is None:
        size = {"num_frames": config.num_frames, "height": config.height, "width": config.width}
        colour, alpha = render_subject(sample_transparent_scene(job.scene_seed), **size)
        return RgbaClip(rgb=np.rint(colour * 255).astype(np.uint8), alpha=np.rint(alpha * 255).astype(np.uint8), fps=config.fps)
    if job.found.problem is not None:
        raise job.found.problem
    return read_clip(rgba=job.found.rgba, rgb=job.found.rgb, alpha=job.found.alpha, fps_if_unknown=config.fps)


def _synthetic_jobs(config: PrepareConfig) -> list[_Job]:
    if config.synthetic < 0:
        raise UsageError("--synthetic", got=config.synthetic, expected="a number of clips")
    ClipSize(num_frames=config.num_frames, height=config.height, width=config.width)
    seeds = range(config.seed, config.seed + config.synthetic)
    return [
        _Job(name=f"synthetic_{i:04d}", prompt=transparent_caption(sample_transparent_scene(s)), scene_seed=s) for i, s in enumerate(seeds)
    ]


def _source_jobs(config: PrepareConfig) -> list[_Job]:
    if config.source is None:
        return []
    if config.source.resolve() == config.output_path.resolve():
        raise UsageError("--output_path", got="the source folder", expected="another folder")
    listed = _read_source_manifest(config.source)
    jobs = []
    for found in find_clips(config.source, exclude=config.output_path):
        entry = next((listed[path.resolve()] for path in found.files if path.resolve() in listed), None)
        if config.split is not None and (entry is None or entry.get("split") != config.split):
            continue
        jobs.append(
            _Job(name=found.name, prompt=_prompt(found, entry), found=found, manifest_frames=entry.get("frames") if entry else None)
        )
    if config.split is not None and not jobs:
        splits = sorted({str(entry["split"]) for entry in listed.values() if "split" in entry})
        raise DatasetError(
            config.source,
            got=f"no clips of split {config.split!r}",
            expected="a manifest.json with it",
            do=did_you_mean(config.split, splits),
        )
    return jobs


def _prompt(found: FoundClip, entry: dict | None) -> str:
    """The .txt beside the clip, else manifest.json, else the words of the file's name; white space becomes single blanks."""
    if found.caption is not None:
        try:
            text = found.caption.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise DatasetError(
                found.caption, got=type(error).__name__, expected="a caption in UTF-8", do="save it as UTF-8 text"
            ) from error
    elif entry is not None and isinstance(entry.get("caption"), str):
        text = entry["caption"]
    else:
        text = found.name.replace("_", " ").replace("-", " ")
    return " ".join(text.split())


def _read_source_manifest(source: Path) -> dict[Path, dict]:
    """manifest.json of a source folder: a list of {file, caption, frames, split}; by resolved path. None there is fine."""
    path = source / "manifest.json"
    if not path.is_file():
        return {}
    try:
        entries = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DatasetError(path, got=f"{type(error).__name__} ({error})", expected="JSON", do="repair or remove the file") from error
    if not (isinstance(entries, list) and all(isinstance(entry, dict) and isinstance(entry.get("file"), str) for entry in entries)):
        raise DatasetError(
            path, got="another structure", expected='a list of {"file": ..., "caption": ..., "split": ...}', do="repair or remove the file"
        )
    listed = {(source / entry["file"]).resolve(): entry for entry in entries}
    missing = next((entry["file"] for file, entry in listed.items() if not file.exists()), None)
    if missing is not None:
        raise DatasetError(path, got=f"{missing}, which is not there", expected="existing files", do="copy the file or remove its entry")
    return listed


def _publish(folder: Path, output: Path) -> None:
    """Put the finished dataset in place. Into an existing folder, files move one by one with the table last."""
    if not output.exists():
        os.replace(folder, output)
        return
    (output / TABLE).unlink(missing_ok=True)
    for path in sorted(folder.iterdir(), key=lambda path: path.name == TABLE):
        os.replace(path, output / path.name)


def _sources(job: _Job) -> list[str]:
    return [str(path) for path in job.found.files] if job.found else [f"procedural, seed {job.scene_seed}"]


def _sha256(paths: list[Path]) -> str:
    """Hash of the source files' bytes, folders file by file in order of their names."""
    digest = hashlib.sha256()
    for file in _files(paths):
        with file.open("rb") as stream:
            for block in iter(lambda: stream.read(1 << 20), b""):
                digest.update(block)
    return digest.hexdigest()


def _files(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        yield from sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
