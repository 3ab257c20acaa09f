"""The cache: what is kept, what is made anew, what is told; one process or several."""

import doctest
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from forked import together
from wan_alpha import progress, recipes
from wan_alpha.cache import cache
from wan_alpha.checkpoints.files import read_tensors
from wan_alpha.config import CacheConfig
from wan_alpha.config import command as config_command
from wan_alpha.data.latents import LatentCache
from wan_alpha.errors import CacheError, MediaError, UsageError
from wan_alpha.geometry import ClipSize
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.write import write_pair, write_png
from wan_alpha.progress import Advance
from wan_alpha.recipes.tiny import STAGE1

SHAPES = {"wide": (6, 32, 64), "tall": (9, 64, 32), "small": (5, 32, 32)}
PROMPT = "A {}. The background is transparent. Flat style. Close shot."


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pairs of different shape, a still image, and a second caption for one of them."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for name, (frames, height, width) in SHAPES.items():
        alpha = np.zeros((frames, height, width), np.uint8)
        alpha[:, 8:24, 8:24] = 255
        rgb = rng.integers(0, 255, (frames, height, width, 3), np.uint8)
        write_pair(RgbaClip(rgb=rgb, alpha=alpha, fps=16.0), folder / name)
    write_png(rng.integers(0, 255, (32, 48, 4), np.uint8), folder / "still.png")
    rows = [f"{name},{PROMPT.format(name)}" for name in (*SHAPES, "still.png")] + ["wide,Another caption."]
    (folder / "metadata.csv").write_text("\n".join(["video,prompt", *rows]) + "\n")
    return folder


def config(data: Path, output: Path, **changes: object) -> CacheConfig:
    size = {"height": 32, "width": 32, "num_frames": 5, "draws": 1, "clips_per_shard": 1}
    return replace(recipes.get_recipe("tiny").cache, dataset_base_path=data, output_path=output, **{**size, **changes})


@pytest.fixture(scope="module")
def made(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("made")
    cache(config(data, folder))
    return folder


def test_one_size_for_all_and_equal_files_once(made: Path) -> None:
    found = LatentCache(made)
    assert len(found) == 5
    assert found.index.clips[0] == found.index.clips[4]  # two captions, one clip
    assert len(list((made / "shards").iterdir())) == 4
    assert found.buckets() == {ClipSize(num_frames=5, height=32, width=32): [0, 1, 2, 3, 4]}
    latents, gaussian = found.draw(4, draw=0)
    assert (latents.shape, gaussian.shape) == ((16, 2, 4, 4), (2, 4, 4))
    assert found.context("Another caption.").shape == (128, found.context("").shape[1])
    assert len(list((made / "prompts").iterdir())) == 6
    assert not list(made.glob("*.alive"))


def test_a_second_run_changes_nothing_and_a_lost_file_is_made_again(data: Path, made: Path) -> None:
    first, last = (made / "shards" / f"{number:05d}.safetensors" for number in (0, 3))
    expected, stamps = read_tensors(last), (first.stat().st_mtime_ns, (made / "prompts").stat().st_mtime_ns)
    last.unlink()
    with pytest.raises(CacheError, match=r"1 clips missing.*run again: wan-alpha cache .*--draws 1"):
        LatentCache(made)
    cache(config(data, made))
    assert (first.stat().st_mtime_ns, (made / "prompts").stat().st_mtime_ns) == stamps
    again = read_tensors(last)
    assert all(torch.equal(again[key], expected[key]) for key in expected)


def test_other_shards_or_settings(data: Path, made: Path, tmp_path: Path) -> None:
    for file in sorted(made.rglob("*.*")):
        (target := tmp_path / file.relative_to(made)).parent.mkdir(exist_ok=True)
        target.write_bytes(file.read_bytes())
    before = LatentCache(tmp_path)
    cache(config(data, tmp_path, clips_per_shard=3))
    after = LatentCache(tmp_path)
    assert after.index.fingerprint == before.index.fingerprint
    assert len(list((tmp_path / "shards").iterdir())) == 2  # the others are gone
    assert torch.equal(after.draw(3, draw=0)[0], LatentCache(made).draw(3, draw=0)[0])
    cache(config(data, tmp_path, clips_per_shard=3, seed=1))
    assert not set(LatentCache(tmp_path).index.clips) & set(before.index.clips)


def test_buckets_and_report(data: Path, tmp_path: Path) -> None:
    lines = cache(config(data, tmp_path, num_frames=9, height=32, width=48, buckets="aspect+length", clips_per_shard=2))
    found = LatentCache(tmp_path)
    assert found.index.sizes == ((5, 32, 48), (9, 48, 32), (5, 32, 48), (1, 32, 48), (5, 32, 48))
    assert found.draw(3, draw=0)[0].shape == (16, 1, 4, 6)
    assert found.draw(1, draw=0)[0].shape == (16, 3, 6, 4)
    report = json.loads((tmp_path / "report.json").read_text())
    assert [clip["source"] for clip in report["clips"]][:4] == [*(list(shape) for shape in SHAPES.values()), [1, 32, 48]]
    assert report["frames x height x width"] == {"5x32x48": 3, "9x48x32": 1, "1x32x48": 1}
    assert len(lines) == 4


def take_share(rank: int, settings: CacheConfig) -> list[str]:
    return cache(settings)


def test_two_processes_make_the_same_cache(data: Path, made: Path, tmp_path: Path) -> None:
    """The verb in two processes, told apart by RANK and WORLD_SIZE as any launcher sets them."""
    first, second = together(2, take_share, config(data, tmp_path))
    assert first == second
    found, expected = LatentCache(tmp_path).index, LatentCache(made).index
    assert (found.fingerprint, found.names, found.prompts, found.clips) == (
        expected.fingerprint,
        expected.names,
        expected.prompts,
        expected.clips,
    )
    for file in sorted([*made.glob("shards/*"), *made.glob("prompts/*")]):
        mine, theirs = read_tensors(file), read_tensors(tmp_path / file.relative_to(made))
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.json", "prompts", "report.json", "run.json", "shards"]


def test_reading_the_clips_shows_its_progress(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long before the first shard: every clip is decoded once."""
    seen: list[tuple[str, int]] = []

    @contextmanager
    def display(label: str, total: int, done: int) -> Iterator[Advance]:
        yield lambda **values: seen.append((label, total))

    monkeypatch.setattr(progress, "_display", [display])
    cache(config(data, tmp_path))
    assert seen[:4] == [("reading clips", 4)] * 4
    assert seen[-4:] == [("caching", 4)] * 4


def test_a_bad_clip_is_an_error_or_listed(data: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    for file in data.iterdir():
        (bad / file.name).write_bytes(file.read_bytes())
    (bad / "tall_rgb.mp4").write_bytes(b"no video")
    with pytest.raises(MediaError, match="tall_rgb"):
        cache(config(bad, tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()
    cache(config(bad, tmp_path / "cache", on_bad_sample="skip"))
    assert LatentCache(tmp_path / "cache").index.names == ("wide", "small", "still", "wide#2")
    assert "tall_rgb" in json.loads((tmp_path / "cache" / "report.json").read_text())["clips"][1]["skipped"]
    with pytest.raises(MediaError, match="tall_rgb"):
        cache(config(bad, tmp_path / "cache"))


def test_an_old_cache_names_the_command_that_rebuilds(made: Path, tmp_path: Path) -> None:
    index = json.loads((made / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps({**index, "code_version": 0}))
    with pytest.raises(CacheError, match=rf"code_version 0.*rebuild: wan-alpha cache .*--feature_merge_checkpoint {STAGE1}"):
        LatentCache(tmp_path)


def test_a_prompt_that_is_too_long_stops_before_anything_is_written(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected at most 8"):
        cache(config(data, tmp_path / "cache", max_sequence_length=8))
    assert not (tmp_path / "cache").exists()


def test_command_of_a_config() -> None:
    found = doctest.testmod(config_command)
    assert (found.failed, found.attempted) == (0, 5)
