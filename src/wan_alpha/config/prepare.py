"""Settings of the stages that look at source clips: doctor and prepare."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wan_alpha.config.common import ClipConfig, RunConfig


@dataclass(frozen=True, kw_only=True)
class SourceConfig(RunConfig, ClipConfig):
    """A folder of clips and how it is read; what doctor and prepare share."""

    source: Path | None = None
    """Folder of RGBA clips or colour+matte pairs; or a table of them (.csv, .jsonl), as which metadata.csv in the folder counts too."""
    num_frames: int = 17
    """Frames of a training window, 4n+1: of procedural clips and of fixed windows, and what a clip should have at least."""
    fps: float = 16.0
    """The model's frame rate: of procedural clips, what doctor compares with, and what prepare --rate makes of source clips."""
    source_fps: float | None = None
    """Frame rate of sources that state none: folders and zips of frames without export's or generate's record beside them. Default: --fps,
    as a note on each such clip says."""
    split: str | None = None
    """With a manifest.json that has splits in the source folder: only this split (train, validation)."""
    links: Literal["refuse", "follow"] = "refuse"
    """Links that lead out of the source folder: name the clip as unusable, or read it."""
    caption_command: str | None = None
    """Your captioner, for clips without a caption or with an empty one: a command that prints one. {clip} in it becomes the clip's path."""
    caption_timeout_s: float = 120.0
    """Seconds after which a captioner that has not answered has failed."""
    caption_retries: int = 1
    """How often a captioner that failed is asked again about the same clip."""
    num_workers: int = 0
    """Processes that work on clips; 0 works in this one."""
    fix: bool = False
    """Repair what is safe, in the prepared copies only: premultiplied colour, matte range and noise, hidden colour, lengths."""


@dataclass(frozen=True, kw_only=True)
class DoctorConfig(SourceConfig):
    """doctor: what is wrong with a folder of clips, where, how bad, and what to do."""

    output_path: Path = Path("outputs/doctor")
    """Folder for report.json and page.html, and with --fix for the repaired set (dataset/)."""
    fail_on: Literal["error", "warning", "note", "never"] = "error"
    """Exit with code 1 when a finding of this severity, or a worse one, remains."""
    clips_with_errors: Literal["leave_out", "keep"] = "leave_out"
    """Clips in which an error remains after --fix: leave them out of the repaired set, or keep them in it."""


@dataclass(frozen=True, kw_only=True)
class PrepareConfig(SourceConfig):
    """prepare: any RGBA source to XXX_rgb.mp4 + XXX_alpha.mp4 + metadata.csv."""

    synthetic: int = 0
    """Make this many procedural clips with exact alpha, alone or beside those of --source."""
    synthetic_kind: Literal["shapes", "materials", "cuts"] = "shapes"
    """shapes: flat subjects with captions that name them; materials: rock, metal, fire and smoke, for Stage 1's colours and textures;
    cuts: each frame from another material, for Stage 1 on effects drawn frame by frame."""
    height: int = 64
    """Frame height of procedural clips, and of every clip with --resize."""
    width: int = 64
    """Frame width of procedural clips, and of every clip with --resize."""
    resize: Literal["keep", "crop", "pad"] = "keep"
    """Size of source clips: their own; or height x width, covered and cropped, or fitted in with transparent borders."""
    rate: Literal["keep", "nearest", "blend"] = "keep"
    """Rate of source clips: their own; or --fps, by taking the nearest frame, or by blending the two around each moment."""
    windows: Literal["whole", "fixed", "scenes"] = "whole"
    """What becomes a clip: the whole file, every --num_frames frames of it, or each scene between two cuts."""
    on_bad_sample: Literal["error", "skip"] = "error"
    """A clip that cannot be read: stop with its name, or skip it and list it in the report."""
    clips_with_errors: Literal["leave_out", "keep"] = "keep"
    """Clips in which doctor finds an error, with --fix one that remains: keep them, or take each for a bad sample (--on_bad_sample)."""
    on_stop: Literal["clean", "keep"] = "clean"
    """After an error or Ctrl-C: drop what was finished, or keep it for the next run. A killed run always keeps it."""
