"""prepare: any RGBA source -> XXX_rgb.mp4 + XXX_alpha.mp4 + metadata.csv + report.json + a contact sheet, each pair read back and compared.

A clip is read, examined (wan_alpha.findings), repaired if asked to, brought to rate, size and length, written and verified, by itself
and in any process. Everything is made in OUTPUT_PATH.partial and moved when the last clip is done; a killed run goes on from there.
"""

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from wan_alpha import __version__
from wan_alpha.clip_sheet import MAX_ROWS, draw_sheet
from wan_alpha.config import PrepareConfig
from wan_alpha.data.conform import at_rate, at_size, fixed_windows, frames_at, scaled_size, scene_windows
from wan_alpha.data.manifest import TABLE_SUFFIXES
from wan_alpha.data.sources import FileSource, Source, procedural_sources
from wan_alpha.data.work import WorkFolder, key_of, work_folder
from wan_alpha.dataset_report import TABLE, ClipReport, PrepareReport, clip_report_from, clips_of_report, diagnosis_from, write_tables
from wan_alpha.diagnosis import (
    Diagnosis,
    captioner_of,
    diagnosis_of,
    expected_of,
    file_findings,
    join_duplicates,
    listed_sources,
    read_source,
    series_rates,
)
from wan_alpha.errors import DatasetError, DiskFull, MediaError, UsageError, WanAlphaError
from wan_alpha.findings.caption import caption_findings
from wan_alpha.findings.duplicates import Signature, signature
from wan_alpha.findings.examine import examine
from wan_alpha.findings.finding import Finding
from wan_alpha.findings.frame import scene_cuts
from wan_alpha.findings.repair import ORDER, repair
from wan_alpha.geometry import ClipSize
from wan_alpha.media.clip import RgbaClip, check_size, out_of_memory
from wan_alpha.media.find import FoundClip
from wan_alpha.media.left_out import DATASET_SHEET
from wan_alpha.media.naming import check_name
from wan_alpha.media.timeline import constant_rate
from wan_alpha.media.verify import ReadBack, verify_pair
from wan_alpha.media.write import pair_paths, write_pair
from wan_alpha.processes import ProcessDied, run_all
from wan_alpha.progress import progress
from wan_alpha.run_record import config_as_json, now, write_run_record

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Task:
    source: Source
    config: PrepareConfig
    work: WorkFolder


@dataclass(frozen=True, kw_only=True)
class _Made:
    """What became of one source: its clips, or the problem that prevented them."""

    source: Source
    clips: tuple[ClipReport, ...] = ()
    diagnosis: Diagnosis | None = None
    signature: Signature | None = None
    problem: WanAlphaError | None = None


class NoClipUsable(DatasetError):
    """Every clip was left out."""


def prepare(config: PrepareConfig, *, files: Sequence[FileSource] | None = None) -> PrepareReport:
    """Make the dataset. DatasetError or MediaError names the clip that cannot be used.

    files: the clips of config.source, for a caller that has listed them and knows their captions.
    """
    sources = _sources(config, files)
    if config.output_path.exists() and not config.output_path.is_dir():
        raise UsageError("--output_path", got=f"the file {config.output_path}", expected="a folder")
    if config.output_path.exists() and not os.access(config.output_path, os.W_OK | os.X_OK):  # else told after all the work
        raise UsageError("--output_path", got=f"{config.output_path}, where you may not write", expected="another folder")
    started = now()
    with work_folder(config.output_path, on_stop=config.on_stop) as work:
        report = _prepare_all(sources, config, work)
        made = [path.name for clip in report.clips for path in pair_paths(work.path / clip.video)]
        tables = write_tables(report, work.path)
        draw_sheet([_prepared(clip, work.path) for clip in report.clips[:MAX_ROWS]], work.path / DATASET_SHEET)
        record = write_run_record(work.path, verb="prepare", config=config, weights={}, started=started)
        work.keep_only({*made, *tables, DATASET_SHEET, record.name})
        _publish(work.path, config.output_path)
    return report


def _sources(config: PrepareConfig, listed: Sequence[FileSource] | None) -> list[Source]:
    size = ClipSize(num_frames=config.num_frames, height=config.height, width=config.width)
    if config.source is not None and config.output_path.resolve() in (config.source.resolve(), _folder_of_table(config.source)):
        raise UsageError("--output_path", got="the source folder", expected="another folder")
    files = listed if listed is not None else [] if config.source is None else listed_sources(config, exclude=config.output_path)
    inside = next((path for source in files for path in source.found.files if _would_be_replaced(path, config.output_path)), None)
    if inside is not None:
        raise UsageError("--output_path", got=f"{config.output_path}, where {inside.name} would be replaced", expected="another folder")
    kind = config.synthetic_kind
    sources: list[Source] = [*files, *procedural_sources(config.synthetic, kind=kind, seed=config.seed, size=size, fps=config.fps)]
    if not sources:
        raise UsageError("prepare", got="no source", expected="--source FOLDER, --synthetic N, or both")
    names = Counter(source.name.casefold() for source in sources)
    twice = next((source for source in sources if names[source.name.casefold()] > 1), None)
    if twice is not None:
        raise DatasetError(twice.origin()[0], got=f"the name {twice.name!r} twice", expected="different names", do="rename the file")
    return sources


def _folder_of_table(source: Path) -> Path | None:
    return source.resolve().parent if source.suffix.lower() in TABLE_SUFFIXES else None


def _would_be_replaced(path: Path, output: Path) -> bool:
    """Whether a source is named like a half of a prepared clip, in the folder of these."""
    return path.resolve().parent == output.resolve() and path.name in [half.name for half in pair_paths(Path(path.stem.rpartition("_")[0]))]


def _prepare_all(sources: list[Source], config: PrepareConfig, work: WorkFolder) -> PrepareReport:
    """Order of the report is the sources' order, whichever process finishes first."""
    tasks = [_Task(source=source, config=config, work=work) for source in sources]
    made: dict[int, _Made] = {}
    with progress("preparing", total=len(tasks)) as advance:
        for index, result in run_all(_make, tasks, num_workers=config.num_workers):
            made[index] = _died(sources[index]) if isinstance(result, ProcessDied) else result
            problem = made[index].problem
            if problem is not None:
                if config.on_bad_sample == "error":
                    raise problem
                log.warning("skipped %s: %s", sources[index].name, problem)
            advance()
    in_order = [made[index] for index in range(len(tasks))]
    skipped = tuple((one.source.name, str(one.problem)) for one in in_order if one.problem)
    clips = tuple(clip for one in in_order for clip in one.clips)
    if not clips:
        raise NoClipUsable(config.source, got=f"{len(skipped)} clips, none of them usable", expected="at least one", do=skipped[0][1])
    diagnoses = join_duplicates([(one.diagnosis, one.signature) for one in in_order if one.diagnosis])
    return PrepareReport(output_path=str(config.output_path), clips=clips, skipped=skipped, diagnoses=tuple(diagnoses))


def _died(source: Source) -> _Made:
    problem = MediaError(
        source.origin()[0],
        got="a process that ended while it worked on the clip",
        expected="a clip that can be read in the memory there is",
        do="check that the file plays; use fewer --num_workers",
    )
    return _Made(source=source, problem=problem)


def _make(task: _Task) -> _Made:
    try:
        check_name(task.source.name, task.source.origin()[0])
        return _finished(task) or _make_now(task)
    except DiskFull:
        raise
    except (DatasetError, MediaError) as error:
        return _Made(source=task.source, problem=error)
    except (MemoryError, RuntimeError) as error:
        from wan_alpha.memory import is_out_of_memory  # torch, which most runs do without

        if not is_out_of_memory(error):
            raise
        do = "use a smaller --height and --width or a lower --fps, where they are changed, or fewer --num_workers"
        return _Made(source=task.source, problem=out_of_memory(task.source.origin()[0], error, do=do))


def _key(task: _Task) -> str:
    """Everything that the prepared files depend on: the source's bytes, stated rates and written caption, the settings, this version."""
    choice = {"source", "split", "synthetic", "synthetic_kind", "seed"}
    unimportant = choice | {"output_path", "num_workers", "on_bad_sample", "on_stop", "device"}
    settings = {name: value for name, value in config_as_json(task.config).items() if name not in unimportant}
    return key_of(__version__, task.source.digest(), series_rates(task.source), task.source.caption(), settings)


def _finished(task: _Task) -> _Made | None:
    """What an earlier run made of the same source with the same settings."""
    result = task.work.finished(task.source.name, _key(task))
    if result is None:
        return None
    return _Made(
        source=task.source,
        clips=tuple(clip_report_from(values) for values in result["clips"]),
        diagnosis=diagnosis_from(result["diagnosis"]),
        signature=np.frombuffer(bytes.fromhex(result["signature"]), np.uint8),
    )


def _make_now(task: _Task) -> _Made:
    source, config = task.source, task.config
    clip, findings, changes = _read(source, config)
    if config.clips_with_errors == "leave_out":
        _refuse_errors(source, findings)
    prompt = source.caption(captioner_of(config))
    reports: list[ClipReport] = []
    files: list[Path] = []
    for start, piece, done in _pieces(clip, source, config):
        name = source.name if config.windows == "whole" else f"{source.name}_{start:05d}"
        paths = write_pair(piece, task.work.path / name)
        error = verify_pair(*paths, piece)
        files += paths
        reports.append(_report(piece, name=name, prompt=prompt, source=source, start=start, changes=(*changes, *done), error=error))
    diagnosis = diagnosis_of(source, clip, caption=prompt, findings=[*findings, *caption_findings(prompt)])
    looks = signature(clip.rgb, clip.alpha)
    result = {"clips": [asdict(report) for report in reports], "diagnosis": asdict(diagnosis), "signature": looks.tobytes().hex()}
    task.work.finish(source.name, _key(task), files=files, result=result)
    return _Made(source=source, clips=tuple(reports), diagnosis=diagnosis, signature=looks)


def _read(source: Source, config: PrepareConfig) -> tuple[RgbaClip, list[Finding], tuple[str, ...]]:
    """The clip, with --fix repaired; what is still wrong with it; what was repaired."""
    expected = expected_of(config)
    if not config.fix:
        files = file_findings(source)
        clip = source.read()
        return clip, [*files, *examine(clip, expected=expected)], clip.reading
    files = []
    clip = read_source(source, files)
    found = [*files, *examine(clip, expected=expected)]
    repairs = {finding.repair: finding for finding in found if finding.repair}
    clip = repair(clip, repairs)
    changes = (*clip.reading, *(f"{kind}: {repairs[kind].says}" for kind in ORDER if kind in repairs))
    remaining = [finding for finding in files if finding.repair is None]
    # The copies have a constant rate (_pieces).
    return clip, [*remaining, *examine(replace(clip, times=None), expected=expected)], changes


def _refuse_errors(source: Source, findings: list[Finding]) -> None:
    worst = next((found for found in findings if found.severity == "error"), None)
    if worst is not None:
        do = f"{worst.do}; --clips_with_errors keep takes it as it is"
        raise DatasetError(source.origin()[0], got=f"{worst.name}: {worst.says}", expected="a clip without errors", do=do)


def _prepared(clip: ClipReport, folder: Path) -> FoundClip:
    rgb, alpha = pair_paths(folder / clip.video)
    return FoundClip(name=clip.video, rgb=rgb, alpha=alpha)


def _pieces(clip: RgbaClip, source: Source, config: PrepareConfig) -> Iterator[tuple[int, RgbaClip, tuple[str, ...]]]:
    """(first frame, clip, changes) after rate, size and windows."""
    clip, evened = constant_rate(clip, Path(source.origin()[0]), how=config.variable_rate)
    changes = [*evened]
    if config.rate != "keep" and clip.fps != config.fps:
        changes.append(f"rate: {clip.fps:g} to {config.fps:g} frames per second, {config.rate}")
        _check_size(clip, source, num_frames=frames_at(clip, fps=config.fps), do="use a lower --fps")
        clip = at_rate(clip, fps=config.fps, kind=config.rate)
    windows = {
        "whole": lambda: [(0, clip.num_frames)],
        "fixed": lambda: fixed_windows(clip.num_frames, length=config.num_frames),
        "scenes": lambda: scene_windows(clip.num_frames, cuts=scene_cuts(clip.rgb, clip.alpha)),
    }[config.windows]()
    if config.resize != "keep" and (clip.height, clip.width) != (config.height, config.width):
        changes.append(f"size: {clip.width}x{clip.height} to {config.width}x{config.height}, {config.resize}")
        height, width = scaled_size(clip, height=config.height, width=config.width, fill=config.resize)
        for scaled in ((height, width), (config.height, config.width)):
            _check_size(clip, source, height=scaled[0], width=scaled[1], do="use a smaller --height and --width, or another --resize")
        clip = at_size(clip, height=config.height, width=config.width, fill=config.resize)
    for start, end in windows:
        window = (f"frames {start} to {end - 1} of {clip.num_frames}",) if end - start < clip.num_frames else ()
        piece = replace(clip, rgb=clip.rgb[start:end], alpha=clip.alpha[start:end])
        yield start, piece, (*changes, *window)


def _check_size(clip: RgbaClip, source: Source, *, do: str, **changed: int) -> None:
    """MediaError where the clip with a CHANGED num_frames, height or width would be larger than one that can be read."""
    size = {"num_frames": clip.num_frames, "height": clip.height, "width": clip.width, **changed}
    check_size(Path(source.origin()[0]), **size, do=do)


def _report(clip: RgbaClip, *, name: str, prompt: str, source: Source, start: int, changes: tuple[str, ...], error: ReadBack) -> ClipReport:
    low, high = int(clip.alpha.min()), int(clip.alpha.max())
    notes = tuple(note for note, true in (("fully opaque", low == 255), ("fully transparent", high == 0)) if true)
    for note in notes:
        log.warning("%s: %s in every frame", name, note)
    return ClipReport(
        video=name,
        prompt=prompt,
        frames=clip.num_frames,
        height=clip.height,
        width=clip.width,
        fps=clip.fps,
        source=source.origin(),
        sha256=source.digest(),
        start=start,
        changes=changes,
        alpha_min=low,
        alpha_max=high,
        almost_zero_share=round(float(np.mean((clip.alpha > 0) & (clip.alpha <= 8))), 6),
        notes=notes,
        assumed_matrix=clip.assumed_matrix,
        alpha_evidence=clip.evidence,
        **asdict(error),
    )


def _publish(folder: Path, output: Path) -> None:
    """Put the finished dataset in place. Into an existing folder, files move one by one with the table last.

    Clips that the report of an older set there names and the new set lacks go: beside the new table they would be clips of no row.
    """
    if not output.exists():
        os.replace(folder, output)
        return
    (output / TABLE).unlink(missing_ok=True)
    old = [path for name in clips_of_report(output) for path in pair_paths(output / name) if path.is_file()]
    stale = [path for path in old if not (folder / path.name).exists()]
    for path in stale:
        path.unlink()
    if stale:
        log.warning("%s: %d files of an older set of clips are removed, such as %s", output, len(stale), stale[0].name)
    for path in sorted(folder.iterdir(), key=lambda path: path.name == TABLE):
        os.replace(path, output / path.name)
