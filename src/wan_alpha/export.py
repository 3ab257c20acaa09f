"""export: an RGBA clip -> PNG frames, animated WebP, checkerboard preview, colour + matte. Masters are read back and verified.

OUTPUT_PATH/NAME/00000.png ...   straight RGBA        OUTPUT_PATH/NAME.webp          lossless, true timing
OUTPUT_PATH/NAME_preview.mp4     over a checkerboard  OUTPUT_PATH/NAME_rgb.mp4 + NAME_alpha.mp4
"""

import os
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from wan_alpha.config import ExportConfig
from wan_alpha.errors import UsageError, did_you_mean
from wan_alpha.media.atomic import remove, staging
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.find import FoundClip, find_clips
from wan_alpha.media.read import read_clip
from wan_alpha.media.verify import verify_pair, verify_rgba, verify_video
from wan_alpha.media.write import check_frame_folder, pair_paths, write_pair, write_png_sequence, write_preview_mp4, write_webp
from wan_alpha.preview import checkerboard
from wan_alpha.progress import progress
from wan_alpha.run_record import now, write_run_record

FORMATS = ("png", "webp", "preview", "pair")


def export(config: ExportConfig) -> list[Path]:
    """Write every clip of the source in every format; returns the files and frame folders. A clip that fails leaves no file of its own."""
    unknown = next((name for name in config.formats if name not in FORMATS), None)
    if unknown is not None:
        raise UsageError("--formats", got=unknown, expected=" ".join(FORMATS), do=did_you_mean(unknown, list(FORMATS)))
    if not config.formats:
        raise UsageError("--formats", got="none", expected=" ".join(FORMATS))
    found = find_clips(config.source, exclude=config.output_path)
    problem = next((clip.problem for clip in found if clip.problem is not None), None)
    if problem is not None:
        raise problem
    _refuse_overwriting_sources(found, config.output_path)
    started = now()
    written: list[Path] = []
    with progress("exporting", total=len(found)) as advance:
        for source in found:
            clip = read_clip(rgba=source.rgba, rgb=source.rgb, alpha=source.alpha, fps_if_unknown=config.fps)
            written += export_clip(clip, config.output_path / source.name, formats=config.formats)
            advance()
    write_run_record(config.output_path, verb="export", config=config, weights={}, started=started)
    return written


def export_clip(clip: RgbaClip, stem: Path, *, formats: tuple[str, ...] = FORMATS) -> list[Path]:
    """Write one clip as STEM/, STEM.webp, STEM_preview.mp4, STEM_rgb.mp4 + STEM_alpha.mp4 and verify each; all or nothing.

    Files are made in a folder beside the stem and move to their places once all of them have been verified.
    """
    if "png" in formats:
        check_frame_folder(stem)
    with staging(stem.with_name(stem.name + ".export")) as folder:
        for name in formats:
            _WRITERS[name](clip, folder / stem.name)
        written = [path.name for path in sorted(folder.iterdir())]
        for name in written:
            remove(stem.parent / name)
            os.replace(folder / name, stem.parent / name)
    return [stem.parent / path for path in written]


def checkerboard_frames(clip: RgbaClip) -> UInt8[np.ndarray, "T H W 3"]:
    """The clip over 8-pixel squares of 255 and 200, drawn at frame size; rounded once."""
    board = checkerboard(height=clip.height, width=clip.width).permute(1, 2, 0).numpy().astype(np.float32) * 255
    frames = np.empty_like(clip.rgb)
    for out, rgb, alpha in zip(frames, clip.rgb, clip.alpha, strict=True):
        share = alpha[..., None].astype(np.float32) / 255
        out[...] = np.rint(board + share * (rgb - board))
    return frames


def _png(clip: RgbaClip, stem: Path) -> None:
    write_png_sequence(clip, stem)
    verify_rgba(stem, clip)


def _webp(clip: RgbaClip, stem: Path) -> None:
    path = stem.with_name(stem.name + ".webp")
    write_webp(clip, path)
    verify_rgba(path, clip)


def _preview(clip: RgbaClip, stem: Path) -> None:
    path = stem.with_name(stem.name + "_preview.mp4")
    write_preview_mp4(checkerboard_frames(clip), path, fps=clip.fps)
    verify_video(path, num_frames=clip.num_frames, height=clip.height, width=clip.width)


def _pair(clip: RgbaClip, stem: Path) -> None:
    write_pair(clip, stem)
    verify_pair(*pair_paths(stem), clip)


_WRITERS = {"png": _png, "webp": _webp, "preview": _preview, "pair": _pair}


def _refuse_overwriting_sources(found: list[FoundClip], output: Path) -> None:
    for clip in found:
        for path in clip.files:
            targets = {output / clip.name, output / f"{clip.name}.webp", *pair_paths(output / clip.name)}
            if path.resolve() in {target.resolve() for target in targets}:
                raise UsageError(
                    "--output_path", got=f"{output}, where {path.name} would be overwritten", expected="another folder than the source's"
                )
