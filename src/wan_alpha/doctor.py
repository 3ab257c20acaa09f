"""doctor: what is wrong with a folder of clips. OUTPUT_PATH/report.json and page.html; with --fix a repaired set in OUTPUT_PATH/dataset.

Sources are read, never written. With --fix, prepare makes the repaired copies, and what then remains decides the exit code.
"""

import io
import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
from PIL import Image

from wan_alpha.config import DoctorConfig, PrepareConfig, SourceConfig
from wan_alpha.data.sources import FileSource
from wan_alpha.dataset_report import REPORT, PrepareReport
from wan_alpha.diagnosis import (
    UNREADABLE_CAPTION,
    Diagnosis,
    Examined,
    captioner_of,
    diagnose,
    expected_of,
    join_duplicates,
    listed_sources,
    unreadable,
)
from wan_alpha.errors import DatasetError, MediaError
from wan_alpha.findings.duplicates import Signature
from wan_alpha.findings.finding import SEVERITIES, sampled
from wan_alpha.media.atomic import alone_in, beside
from wan_alpha.page import Page, Picture, Row, write_page
from wan_alpha.prepare import NoClipUsable, prepare
from wan_alpha.processes import ProcessDied, run_all
from wan_alpha.progress import progress
from wan_alpha.run_record import now, write_run_record

log = logging.getLogger(__name__)

PAGE, DATASET = "page.html", "dataset"
FINDINGS_EXIT = 1
MAX_LINES, MAX_NAMES, MAX_PICTURED, THUMBNAIL, MAX_PICTURES = 40, 20, 200, 160, 3


@dataclass(frozen=True, kw_only=True)
class DoctorReport:
    """diagnoses: one per source, in order; repaired: what prepare made of them with --fix, or why it made nothing."""

    source: str
    output_path: str
    fail_on: str
    diagnoses: tuple[Diagnosis, ...]
    repaired: PrepareReport | str | None = None

    @property
    def remaining(self) -> tuple[Diagnosis, ...]:
        """What is wrong after the repairs, where any were made. A clip that was left out is not in the repaired set."""
        return self.repaired.diagnoses if isinstance(self.repaired, PrepareReport) else self.diagnoses

    @property
    def exit_code(self) -> int:
        """1 when a remaining finding is as severe as fail_on, else 0."""
        if self.fail_on == "never":
            return 0
        least = SEVERITIES.index(self.fail_on)  # type: ignore[arg-type]
        return FINDINGS_EXIT if any(d.worst and SEVERITIES.index(d.worst) >= least for d in self.remaining) else 0

    def summary(self) -> list[str]:
        """Errors, then warnings, one line each up to 40; notes as counts."""
        counts = Counter(found.severity for diagnosis in self.diagnoses for found in diagnosis.findings)
        told = ", ".join(f"{counts[severity]} {severity}{'s' * (counts[severity] != 1)}" for severity in reversed(SEVERITIES))
        pairs = [(found, diagnosis.name) for diagnosis in self.diagnoses for found in diagnosis.findings if found.severity != "note"]
        pairs.sort(key=lambda pair: -SEVERITIES.index(pair[0].severity))
        lines = [f"{name}: {found.line()}" for found, name in pairs[:MAX_LINES]]
        if len(pairs) > MAX_LINES:
            lines.append(f"... and {len(pairs) - MAX_LINES} more")
        notes = Counter(found.name for diagnosis in self.diagnoses for found in diagnosis.findings if found.severity == "note")
        return [
            *lines,
            *(f"note: {name}: {count} clips" for name, count in notes.most_common()),
            f"{self.source}: {len(self.diagnoses)} clips, {told}; see {self.output_path}/{PAGE} and {self.output_path}/{REPORT}",
            *self._of_copies(),
        ]

    def _of_copies(self) -> list[str]:
        """What became of the repaired set; the last line names what is not in it."""
        if not isinstance(self.repaired, PrepareReport):
            return [] if self.repaired is None else [f"no repaired copies: {self.repaired}"]
        names = [name for name, _ in self.repaired.skipped]
        more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
        left_out = f"left out of {self.repaired.output_path}: {', '.join(names[:MAX_NAMES])}{more}"
        return [*self.repaired.summary(), *([left_out] if names else [])]


def doctor(config: DoctorConfig) -> DoctorReport:
    """Examine every clip of the source folder. DatasetError for a folder without clips; a bad clip is a finding, not an error.

    UsageError when another run works in the output folder.
    """
    with alone_in(config.output_path):
        return _doctor(config)


def _doctor(config: DoctorConfig) -> DoctorReport:
    started = now()
    sources = listed_sources(config, exclude=config.output_path)
    tasks = [_Task(source=source, config=config) for source in sources]
    seen: dict[int, _Seen] = {}
    with progress("examining", total=len(tasks)) as advance:
        for index, result in run_all(_see, tasks, num_workers=config.num_workers):
            seen[index] = _died(sources[index]) if isinstance(result, ProcessDied) else result
            advance()
    in_order = [seen[index] for index in range(len(tasks))]
    diagnoses = join_duplicates([(one.diagnosis, one.signature) for one in in_order])
    captioned = [_captioned(source, one.diagnosis, config) for source, one in zip(sources, in_order, strict=True)]
    report = DoctorReport(
        source=str(config.source),
        output_path=str(config.output_path),
        fail_on=config.fail_on,
        diagnoses=tuple(diagnoses),
        repaired=_repaired(config, captioned) if config.fix else None,
    )
    _write(report, [one.pictures for one in in_order], config.output_path)
    write_run_record(config.output_path, verb="doctor", config=config, weights={}, started=started)
    return report


@dataclass(frozen=True, kw_only=True)
class _Task:
    source: FileSource
    config: DoctorConfig


@dataclass(frozen=True, kw_only=True)
class _Seen:
    diagnosis: Diagnosis
    signature: Signature | None = None
    pictures: tuple[Picture, ...] = ()


def _see(task: _Task) -> _Seen:
    examined = diagnose(task.source, expected=expected_of(task.config), captioner=captioner_of(task.config))
    return _Seen(diagnosis=examined.diagnosis, signature=examined.signature, pictures=_pictures(examined))


def _died(source: FileSource) -> _Seen:
    error = MediaError(source.origin()[0], got="a process that ended while it read the clip", expected="a clip that can be read")
    return _Seen(diagnosis=Diagnosis(name=source.name, origin=source.origin(), findings=(unreadable("unreadable file", error),)))


def _captioned(source: FileSource, diagnosis: Diagnosis, config: DoctorConfig) -> FileSource:
    """The source with what the user's captioner said of it in the examination, or said not: it is asked once."""
    failed = next((found for found in diagnosis.findings if found.name == UNREADABLE_CAPTION), None)
    if failed is not None:
        return replace(source, found=replace(source.found, problem=source.found.problem or DatasetError(failed.says)))
    return replace(source, row_caption=diagnosis.caption) if config.caption_command and diagnosis.caption else source


def _repaired(config: DoctorConfig, sources: Sequence[FileSource]) -> PrepareReport | str:
    """What prepare makes with --fix of the same sources, in the doctor's folder; why there is nothing, if no clip is left.

    Left out are clips that cannot be read, and those with errors that no repair undoes, unless the settings keep them.
    """
    shared = {field.name: getattr(config, field.name) for field in fields(SourceConfig)}
    own = {"output_path": config.output_path / DATASET, "on_bad_sample": "skip", "clips_with_errors": config.clips_with_errors}
    try:
        return prepare(PrepareConfig(**{**shared, **own}), files=sources)
    except NoClipUsable as error:
        return str(error)


def _pictures(examined: Examined) -> tuple[Picture, ...]:
    """Where the findings are: each such frame as RGBA, as colour alone, as matte alone. None for clips without warnings."""
    clip, diagnosis = examined.clip, examined.diagnosis
    if clip is None or diagnosis.worst not in ("warning", "error"):
        return ()
    worst = [found.frame for found in diagnosis.findings if found.frame is not None and found.frame < clip.num_frames]
    frames = list(dict.fromkeys([*worst, *sampled(clip.num_frames, at_most=MAX_PICTURES)]))[:MAX_PICTURES]
    pictures = []
    for frame in sorted(frames):
        rgba = np.dstack([clip.rgb[frame], clip.alpha[frame]])
        for kind, pixels in (("RGBA", rgba), ("colour", clip.rgb[frame]), ("matte", clip.alpha[frame])):
            pictures.append(Picture(label=f"frame {frame}, {kind}", data=_png(pixels)))
    return tuple(pictures)


def _png(pixels: np.ndarray) -> bytes:
    """Scaled to at most 160 pixels; Pillow premultiplies for it where there is alpha."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if max(image.size) > THUMBNAIL:
        image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _write(report: DoctorReport, pictures: Sequence[tuple[Picture, ...]], folder: Path) -> None:
    values = {**asdict(report), "exit_code": report.exit_code}
    with beside(folder / REPORT) as partial:
        partial.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write_page(_page(report, pictures), folder / PAGE)


COLUMNS = {
    "worst": "the most severe finding: error, warning, note",
    "findings": "what was found",
    "frames": "length of the clip",
    "size": "width x height in pixels",
    "fps": "frames per second",
    "caption": "what the clip is said to show",
}


def _page(report: DoctorReport, pictures: Sequence[tuple[Picture, ...]]) -> Page:
    """Worst clips first. The first 200 of them have pictures, so that the page of a large set still opens."""
    order = sorted(range(len(pictures)), key=lambda i: -_rank(report.diagnoses[i]))
    pictured = set([i for i in order if pictures[i]][:MAX_PICTURED])
    rows = tuple(_row(report.diagnoses[i], pictures[i] if i in pictured else ()) for i in order)
    left_out = sum(bool(one) for one in pictures) - len(pictured)
    made = isinstance(report.repaired, PrepareReport)
    lead = (*([f"repaired copies: {report.output_path}/{DATASET}"] if made else []), report.summary()[-1])
    more = (f"{left_out} more clips with findings have no pictures here; report.json has all findings",) if left_out else ()
    return Page(title=f"doctor: {report.source}", lead=(*lead, *more), columns=COLUMNS, rows=rows)


def _rank(diagnosis: Diagnosis) -> int:
    return -1 if diagnosis.worst is None else SEVERITIES.index(diagnosis.worst)


def _row(diagnosis: Diagnosis, pictures: tuple[Picture, ...]) -> Row:
    cells = {
        "worst": diagnosis.worst or "",
        "findings": ", ".join(found.name for found in diagnosis.findings),
        "frames": diagnosis.frames or None,
        "size": f"{diagnosis.width}x{diagnosis.height}" if diagnosis.frames else "",
        "fps": diagnosis.fps or None,
        "caption": diagnosis.caption or "",
    }
    return Row(name=diagnosis.name, cells=cells, notes=tuple(found.line() for found in diagnosis.findings), pictures=pictures)
