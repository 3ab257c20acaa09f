"""One clip under examination: what a source holds, what is wrong with it. Files that cannot be read are findings too."""

from dataclasses import dataclass, replace
from pathlib import Path

from wan_alpha.config import SourceConfig
from wan_alpha.data.captions import Captioner
from wan_alpha.data.sources import FileSource, Source, file_sources
from wan_alpha.errors import DatasetError, MediaError, UsageError
from wan_alpha.findings.caption import caption_findings
from wan_alpha.findings.duplicates import Signature, duplicate_findings, signature
from wan_alpha.findings.examine import Expected, examine
from wan_alpha.findings.finding import SEVERITIES, Finding, Severity
from wan_alpha.findings.numbering import numbering_findings
from wan_alpha.media.clip import RgbaClip, memory_errors
from wan_alpha.media.find import FoundClip
from wan_alpha.media.read import (
    RATE_TOLERANCE,
    ReadSettings,
    count_frames,
    is_series,
    is_square,
    lacks_rate,
    pixel_aspect,
    rates_differ,
    stated_rate,
)
from wan_alpha.media.stills import frame_numbers

UNREADABLE_CAPTION = "unreadable caption"


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Findings of one clip, worst first, and what is known of it. A clip that cannot be read has no size."""

    name: str
    origin: tuple[str, ...]
    findings: tuple[Finding, ...]
    caption: str | None = None
    frames: int = 0
    height: int = 0
    width: int = 0
    fps: float = 0.0
    alpha_evidence: str | None = None
    """As in dataset_report.ClipReport."""

    @property
    def worst(self) -> Severity | None:
        return max((found.severity for found in self.findings), key=SEVERITIES.index, default=None)


@dataclass(frozen=True, kw_only=True, eq=False)
class Examined:
    """A diagnosis with what it came from; clip and signature are None when the source cannot be read."""

    diagnosis: Diagnosis
    clip: RgbaClip | None
    signature: Signature | None


def listed_sources(config: SourceConfig, *, exclude: Path) -> list[FileSource]:
    """The clips that the settings name."""
    if config.source is None:
        raise UsageError("--source", got="nothing", expected="a folder of clips")
    return file_sources(
        config.source,
        settings=ReadSettings(
            fps_if_unknown=config.fps if config.source_fps is None else config.source_fps,
            fps_is_known=config.source_fps is not None,
            alpha_mode=config.source_alpha,
            matrix=config.matrix,
        ),
        exclude=exclude,
        split=config.split,
        links=config.links,
    )


def expected_of(config: SourceConfig) -> Expected:
    return Expected(num_frames=config.num_frames, fps=config.fps)


def captioner_of(config: SourceConfig) -> Captioner | None:
    if config.caption_command is None:
        return None
    return Captioner(command=config.caption_command, timeout_s=config.caption_timeout_s, retries=config.caption_retries)


def diagnose(source: Source, *, expected: Expected, captioner: Captioner | None = None) -> Examined:
    """Read and examine one source. Never raises for a bad clip or caption: that is what the findings say."""
    findings: list[Finding] = []
    clip, caption = None, None
    try:
        clip = read_source(source, findings)
        with memory_errors(Path(source.origin()[0])):
            findings += examine(clip, expected=expected)
    except (MediaError, DatasetError) as error:
        findings.append(unreadable("unreadable file", error))
    try:
        caption = source.caption(captioner if clip else None)
        findings += caption_findings(caption)
    except DatasetError as error:
        findings.append(unreadable(UNREADABLE_CAPTION, error))
    diagnosis = diagnosis_of(source, clip, caption=caption, findings=findings)
    return Examined(diagnosis=diagnosis, clip=clip, signature=signature(clip.rgb, clip.alpha) if clip else None)


def diagnosis_of(source: Source, clip: RgbaClip | None, *, caption: str | None, findings: list[Finding]) -> Diagnosis:
    known = Diagnosis(name=source.name, origin=source.origin(), findings=worst_first(findings), caption=caption)
    if clip is None:
        return known
    seen = replace(known, frames=clip.num_frames, height=clip.height, width=clip.width, fps=clip.fps)
    return replace(seen, alpha_evidence=clip.evidence)


def read_source(source: Source, findings: list[Finding]) -> RgbaClip:
    """The clip. What its files say joins FINDINGS; a pair of different lengths is read up to the shorter one, and that does too."""
    findings += file_findings(source)
    lengths = _lengths(source)
    if len(set(lengths)) < 2:
        return source.read()
    findings.append(
        Finding(
            name="different lengths",
            severity="error",
            says=f"{lengths[0]} frames of colour, {lengths[1]} of matte",
            do="--fix keeps the frames that both have; check that they begin together",
            value=float(abs(lengths[0] - lengths[1])),
            limit=0.0,
            frame=min(lengths),
            repair="trim",
        )
    )
    return source.read(count=min(lengths))


def file_findings(source: Source) -> list[Finding]:
    """What names and headers of a source's files say, before its pixels are read. MediaError where they cannot be read."""
    if not isinstance(source, FileSource) or source.found.problem:
        return []
    numbering = [found for path in source.found.files if is_series(path) for found in numbering_findings(frame_numbers(path))]
    return [*numbering, *_assumed_rate(source), *_rate_finding(source.found), *_aspect_finding(source.found)]


def _assumed_rate(source: FileSource) -> list[Finding]:
    if source.settings.fps_is_known or not lacks_rate(source.found.files):
        return []
    fps = source.settings.fps_if_unknown
    says = f"its frames state no rate and are taken for {fps:g} a second"
    return [Finding(name="assumed rate", severity="note", says=says, do="--source_fps names theirs", value=fps)]


def series_rates(source: Source) -> list[float | None]:
    """What records beside folders and zips of frames say of their rates; nothing of it is in the source's own bytes."""
    if not isinstance(source, FileSource) or source.found.problem:
        return []
    return [stated_rate(path) for path in source.found.files if is_series(path)]


def _rate_finding(found: FoundClip) -> list[Finding]:
    if found.rgb is None or found.alpha is None:
        return []
    colour, matte = stated_rate(found.rgb), stated_rate(found.alpha)
    if not colour or not matte or not rates_differ(colour, matte):
        return []
    return [
        Finding(
            name="different rates",
            severity="warning",
            says=f"colour at {colour:.6g}, matte at {matte:.6g} frames per second; the colour's rate is kept",
            do="check that both begin and end together; export them at one rate",
            value=round(abs(colour - matte), 4),
            limit=RATE_TOLERANCE,
        )
    ]


def _aspect_finding(found: FoundClip) -> list[Finding]:
    aspect = pixel_aspect(found.files[0])
    if is_square(aspect):
        return []
    return [
        Finding(
            name="pixels not square",
            severity="warning",
            says=f"its pixels are {aspect:.6g} times as wide as high and are read as square: the picture is distorted",
            do="make them square before (ffmpeg: -vf scale=iw*sar:ih,setsar=1)",
            value=round(aspect, 4),
            limit=1.0,
        )
    ]


def worst_first(findings: list[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda found: -SEVERITIES.index(found.severity)))


def join_duplicates(examined: list[tuple[Diagnosis, Signature | None]]) -> list[Diagnosis]:
    """The diagnoses, in their order, with the finding of every clip that repeats an earlier one."""
    found = duplicate_findings([(diagnosis.name, values) for diagnosis, values in examined if values is not None])
    return [_with(diagnosis, found.get(diagnosis.name)) for diagnosis, _ in examined]


def _with(diagnosis: Diagnosis, extra: Finding | None) -> Diagnosis:
    if extra is None:
        return diagnosis
    return replace(diagnosis, findings=worst_first([*diagnosis.findings, extra]))


def _lengths(source: Source) -> list[int]:
    """Frames of colour and of matte, where the source is a pair."""
    if not isinstance(source, FileSource) or source.found.problem or source.found.rgb is None or source.found.alpha is None:
        return []
    return [count_frames(path) for path in (source.found.rgb, source.found.alpha)]


def unreadable(name: str, error: Exception) -> Finding:
    return Finding(name=name, severity="error", says=str(error), do="doctor --fix and prepare --on_bad_sample skip leave the clip out")
