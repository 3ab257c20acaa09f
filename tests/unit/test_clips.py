"""The dataset: same draw for the same (seed, index), exact pixels at the target's size, premultiplied resampling."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from wan_alpha.data.clips import Augment, ClipDataset, back_and_forth, collate, fit, resize, to_tensors, usable_entries
from wan_alpha.data.manifest import ClipEntry
from wan_alpha.errors import DatasetError, MediaError
from wan_alpha.geometry import ClipSize
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.write import write_pair, write_webp

SIZE = ClipSize(num_frames=5, height=16, width=32)


def noise(frames: int, height: int, width: int, seed: int = 0) -> RgbaClip:
    """Alpha of frame t is t in its first pixel, so that windows can be told apart."""
    rng = np.random.default_rng(seed)
    alpha = rng.integers(0, 256, (frames, height, width), dtype=np.uint8)
    alpha[:, 0, 0] = np.arange(frames)
    return RgbaClip(rgb=rng.integers(0, 256, (frames, height, width, 3), dtype=np.uint8), alpha=alpha, fps=16.0)


@pytest.fixture
def entries(tmp_path):
    write_webp(noise(12, 16, 32), tmp_path / "long.webp")
    write_webp(noise(3, 16, 32), tmp_path / "short.webp")
    rgb, alpha = write_pair(noise(9, 40, 48), tmp_path / "large")
    return [
        ClipEntry(name="long", prompt="long", rgba=tmp_path / "long.webp"),
        ClipEntry(name="short", prompt="", rgba=tmp_path / "short.webp"),
        ClipEntry(name="large", prompt="large", rgb=rgb, alpha=alpha),
    ]


def test_pixels_of_the_right_size_are_exact(entries):
    sample = ClipDataset(entries, size=SIZE, crop="centre")[0]
    clip = noise(12, 16, 32)
    assert torch.equal(sample.alpha, torch.from_numpy(clip.alpha[None, :5]) / 255)
    assert torch.equal(sample.rgb, torch.from_numpy(clip.rgb[:5]).permute(3, 0, 1, 2) / 255)
    assert (sample.name, sample.prompt, sample.original_frames, sample.fps) == ("long", "long", 5, 16.0)


def test_short_clips_play_back_and_forth(entries):
    sample = ClipDataset(entries, size=SIZE)[1]
    assert sample.original_frames == 3
    assert (sample.alpha[0, :, 0, 0] * 255).round().int().tolist() == [0, 1, 2, 1, 0]
    assert back_and_forth(1, num_frames=4) == [0, 0, 0, 0]
    assert back_and_forth(2, num_frames=5) == [0, 1, 0, 1, 0]
    assert back_and_forth(6, num_frames=5) == [0, 1, 2, 3, 4]


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_give_the_very_same_clips(entries, start):
    """Through torch's own DataLoader, two processes: every pixel, name and window as in this process, in their order."""
    dataset = ClipDataset(entries, size=SIZE, seed=3, augment=Augment(), repeat=2)
    alone = list(DataLoader(dataset, batch_size=2, collate_fn=collate))
    shared = list(DataLoader(dataset, batch_size=2, collate_fn=collate, num_workers=2, multiprocessing_context=start))
    assert len(alone) == len(shared) == 3
    for a, b in zip(alone, shared, strict=True):
        assert torch.equal(a.rgb, b.rgb)
        assert torch.equal(a.alpha, b.alpha)
        assert (a.names, a.prompts, a.original_frames) == (b.names, b.prompts, b.original_frames)


def test_a_draw_depends_on_seed_and_index_alone(entries):
    settings = {"size": SIZE, "seed": 3, "augment": Augment(), "repeat": 2}
    dataset = ClipDataset(entries, **settings)
    forwards = [dataset[i] for i in range(6)]
    for i in (5, 0, 3):
        alone = ClipDataset(entries, **settings, cache_bytes=0)[i]
        assert torch.equal(alone.rgb, forwards[i].rgb)
        assert torch.equal(alone.alpha, forwards[i].alpha)
    assert len(dataset) == len(list(dataset)) == 6
    assert not torch.equal(forwards[2].rgb, forwards[5].rgb), "another index is another draw"
    assert not torch.equal(ClipDataset(entries, size=SIZE, seed=4)[2].rgb, ClipDataset(entries, size=SIZE, seed=3)[2].rgb)


def test_windows_cover_the_clip(entries):
    dataset = ClipDataset(entries[:1], size=SIZE)
    firsts = {round(float(dataset[i].alpha[0, 0, 0, 0]) * 255) for i in range(60)}
    assert firsts == set(range(8)), "12 frames hold 8 windows of 5"


def test_batches_stack_samples(entries):
    dataset = ClipDataset(entries, size=SIZE)
    loader = torch.utils.data.DataLoader(dataset, batch_size=3, collate_fn=collate)
    batch = next(iter(loader))
    assert batch.rgb.shape == (3, 3, 5, 16, 32)
    assert batch.alpha.shape == (3, 1, 5, 16, 32)
    assert batch.names == ("long", "short", "large")
    assert batch.original_frames == (5, 3, 5)
    assert torch.equal(batch.alpha[2], dataset[2].alpha)


def test_height_and_width_are_not_swapped(entries):
    sample = ClipDataset(entries, size=ClipSize(num_frames=5, height=48, width=16), crop="centre")[2]
    assert sample.rgb.shape == (3, 5, 48, 16)


def test_resize_ignores_hidden_colour():
    """White under alpha 0 beside red must not tint the edge; a straight resize would."""
    rgb = torch.ones(3, 1, 8, 8)
    alpha = torch.zeros(1, 1, 8, 8)
    rgb[1:, :, :, :4], alpha[..., :4] = 0, 1
    colour, matte = resize(rgb, alpha, height=6, width=6)
    seen = matte[0] > 0.02
    assert colour[1][seen].max() < 1e-5
    assert colour[0][seen].min() > 0.9999
    assert matte[0, 0, 0, -1] == 0
    assert colour[:, 0, 0, -1].min() > 0.99, "hidden colour stays where nothing is seen"


def test_flat_clips_stay_flat():
    rgb, alpha = torch.full((3, 2, 20, 30), 0.3), torch.full((1, 2, 20, 30), 0.6)
    for height, width in ((40, 45), (10, 15), (16, 16)):
        colour, matte = resize(rgb, alpha, height=height, width=width)
        assert torch.allclose(colour, torch.full_like(colour, 0.3), atol=1e-5)
        assert torch.allclose(matte, torch.full_like(matte, 0.6), atol=1e-6)


def test_centre_crop_and_mirror():
    rgb, alpha = to_tensors(noise(5, 16, 40))
    cut = fit(rgb, alpha, size=SIZE, crop="centre", augment=None, rng=np.random.default_rng(0))
    assert torch.equal(cut[0], rgb[..., 4:36])
    mirrored = fit(rgb, alpha, size=SIZE, crop="centre", augment=Augment(flip=1.0, max_scale=1.0), rng=np.random.default_rng(0))
    assert torch.equal(mirrored[0], rgb[..., 4:36].flip(-1))
    assert torch.equal(mirrored[1], alpha[..., 4:36].flip(-1))


def ramps(frames: int, *, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Red is x, green is y, both in (0, 1); alpha is 0.5 + 0.25 (x + y), so that a matte from elsewhere shows."""
    y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    rgb = torch.stack([x, y, torch.zeros_like(x)])[:, None].expand(-1, frames, -1, -1)
    return rgb.contiguous(), (0.5 + 0.25 * (rgb[:1] + rgb[1:2]))


@pytest.mark.parametrize("frames", [5, 1])
def test_one_scale_one_crop_and_one_mirror_for_colour_and_matte(frames):
    """Over many draws: the scale is in [1, 2] and equal on both sides, corners and mirrors differ, and the matte follows each.

    A clip of one frame pans, so its frames differ in their crop.
    """
    size, rng = ClipSize(num_frames=5, height=48, width=32), np.random.default_rng(0)
    zooms, corners, mirrored = [], set(), 0
    for _ in range(60):
        rgb, alpha = fit(*ramps(frames, height=48, width=64), size=size, crop="random", augment=Augment(max_scale=2.0), rng=rng)
        assert rgb.shape == (3, 5, 48, 32)
        torch.testing.assert_close(alpha, 0.5 + 0.25 * (rgb[:1] + rgb[1:2]), rtol=0, atol=2e-3)  # a pixel is 4e-3 and more
        across, down = float(rgb[0, 0].diff(dim=1).median()), float(rgb[1, 0].diff(dim=0).median())
        zoom = 1 / (48 * down)
        assert 1 / (64 * abs(across)) == pytest.approx(zoom, rel=0.03)
        zooms.append(zoom)
        corners.add((round(float(rgb[0, 0, 24, 16]), 2), round(float(rgb[1, 0, 24, 16]), 2)))
        mirrored += across < 0
    assert 1 - 0.02 < min(zooms) < 1.1
    assert 1.9 < max(zooms) < 2 + 0.02
    assert len(corners) > 40
    assert 15 < mirrored < 45


def test_without_enlarging_colour_and_matte_are_the_same_pixels():
    rgb, _ = to_tensors(noise(5, 16, 48))
    rng, size = np.random.default_rng(0), ClipSize(num_frames=5, height=16, width=16)
    for _ in range(10):
        colour, matte = fit(rgb, rgb[:1], size=size, crop="random", augment=Augment(max_scale=1.0), rng=rng)
        assert torch.equal(colour[:1], matte)


def test_enlarging_covers_the_target(entries):
    sample = ClipDataset(entries, size=ClipSize(num_frames=5, height=64, width=48), augment=Augment(max_scale=2.0))[0]
    assert sample.rgb.shape == (3, 5, 64, 48)
    assert 0 <= sample.rgb.min() <= sample.rgb.max() <= 1


def test_bad_clips_are_named(entries, tmp_path):
    (tmp_path / "broken.webp").write_bytes(b"RIFF")
    broken = ClipEntry(name="broken", prompt="", rgba=tmp_path / "broken.webp")
    with pytest.raises(MediaError, match=r"broken\.webp"):
        usable_entries([*entries, broken], on_bad_sample="error")
    good, skipped = usable_entries([broken, *entries], on_bad_sample="skip")
    assert good == entries
    assert len(skipped) == 1
    assert skipped[0].startswith("broken: ")
    with pytest.raises(DatasetError, match="none of them readable"):
        usable_entries([broken], on_bad_sample="skip")
    with pytest.raises(DatasetError, match="no clips"):
        ClipDataset([], size=SIZE)


def test_matte_of_another_length(tmp_path):
    rgb, _ = write_pair(noise(6, 16, 32), tmp_path / "a")
    _, alpha = write_pair(noise(7, 16, 32), tmp_path / "b")
    with pytest.raises(MediaError, match=r"b_alpha\.mp4: got 7 frames, expected 6 as in a_rgb\.mp4"):
        ClipDataset([ClipEntry(name="a", prompt="", rgb=rgb, alpha=alpha)], size=SIZE)[0]
