"""What prepare did, clip by clip: the report, and the tables in the dataset's folder."""

import json
from collections import Counter
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from wan_alpha.data.manifest import write_manifest
from wan_alpha.diagnosis import Diagnosis
from wan_alpha.findings.finding import Finding
from wan_alpha.media.atomic import beside

TABLE, PROVENANCE, REPORT = "metadata.csv", "metadata.jsonl", "report.json"


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
    """Of the source."""
    start: int
    """Its first frame in the source, at the rate that it was brought to."""
    changes: tuple[str, ...]
    """What was done to the source's pixels and timing, in order."""
    alpha_max_error: int
    rgb_max_error: int
    rgb_mean_error: float
    colour_error: float
    """Of squares of 8 x 8 pixels in the worst frame: what is held against a bound (docs/formats.md)."""
    alpha_min: int
    alpha_max: int
    almost_zero_share: float
    """Share of alpha in 1..8: what lossy mattes make of true zeros, and what soft glows end in."""
    notes: tuple[str, ...]
    assumed_matrix: str | None = None
    """By which the source's YUV colour was read where it has no matrix tag."""
    alpha_evidence: str | None = None
    """What the source's pixels say of straight or premultiplied, with --source_alpha detect."""


@dataclass(frozen=True, kw_only=True)
class PrepareReport:
    output_path: str
    clips: tuple[ClipReport, ...]
    skipped: tuple[tuple[str, str], ...]
    """(clip, why) of every clip left out with on_bad_sample = skip."""
    diagnoses: tuple[Diagnosis, ...] = ()
    """What is wrong with each source, after the repairs that were asked for."""

    def summary(self) -> list[str]:
        frames = sum(clip.frames for clip in self.clips)
        counts = Counter(found.name for diagnosis in self.diagnoses for found in diagnosis.findings)
        found = ", ".join(f"{count} {name}" for name, count in counts.most_common())
        notes = [f"{clip.video}: {', '.join(clip.notes)}" for clip in self.clips if clip.notes]
        left_out = [f"skipped {name}: {why}" for name, why in self.skipped]
        stills = [clip.video for clip in self.clips if clip.frames == 1]
        changed = sum(1 for clip in self.clips if clip.changes)
        return [
            f"{self.output_path}: {len(self.clips)} clips, {frames} frames, alpha exact; report: {self.output_path}/{REPORT}",
            *([f"stills: {len(stills)} single pictures, such as {stills[0]}"] if stills else []),
            *([f"changed: {changed} clips, see {PROVENANCE}"] if changed else []),
            *([f"findings: {found}; wan-alpha doctor shows where"] if found else []),
            *notes,
            *left_out,
        ]


def write_tables(report: PrepareReport, folder: Path) -> tuple[str, ...]:
    """metadata.csv (video,prompt), metadata.jsonl (with provenance: source, hash, changes) and report.json; returns their names."""
    _write(folder / REPORT, json.dumps(asdict(report), indent=1, ensure_ascii=False) + "\n")
    _write(folder / PROVENANCE, "".join(json.dumps(_provenance(clip), ensure_ascii=False) + "\n" for clip in report.clips))
    write_manifest([(clip.video, clip.prompt) for clip in report.clips], folder / TABLE)
    return REPORT, PROVENANCE, TABLE


def clips_of_report(folder: Path) -> list[str]:
    """Names of the clips that prepare has put into FOLDER, from its report there; none without one, or where it is another's."""
    try:
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    clips = report.get("clips", []) if isinstance(report, dict) else []
    names = [clip.get("video") for clip in clips if isinstance(clip, dict)] if isinstance(clips, list) else []
    return [name for name in names if isinstance(name, str) and Path(name).name == name]


def _provenance(clip: ClipReport) -> dict[str, Any]:
    names = ("video", "prompt", "source", "sha256", "start", "frames", "height", "width", "fps", "changes")
    return {name: getattr(clip, name) for name in (*names, "assumed_matrix", "alpha_evidence")}


def _write(path: Path, text: str) -> None:
    with beside(path) as partial:
        partial.write_text(text, encoding="utf-8")


def clip_report_from(values: dict[str, Any]) -> ClipReport:
    """Back from what JSON made of asdict."""
    return ClipReport(**_with_tuples(values))


def diagnosis_from(values: dict[str, Any]) -> Diagnosis:
    found = tuple(Finding(**{name: item.get(name) for name in (field.name for field in fields(Finding))}) for item in values["findings"])
    return Diagnosis(**_with_tuples({**values, "findings": found}))


def _with_tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
