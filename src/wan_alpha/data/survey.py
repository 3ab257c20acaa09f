"""What a dataset really holds: every clip is read once, so that a broken one is named before hours of work, and its shape is known."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from wan_alpha.data.manifest import ClipEntry
from wan_alpha.errors import DatasetError, MediaError
from wan_alpha.media.read import read_clip

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SurveyedClip:
    """A clip that can be read, and its shape (frames, height, width)."""

    entry: ClipEntry
    shape: tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Survey:
    """Every clip that can be read, in the table's order, and one line for each that cannot."""

    clips: tuple[SurveyedClip, ...]
    skipped: tuple[str, ...]

    @property
    def entries(self) -> list[ClipEntry]:
        return [clip.entry for clip in self.clips]


def survey_clips(entries: Sequence[ClipEntry], *, on_bad_sample: Literal["error", "skip"]) -> Survey:
    """Read every clip once. "error" raises the first MediaError, "skip" lists it; DatasetError when no clip is left."""
    clips, skipped = [], []
    for entry in entries:
        try:
            clip = read_clip(rgba=entry.rgba, rgb=entry.rgb, alpha=entry.alpha)
        except MediaError as error:
            if on_bad_sample == "error":
                raise
            log.warning("skipped %s: %s", entry.name, error)
            skipped.append(f"{entry.name}: {error}")
        else:
            clips.append(SurveyedClip(entry=entry, shape=clip.alpha.shape))
    if not clips:
        raise DatasetError(
            "dataset", got=f"{len(skipped)} clips, none of them readable", expected="at least one", do="; ".join(skipped[:1])
        )
    return Survey(clips=tuple(clips), skipped=tuple(skipped))
