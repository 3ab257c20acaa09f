"""Settings of the stages that read and write clips."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wan_alpha.config.common import RunConfig


@dataclass(frozen=True, kw_only=True)
class PrepareConfig(RunConfig):
    """prepare: any RGBA source to XXX_rgb.mp4 + XXX_alpha.mp4 + metadata.csv."""

    source: Path | None = None
    """Folder of RGBA clips or colour+matte pairs."""
    synthetic: int = 0
    """Make this many procedural clips with exact alpha, alone or beside those of --source."""
    height: int = 64
    """Frame height of procedural clips."""
    width: int = 64
    """Frame width of procedural clips."""
    num_frames: int = 17
    """Frames of procedural clips."""
    fps: float = 16.0
    """Frame rate of procedural clips and of image folders, which have none of their own."""
    split: str | None = None
    """With a manifest.json that has splits in the source folder: only this split (train, validation)."""
    on_bad_sample: Literal["error", "skip"] = "error"
    """A clip that cannot be read: stop with its name, or skip it and list it in the report."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig(RunConfig):
    """export: an RGBA clip to files that keep its alpha, each read back and verified."""

    source: Path = Path("outputs/generated")
    """RGBA clip: a PNG folder, .webp, .mov, .webm; or a folder of such clips."""
    formats: tuple[Literal["png", "webp", "preview", "pair"], ...] = ("png", "webp", "preview", "pair")
    """png: straight RGBA frames; webp: lossless animation; preview: checkerboard mp4; pair: rgb.mp4 + alpha.mp4."""
    fps: float = 16.0
    """Frame rate for sources that have none of their own."""
