"""Buckets in training: batches never mix shapes, nothing is left out, the order follows from seed and position."""

import json
from collections import Counter

import numpy as np
import pytest
import torch

from wan_alpha.data.clips import Augment
from wan_alpha.data.draws import BatchOrder, index_at
from wan_alpha.data.manifest import ClipEntry
from wan_alpha.data.survey import survey_clips
from wan_alpha.geometry import ClipSize
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.write import write_png, write_webp
from wan_alpha.train.clip_data import clip_stream, write_clip_report

BUDGET = ClipSize(num_frames=9, height=64, width=64)


@pytest.mark.parametrize(("counts", "batch_size"), [((5, 3, 1), 2), ((4, 4), 4), ((7, 2), 3)])
def test_batches_hold_one_group_and_an_epoch_holds_everything(counts: tuple[int, ...], batch_size: int) -> None:
    groups = [name for name, count in zip("abc", counts) for _ in range(count)]
    order = BatchOrder(groups, batch_size=batch_size, seed=3)
    assert len(order) == sum(-(-count // batch_size) for count in counts) * batch_size
    epochs = [[order.index_at(epoch * len(order) + i) for i in range(len(order))] for epoch in range(3)]
    for epoch in epochs:
        batches = [epoch[i : i + batch_size] for i in range(0, len(epoch), batch_size)]
        assert all(len({groups[item] for item in batch}) == 1 for batch in batches)
        assert set(epoch) == set(range(len(groups)))
        assert max(Counter(epoch).values()) <= -(-batch_size // min(counts)) + 1
    assert epochs[0] != epochs[1]
    again = BatchOrder(groups, batch_size=batch_size, seed=3)
    assert [again.index_at(2 * len(order) + i) for i in range(len(order))] == epochs[2], "no earlier position is needed"


def test_one_group_is_the_plain_order() -> None:
    order = BatchOrder(["a"] * 5, batch_size=2, seed=1)
    assert len(order) == 5
    assert [order.index_at(i) for i in range(12)] == [index_at(1, i, count=5) for i in range(12)]


@pytest.fixture
def survey(tmp_path):
    """Two wide clips, one of them short, one high clip, a wide still; one broken file."""
    entries = []
    for name, shape in {"wide": (9, 48, 80), "short": (5, 48, 80), "high": (9, 80, 48)}.items():
        rng = np.random.default_rng(len(entries))
        clip = RgbaClip(rgb=rng.integers(0, 256, (*shape, 3), np.uint8), alpha=rng.integers(0, 256, shape, np.uint8), fps=16.0)
        write_webp(clip, tmp_path / f"{name}.webp")
        entries.append(ClipEntry(name=name, prompt="", rgba=tmp_path / f"{name}.webp"))
    write_png(np.full((60, 100, 4), 200, np.uint8), tmp_path / "still.png")
    (tmp_path / "broken.webp").write_bytes(b"RIFF")
    entries += [ClipEntry(name=name, prompt="", rgba=tmp_path / name) for name in ("still.png", "broken.webp")]
    return survey_clips(entries, on_bad_sample="skip")


def stream(survey, **changes):
    settings = {"budget": BUDGET, "by": "aspect+length", "stills": "panned", "augment": Augment(), "batch_size": 2, "seed": 5}
    return clip_stream(survey, **{**settings, **changes})


def test_clips_and_stills_train_together_in_their_buckets(survey) -> None:
    made = stream(survey)
    for batch in range(8):
        first, second = (made.sample_at(2 * batch + i) for i in range(2))
        assert first.rgb.shape == second.rgb.shape
        height, width = first.rgb.shape[-2:]
        assert (height > width) == (first.name == "high")
    names = {made.sample_at(i).name for i in range(len(made.order))}
    assert names == {"wide", "short", "high", "still.png"}
    lengths = {sample.name: sample.rgb.shape[1] for sample in map(made.sample_at, range(len(made.order)))}
    assert lengths == {"wide": 9, "short": 5, "high": 9, "still.png": 9}
    assert {size.num_frames for size in stream(survey, stills="frames").dataset.sizes} == {1, 5, 9}
    assert len({stream(survey, by="none").dataset.sizes}) == 1


def test_a_sample_does_not_depend_on_what_was_read_before(survey) -> None:
    forwards = [stream(survey).sample_at(i) for i in range(7)]
    alone = stream(survey).sample_at(6)
    assert alone.name == forwards[6].name
    assert torch.equal(alone.rgb, forwards[6].rgb)


def test_the_report_names_every_clip(survey, tmp_path) -> None:
    report = json.loads(write_clip_report(tmp_path / "out", survey, stream(survey), held_out=("other",)).read_text())
    buckets = {clip["name"]: clip["bucket"] for clip in report["clips"]}
    assert buckets.keys() == {"wide", "short", "high", "still.png"}
    assert buckets["short"].startswith("5x")
    assert sum(report["buckets"].values()) == 4
    assert report["clips"][2]["shape"] == [9, 80, 48]
    assert report["held_out"] == ["other"]
    assert report["skipped"][0].startswith("broken.webp: ")
