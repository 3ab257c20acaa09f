"""Settings of the stages that read and write clips."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wan_alpha.config.common import ClipConfig, ReadConfig, RunConfig


@dataclass(frozen=True, kw_only=True)
class ExportConfig(RunConfig, ClipConfig):
    """export: an RGBA clip to files that keep its alpha, each read back and verified."""

    source: Path = Path("outputs/generated")
    """RGBA clip: a PNG folder, .webp, .mov, .webm; half of a colour + matte pair; or a folder or table of such clips."""
    formats: tuple[Literal["png", "zip", "webp", "apng", "prores", "webm", "ffv1", "pair", "exr", "preview"], ...] = (
        "png",
        "webp",
        "preview",
        "pair",
    )
    """png, zip: frames; webp, apng: animations; prores: .mov for editors; webm: VP9 for the web; ffv1: lossless .mkv; pair: rgb.mp4 +
    alpha.mp4; exr: half floats (extra 'exr'); preview: opaque mp4. All are in docs/formats.md."""
    bits: Literal["auto", "8", "16"] = "auto"
    """Bits per channel in png, zip, prores, ffv1 and exr; auto: 16 where the source's alpha has more than 8."""
    alpha_mode: Literal["straight", "premultiplied"] = "straight"
    """Colour of the files: premultiplied is for prores, ffv1, pair and exr (EXR always is), whose metadata and sidecar say so."""
    matte_fill: Literal["bleed", "black", "keep"] = "bleed"
    """Colour under alpha 0: edge colours bled outward, so that scaled edges show no halo; black; or the source's own."""
    webp_quality: int | None = None
    """0 to 100: lossy colour with exact alpha. None is lossless."""
    exr_transfer: Literal["linear", "display"] = "linear"
    """EXR colour as light, which compositors expect, or as sRGB values."""
    preview_background: str = "checkerboard"
    """Behind the preview: checkerboard, black, white, or a colour as #RRGGBB."""
    fps: float | None = None
    """Frame rate of sources that state none: folders and zips of frames without export's or generate's record beside them. Default: 16,
    as a warning says."""
    on_bad_sample: Literal["error", "skip"] = "error"
    """A clip that cannot be exported: stop with its name, or skip it, name it at the end, and exit with code 1."""


@dataclass(frozen=True, kw_only=True)
class PreviewConfig(RunConfig, ReadConfig):
    """preview: a sheet of frames over checkerboard, black and white, and of alpha, as one PNG."""

    source: Path = Path("outputs/generated")
    """RGBA clip, half of a colour + matte pair, or a folder or table of clips: a row for each that can be read."""
    output_path: Path = Path("preview.png")
    """The PNG to write."""
    frames: int = 3
    """Frames of each clip, spread evenly over it."""
    max_side: int = 192
    """Larger pictures are scaled down to it."""
    max_rows: int = 24
    """Clips shown at most."""
