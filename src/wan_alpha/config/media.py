"""Settings of the stages that read and write clips."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wan_alpha.config.common import RunConfig


@dataclass(frozen=True, kw_only=True)
class ExportConfig(RunConfig):
    """export: an RGBA clip to files that keep its alpha, each read back and verified."""

    source: Path = Path("outputs/generated")
    """RGBA clip: a PNG folder, .webp, .mov, .webm; or a folder of such clips."""
    formats: tuple[Literal["png", "webp", "preview", "pair"], ...] = ("png", "webp", "preview", "pair")
    """png: straight RGBA frames; webp: lossless animation; preview: checkerboard mp4; pair: rgb.mp4 + alpha.mp4."""
    fps: float = 16.0
    """Frame rate for sources that have none of their own."""
