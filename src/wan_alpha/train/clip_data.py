"""The clips that a training draws from: surveyed, bucketed, in an order by position. Shared by Stage 1 and Stage 2 without a cache."""

import json
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from wan_alpha.config import TrainConfig
from wan_alpha.data.buckets import Buckets, bucket_of
from wan_alpha.data.clips import Augment, ClipDataset, Sample
from wan_alpha.data.draws import BatchOrder
from wan_alpha.data.shares import this_share
from wan_alpha.data.stream import PositionStream
from wan_alpha.data.survey import Survey
from wan_alpha.geometry import ClipSize
from wan_alpha.media.atomic import beside

log = logging.getLogger(__name__)

T = TypeVar("T")
REPORT_NAME = "clips.json"


@dataclass(frozen=True, kw_only=True)
class ClipStream:
    """What stands at a position: `sample_at` is a function of the seed and the position alone."""

    dataset: ClipDataset
    order: BatchOrder

    def sample_at(self, position: int) -> Sample:
        return self.dataset.sample(self.order.index_at(position), draw=position)


def position_stream(sample_at: Callable[[int], T], *, config: TrainConfig) -> PositionStream[T]:
    """Samples for one process of a training, read ahead by its workers."""
    return PositionStream(sample_at, num_workers=config.num_workers, batch_size=config.batch_size, processes=this_share().count)


def clip_stream(
    survey: Survey,
    *,
    budget: ClipSize,
    by: Buckets,
    stills: Literal["panned", "frames"],
    augment: Augment | None,
    batch_size: int,
    seed: int,
) -> ClipStream:
    """The clips of a survey, each at its bucket; a batch of `batch_size` positions holds one bucket.

    stills: a still is as long as the budget ("panned": a window slides over it), or a clip of its one frame ("frames").
    """
    dataset = ClipDataset(survey.entries, size=bucket_sizes(survey, budget=budget, by=by, stills=stills), seed=seed, augment=augment)
    return ClipStream(dataset=dataset, order=BatchOrder(dataset.sizes, batch_size=batch_size, seed=seed))


def bucket_sizes(survey: Survey, *, budget: ClipSize, by: Buckets, stills: Literal["panned", "frames"]) -> list[ClipSize]:
    """The bucket of every clip of a survey, in its order."""
    panned = budget.num_frames if stills == "panned" else 1
    shapes = [clip.shape for clip in survey.clips]
    return [bucket_of(num_frames=panned if t == 1 else t, height=h, width=w, budget=budget, by=by) for t, h, w in shapes]


def write_clip_report(folder: Path, survey: Survey, stream: ClipStream, *, held_out: tuple[str, ...] = ()) -> Path:
    """FOLDER/clips.json: every clip with its own shape and its bucket (frames, height, width), what is held out, and every clip that
    was skipped with its reason. Nothing is dropped without a line here. Of several processes the first one writes."""
    sizes = [size.text for size in stream.dataset.sizes]
    clips = [{"name": clip.entry.name, "shape": list(clip.shape), "bucket": size} for clip, size in zip(survey.clips, sizes, strict=True)]
    buckets = dict(sorted(Counter(sizes).items()))
    log.info("%d clips, frames x height x width: %s", len(clips), ", ".join(f"{count} at {size}" for size, count in buckets.items()))
    path = folder / REPORT_NAME
    report = {"buckets": buckets, "clips": clips, "held_out": list(held_out), "skipped": list(survey.skipped)}
    if this_share().rank > 0:
        return path
    with beside(path) as partial:
        partial.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path
