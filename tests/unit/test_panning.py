"""A still as a panned clip: uniform directions, inside the picture, in a straight line."""

import math

import numpy as np
import pytest
import torch

from wan_alpha.data.clips import Augment, ClipDataset
from wan_alpha.data.manifest import ClipEntry
from wan_alpha.data.panning import pan_path
from wan_alpha.geometry import ClipSize
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.write import write_png, write_webp

SIZE = ClipSize(num_frames=5, height=32, width=16)


def directions(room: tuple[int, int], count: int) -> np.ndarray:
    """Angles of `count` pans that move at all."""
    paths = [np.array(pan_path(room=room, num_frames=5, rng=np.random.default_rng(seed))) for seed in range(count)]
    moves = np.array([path[-1] - path[0] for path in paths])
    moves = moves[(moves != 0).any(axis=1)]
    return np.arctan2(moves[:, 0], moves[:, 1])


@pytest.mark.parametrize("room", [(300, 300), (120, 400), (500, 90)])
def test_directions_are_uniform_over_the_circle(room: tuple[int, int]) -> None:
    """Chi-square over twelve sectors, 11 degrees of freedom: 31.3 is exceeded once in a thousand. The published pan gives thousands."""
    angles = directions(room, 3000)
    assert len(angles) > 2900
    # shifted by an odd angle: rounding to whole pixels favours the axes and diagonals, which then lie inside sectors
    counts, _ = np.histogram((angles + 0.13) % (2 * math.pi), bins=12, range=(0, 2 * math.pi))
    expected = len(angles) / 12
    assert ((counts - expected) ** 2 / expected).sum() < 31.3
    assert abs(np.exp(1j * angles).mean()) < 0.05


def test_a_pan_is_straight_and_stays_inside() -> None:
    for seed in range(200):
        path = np.array(pan_path(room=(40, 7), num_frames=9, rng=np.random.default_rng(seed)))
        assert (path >= 0).all()
        assert (path <= (40, 7)).all()
        line = path[0] + (path[-1] - path[0]) * np.linspace(0, 1, 9)[:, None]
        assert np.abs(path - line).max() <= 1
    assert pan_path(room=(0, 0), num_frames=2, rng=np.random.default_rng(0)) == [(0, 0), (0, 0)]


@pytest.fixture
def still(tmp_path) -> ClipEntry:
    """As wide as the target and higher: alpha tells the row, red the column."""
    y, x = np.mgrid[0:48, 0:16].astype(np.uint8)
    write_png(np.stack([x, x * 0, x * 0, 200 + y], axis=-1), tmp_path / "still.png")
    return ClipEntry(name="still", prompt="", rgba=tmp_path / "still.png")


def test_a_still_becomes_a_moving_clip_in_training(still) -> None:
    dataset = ClipDataset([still], size=SIZE, augment=Augment(flip=0.0, max_scale=2.0))
    moved = [dataset[i] for i in range(8)]
    for sample in moved:
        assert sample.rgb.shape == (3, 5, 32, 16)
        assert sample.original_frames == 5
        rise = sample.alpha[0].diff(dim=1)
        assert (rise > 0).all(), "rows stay rows"
        assert (sample.rgb[0].diff(dim=2) > 0).all(), "columns stay columns"
        steps = (sample.alpha[0, :, 0, 0].diff() / rise.mean(), sample.rgb[0, :, 0, 0].diff() / sample.rgb[0].diff(dim=2).mean())
        assert max(step.max() - step.min() for step in steps) < 2.5, "one speed, but for whole pixels"
    assert sum(not torch.equal(sample.alpha[:, 0], sample.alpha[:, -1]) for sample in moved) >= 6
    assert torch.equal(dataset[3].rgb, moved[3].rgb)


def test_a_still_stays_still_without_augmentation(still, tmp_path) -> None:
    sample = ClipDataset([still], size=SIZE, crop="centre")[0]
    assert sample.original_frames == 1
    assert torch.equal(sample.rgb[:, :1].expand_as(sample.rgb), sample.rgb)
    rng = np.random.default_rng(0)
    clip = RgbaClip(rgb=rng.integers(0, 256, (1, 32, 16, 3), np.uint8), alpha=rng.integers(0, 256, (1, 32, 16), np.uint8), fps=16.0)
    write_webp(clip, tmp_path / "one.webp")
    one = ClipDataset([ClipEntry(name="one", prompt="", rgba=tmp_path / "one.webp")], size=SIZE, augment=Augment(flip=0.0, max_scale=1.0))[
        0
    ]
    assert torch.equal(one.rgb[:, 0], torch.from_numpy(clip.rgb[0]).permute(2, 0, 1) / 255), "no room, no motion"
