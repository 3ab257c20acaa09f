"""export: an RGBA clip -> files that keep its alpha, each read back and compared; a sidecar says what was written and how it came back.

OUTPUT_PATH/NAME/00000.png ...   NAME_png.zip   NAME.webp   NAME.apng   NAME.mov   NAME.webm   NAME.mkv   NAME_exr/00000.exr ...
OUTPUT_PATH/NAME_rgb.mp4 + NAME_alpha.mp4   NAME_preview.mp4   NAME_export.json   export_sheet.png
"""

import itertools
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from wan_alpha.clip_sheet import MAX_ROWS, Row, thumbnails
from wan_alpha.config import ExportConfig
from wan_alpha.data.sources import clips_of
from wan_alpha.errors import DatasetError, DiskFull, MediaError, UsageError, WanAlphaError, did_you_mean
from wan_alpha.media.atomic import check_place, staging, take_place
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.fill import fill_hidden
from wan_alpha.media.find import FoundClip
from wan_alpha.media.formats import FORMATS, WriteOptions, ending, write_format
from wan_alpha.media.left_out import EXPORT_SHEET, PREVIEW_ENDING
from wan_alpha.media.naming import check_name
from wan_alpha.media.read import ReadSettings, is_square, lacks_rate, pixel_aspect, read_clip
from wan_alpha.media.record import read_record
from wan_alpha.media.sidecar import SIDECAR_ENDING
from wan_alpha.media.timeline import constant_rate
from wan_alpha.media.verify import verify_preview
from wan_alpha.media.write import check_frame_folder, write_preview_mp4
from wan_alpha.preview import checkerboard, write_sheet
from wan_alpha.progress import progress
from wan_alpha.run_record import now, write_run_record

log = logging.getLogger(__name__)

FAILED_EXIT = 1
PREVIEW, ASSUMED_FPS = "preview", 16.0
COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
BACKGROUNDS = {"black": "#000000", "white": "#ffffff"}


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written, and why each clip that is not among it could not be (on_bad_sample = skip)."""

    files: tuple[Path, ...]
    failed: Mapping[str, str]

    @property
    def exit_code(self) -> int:
        """1 when a clip is missing, else 0."""
        return FAILED_EXIT if self.failed else 0

    def summary(self) -> list[str]:
        reasons = [f"not exported: {name}: {why}" for name, why in self.failed.items()]
        last = [f"{len(self.failed)} clips could not be exported: {', '.join(self.failed)}"] if self.failed else []
        return [*map(str, self.files), *reasons, *last]


def export(config: ExportConfig) -> Exported:
    """Write every clip of the source in every format. A clip that fails leaves no file of its own; the first one is the end, or is skipped.

    The first clips are drawn on export_sheet.png besides, where there is room for it. DatasetError when no clip is left.
    """
    _check(config)
    found = clips_of(config.source, exclude=config.output_path)
    problem = next((clip.problem for clip in found if clip.problem is not None), None)
    if problem is not None and config.on_bad_sample == "error":
        raise problem
    _refuse_overwriting_sources(found, config.output_path)
    _refuse_one_place_for_two(found, config.formats)
    started = now()
    written: list[Path] = []
    failed: dict[str, WanAlphaError] = {}
    rows: list[Row] = []
    with progress("exporting", total=len(found)) as advance:
        for source in found:
            try:
                clip, changes = _read(source, config)
                written += export_clip(clip, config.output_path / source.name, config=config, changes=changes)
                rows += [thumbnails(clip)] if len(rows) < MAX_ROWS else []
            except (DatasetError, MediaError) as error:
                if config.on_bad_sample == "error" or isinstance(error, DiskFull):
                    raise
                log.warning("skipped %s: %s", source.name, error)
                failed[source.name] = error
            advance()
    if not written:
        raise DatasetError(
            config.source, got=f"{len(found)} clips, none of them usable", expected="at least one", do=str(next(iter(failed.values())))
        )
    _draw(rows, config.output_path / EXPORT_SHEET)
    write_run_record(config.output_path, verb="export", config=config, weights={}, started=started)
    return Exported(files=tuple(written), failed={name: str(error) for name, error in failed.items()})


def _draw(rows: list[tuple[Tensor, Tensor]], path: Path) -> None:
    """The contact sheet is a convenience: where the disk is full, verified clips and the record of the run stand without it."""
    try:
        write_sheet(rows, path)
    except MediaError as error:
        log.warning("no contact sheet: %s", error)


def export_clip(clip: RgbaClip, stem: Path, *, config: ExportConfig, changes: tuple[str, ...] = ()) -> list[Path]:
    """Write one clip, filled as the config says, in its formats, as files that begin with STEM, and verify each; all or nothing.

    Files are made in a folder beside the stem and move to their places once all of them have been verified. Returns them, without
    the sidecar. CHANGES: what was done to the source before, for the sidecar.
    """
    for name in ("png", "exr"):
        if name in config.formats:
            check_frame_folder(ending(stem, FORMATS[name].endings[0]))
    options = WriteOptions(alpha_mode=config.alpha_mode, webp_quality=config.webp_quality, exr_transfer=config.exr_transfer)
    with staging(ending(stem, ".export")) as folder:
        made = folder / stem.name
        files = [asdict(write_format(clip, made, name=name, options=options)) for name in config.formats if name != PREVIEW]
        if PREVIEW in config.formats:
            path = ending(made, PREVIEW_ENDING)
            shown = over_background(clip, config.preview_background)
            write_preview_mp4(shown, path, fps=clip.fps, record=clip.record)
            verify_preview(path, shown, fps=clip.fps)
            files.append({"files": [path.name], "format": PREVIEW, "background": config.preview_background})
        written = [path.name for path in sorted(folder.iterdir())]
        size = {"frames": clip.num_frames, "height": clip.height, "width": clip.width, "fps": clip.fps}
        sidecar: dict[str, object] = {**size, "changes": changes, "matte_fill": config.matte_fill, "written": files}
        sidecar |= {} if clip.assumed_matrix is None else {"assumed_matrix": clip.assumed_matrix}
        sidecar |= {} if clip.evidence is None else {"alpha_evidence": clip.evidence}
        sidecar |= {} if clip.record is None else {"record": json.loads(clip.record)}
        ending(made, SIDECAR_ENDING).write_text(json.dumps(sidecar, indent=1) + "\n", encoding="utf-8")
        names = [*written, stem.name + SIDECAR_ENDING]
        for name in names:
            check_place(stem.parent / name, by=folder / name)
        for name in names:
            take_place(folder / name, stem.parent / name)
    return [stem.parent / name for name in written]


def over_background(clip: RgbaClip, background: str) -> UInt8[np.ndarray, "T H W 3"]:
    """The clip over 8-pixel squares of 255 and 200, drawn at frame size, or over black, white or #RRGGBB; rounded once."""
    clip = clip.with_bits(8)
    if background == "checkerboard":
        behind = checkerboard(height=clip.height, width=clip.width).permute(1, 2, 0).numpy().astype(np.float32) * 255
    else:
        behind = np.frombuffer(bytes.fromhex(BACKGROUNDS.get(background, background)[1:]), np.uint8).astype(np.float32)
    frames = np.empty_like(clip.rgb)
    for out, rgb, alpha in zip(frames, clip.rgb, clip.alpha, strict=True):
        share = alpha[..., None].astype(np.float32) / 255
        out[...] = np.rint(behind + share * (rgb - behind))
    return frames


def _read(source: FoundClip, config: ExportConfig) -> tuple[RgbaClip, tuple[str, ...]]:
    """The clip at a constant rate, and in words what was changed for that, or taken to be otherwise than its file says.

    Its problem, if it has one, as error.
    """
    if source.problem is not None:
        raise source.problem
    check_name(source.name, source.files[0])
    clip = read_clip(
        rgba=source.rgba,
        rgb=source.rgb,
        alpha=source.alpha,
        bits=8 if config.bits == "8" else 16,
        settings=ReadSettings(
            fps_if_unknown=ASSUMED_FPS if config.fps is None else config.fps, alpha_mode=config.source_alpha, matrix=config.matrix
        ),
    )
    clip = replace(clip.with_bits(16) if config.bits == "16" else clip, record=read_record(source.files[0]))
    clip, changes = constant_rate(clip, source.files[0], how=config.variable_rate)
    return fill_hidden(clip, config.matte_fill), (*clip.reading, *changes, *_assumed(source, config))


def _assumed(source: FoundClip, config: ExportConfig) -> tuple[str, ...]:
    """What was taken to be so without, or against, the file's word; each is a warning too."""
    assumed = []
    if config.fps is None and lacks_rate(source.files):
        assumed.append((f"no rate stated, {ASSUMED_FPS:g} frames per second assumed", "--fps names it"))
    aspect = pixel_aspect(source.files[0])
    if not is_square(aspect):
        change = f"pixels {aspect:.6g} times as wide as high, taken as square"
        assumed.append((change, "make them square before, or the picture is distorted"))
    for change, do in assumed:
        log.warning("%s: %s; %s", source.files[0], change, do)
    return tuple(change for change, _ in assumed)


def _check(config: ExportConfig) -> None:
    known = [*FORMATS, PREVIEW]
    unknown = next((name for name in config.formats if name not in known), None)
    if unknown is not None:
        raise UsageError("--formats", got=unknown, expected=" ".join(known), do=did_you_mean(unknown, known))
    if not config.formats:
        raise UsageError("--formats", got="none", expected=" ".join(known))
    straight = [name for name in config.formats if name != PREVIEW and config.alpha_mode not in FORMATS[name].alpha_modes]
    if straight:
        able = [name for name, spec in FORMATS.items() if config.alpha_mode in spec.alpha_modes]
        got, do = f"{config.alpha_mode} with {' '.join(straight)}", f"use --formats {' '.join(able)}"
        raise UsageError("--alpha_mode", got=got, expected="straight, which these formats are by definition", do=do)
    background = config.preview_background
    if background != "checkerboard" and not COLOUR.fullmatch(BACKGROUNDS.get(background, background)):
        raise UsageError("--preview_background", got=background, expected="checkerboard, black, white or a colour as #RRGGBB")


def _refuse_overwriting_sources(found: list[FoundClip], output: Path) -> None:
    endings = [text for spec in FORMATS.values() for text in spec.endings]
    for clip in found:
        targets = {path.resolve() for path in (output / EXPORT_SHEET, *(ending(output / clip.name, text) for text in endings))}
        for path in clip.files:
            if path.resolve() in targets:
                raise UsageError(
                    "--output_path", got=f"{output}, where {path.name} would be overwritten", expected="another folder than the source's"
                )


def _refuse_one_place_for_two(found: list[FoundClip], formats: Sequence[str]) -> None:
    """The frames of clip a_exr would take the place of clip a in EXR."""
    taken: dict[str, FoundClip] = {}
    endings = [text for name in formats if name != PREVIEW for text in FORMATS[name].endings]
    for clip, text in itertools.product(found, dict.fromkeys(endings)):
        other = taken.setdefault((clip.name + text).casefold(), clip)
        if other is not clip:
            got = f"{clip.name}{text} for this clip and for {other.files[0]}"
            raise DatasetError(clip.files[0], got=got, expected="a place for each", do="rename one, or export them into two folders")
