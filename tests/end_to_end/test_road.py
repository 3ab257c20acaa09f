"""Every stage, real input to real output."""

import json
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from wan_alpha import recipes
from wan_alpha.cache import cache
from wan_alpha.checkpoints.adapter import read_adapter
from wan_alpha.checkpoints.files import read_tensors, sha256, write_tensors
from wan_alpha.checkpoints.stage1 import read_stage1
from wan_alpha.data.draws import BatchOrder
from wan_alpha.data.latents import LatentCache
from wan_alpha.data.stream import PositionStream
from wan_alpha.errors import CacheError, UsageError
from wan_alpha.evaluate import evaluate
from wan_alpha.generate import generate
from wan_alpha.media.read import read_pair, read_rgba
from wan_alpha.prepare import prepare
from wan_alpha.train.dit import train as train_dit
from wan_alpha.train.flow_data import sample_at
from wan_alpha.train.latent_source import CachedLatents
from wan_alpha.train.vae import train as train_vae


def test_prepare_writes_the_seeds_layout(road):
    assert (road.root / "data" / "metadata.csv").read_text().splitlines()[0] == "video,prompt"
    assert len(list((road.root / "data").glob("*_alpha.mp4"))) == 3


def test_stage1_files(road):
    parts = read_stage1(road.stage1)
    assert parts.merge
    assert len(parts.rgb_lora) == len(parts.alpha_lora) > 0
    merge_only = read_stage1(road.root / "vae" / "feature_merge_epoch_0.safetensors")
    assert merge_only.merge.keys() == parts.merge.keys()
    assert not merge_only.rgb_lora


def test_cache_holds_normalised_latents_ellipses_and_text(road):
    cached = LatentCache(road.root / "cache")
    latents, gaussian = cached.draw(0, draw=1)
    assert latents.shape == (16, 2, 4, 6)
    assert gaussian.shape == (2, 4, 6)
    assert latents.std() < 3  # normalised by the VAE's own statistics
    assert cached.context("").shape == cached.context(cached.index.prompts[0]).shape
    assert not torch.equal(cached.draw(0, draw=0)[0], latents)  # another background colour
    assert sha256(road.stage1) in cached.index.weights.values()


def test_adapter_is_in_the_published_layout_and_knows_its_noise(road):
    adapter = read_adapter(road.adapter)
    assert adapter.kind == "dora"
    assert adapter.noise_shift == pytest.approx(0.05)
    assert "blocks.0.self_attn.q.lora_magnitude_vector.default.weight" in read_tensors(road.adapter)


def test_generated_clip_its_preview_and_its_record(road):
    first = road.generated[0]
    clip = read_rgba(first.frames)
    assert clip.alpha.shape == (5, 32, 48)
    record = json.loads(first.frames.with_name(first.frames.name + ".json").read_text())
    assert record["prompt"] == first.prompt
    assert record["sampling"]["noise_shift"] == pytest.approx(0.05)
    assert sha256(road.adapter) in record["weights"].values()
    assert first.preview.is_file()
    assert [clip.seed for clip in road.generated] == [0, 1]


def test_a_clip_does_not_depend_on_the_others(road, tmp_path):
    config = replace(
        recipes.get_recipe("tiny").generate,
        prompt=("A blue ring.",),
        seed=1,
        height=32,
        width=48,
        num_frames=5,
        num_inference_steps=3,
        vae_lora_path=road.stage1,
        adapter_path=road.adapter,
        output_path=tmp_path,
    )
    (alone,) = generate(config)
    np.testing.assert_array_equal(read_rgba(alone.frames).rgba(), read_rgba(road.generated[1].frames).rgba())


def test_exports_hold_the_same_alpha(road):
    source = read_rgba(road.generated[0].frames)
    name = road.generated[0].frames.name
    webp = read_rgba(road.root / "exported" / f"{name}.webp")
    pair = read_pair(road.root / "exported" / f"{name}_rgb.mp4", road.root / "exported" / f"{name}_alpha.mp4")
    seen = source.alpha > 0  # colour under alpha 0 is filled from the edges
    np.testing.assert_array_equal(webp.alpha, source.alpha)
    np.testing.assert_array_equal(webp.rgb[seen], source.rgb[seen])
    np.testing.assert_array_equal(pair.alpha, source.alpha)
    assert (road.root / "exported" / f"{name}_preview.mp4").is_file()


def test_evaluation_reports_what_the_issue_names(road):
    report = json.loads(road.evaluation.report.read_text())
    assert {"rgb_mae", "rgb_mae_any_alpha", "alpha_mae", "psnr", "ssim", "alpha_psnr", "alpha_ssim", "background_leak", "holes"} <= report[
        "mean"
    ].keys()
    assert len(report["clips"]) == 3
    assert road.evaluation.sheet.is_file()
    assert len(list((road.root / "evaluation").glob("*_prediction_alpha.mp4"))) == 3


def test_every_stage_records_its_run(road):
    for stage in ("vae", "cache", "dit", "generated", "evaluation"):
        record = json.loads((road.root / stage / "run.json").read_text())
        assert record["weights"], stage
        assert record["versions"]["torch"] == torch.__version__


def test_stage1_resumes_to_the_same_weights(road, tmp_path):
    config = replace(
        recipes.get_recipe("tiny").train_vae,
        dataset_base_path=road.root / "data",
        height=32,
        width=48,
        num_frames=5,
        max_steps=2,
        decay="constant",
        save_every_steps=1,
        output_path=tmp_path / "parts",
    )
    _, whole = train_vae(replace(config, output_path=tmp_path / "whole"))
    train_vae(replace(config, max_steps=1))
    _, resumed = train_vae(replace(config, resume="latest"))
    expected, found = read_tensors(whole), read_tensors(resumed)
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_stage2_resumes_to_the_same_weights(road, tmp_path):
    """2 + 2 steps are 4, to the bit: adapter, average, optimiser, and what every position draws."""
    size = {"height": 32, "width": 48, "num_frames": 5}
    settings = {"max_steps": 4, "decay": "constant", "save_every_steps": 2, "caption_dropout": 0.5, "ema_decay": 0.9}
    config = replace(
        recipes.get_recipe("tiny").train_dit, **size, **settings, cache_path=road.root / "cache", output_path=tmp_path / "parts"
    )
    (whole,) = train_dit(replace(config, output_path=tmp_path / "whole"))
    (half,) = train_dit(replace(config, max_steps=2))
    before = read_tensors(half)
    (resumed,) = train_dit(replace(config, resume="latest"))
    expected, found = read_tensors(whole), read_tensors(resumed)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert any(not torch.equal(before[key], found[key]) for key in expected), "the second half trains"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_training_sample_depends_on_its_position_alone(road, num_workers):
    source, config = CachedLatents(LatentCache(road.root / "cache")), recipes.get_recipe("tiny").train_dit
    at = partial(sample_at, source, order=BatchOrder(source.sizes, batch_size=2, seed=config.seed), config=config)
    stream = PositionStream(at, num_workers=num_workers)
    taken = stream.take([4, 5]) + stream.take([6]) + stream.take([2])
    for sample, position in zip(taken, [4, 5, 6, 2], strict=True):
        found, expected = ((*drawn.clip, drawn.context, drawn.noise, drawn.sigma) for drawn in (sample, at(position)))
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert not torch.equal(taken[0].noise, taken[1].noise)


def test_a_cache_of_another_merge_block_is_refused(road, tmp_path):
    same = road.root / "vae" / "feature_merge_epoch_0.safetensors"
    other = tmp_path / "other.safetensors"
    write_tensors(other, {key: tensor + 1 for key, tensor in read_tensors(same).items()}, metadata={})
    size = {"height": 32, "width": 48, "num_frames": 5}
    config = replace(recipes.get_recipe("tiny").train_dit, **size, cache_path=road.root / "cache", max_steps=1)
    train_dit(replace(config, feature_merge_checkpoint=same, output_path=tmp_path / "same"))  # the same tensors in another file
    with pytest.raises(CacheError, match="wan-alpha cache"):
        train_dit(replace(config, feature_merge_checkpoint=other, output_path=tmp_path / "other"))


def test_a_cache_of_another_size_is_refused(road, tmp_path):
    config = replace(recipes.get_recipe("tiny").train_dit, cache_path=road.root / "cache", output_path=tmp_path)
    with pytest.raises(CacheError, match="--num_frames 5 --height 32 --width 48"):
        train_dit(config)


def test_a_cache_follows_the_clips(road, tmp_path):
    """Another clip under the same name is encoded anew; a clip's file of another run is not read."""
    tiny, size = recipes.get_recipe("tiny"), {"height": 32, "width": 48, "num_frames": 5}
    config = replace(tiny.cache, **size, draws=1, dataset_base_path=tmp_path / "data", feature_merge_checkpoint=road.stage1)
    config = replace(config, output_path=tmp_path / "cache")
    prepare(replace(tiny.prepare, **size, synthetic=1, seed=0, output_path=tmp_path / "data"))
    cache(config)
    before = LatentCache(tmp_path / "cache").draw(0, draw=0)[0]
    prepare(replace(tiny.prepare, **size, synthetic=1, seed=1, output_path=tmp_path / "data"))
    cache(config)
    assert not torch.equal(before, LatentCache(tmp_path / "cache").draw(0, draw=0)[0])
    shutil.copy(road.root / "cache" / "shards" / "00000.safetensors", tmp_path / "cache" / "shards" / "00000.safetensors")
    with pytest.raises(CacheError, match="of another run"):
        LatentCache(tmp_path / "cache")


def test_a_merge_block_alone_decodes_nothing(road, tmp_path):
    merge_only = road.root / "vae" / "feature_merge_epoch_0.safetensors"
    config = replace(recipes.get_recipe("tiny").evaluate, dataset_base_path=road.root / "data", feature_merge_checkpoint=merge_only)
    with pytest.raises(UsageError, match="no file with the decoders"):
        evaluate(replace(config, output_path=tmp_path))


def test_mode_merge_needs_decoders(road, tmp_path):
    config = replace(
        recipes.get_recipe("tiny").train_vae,
        dataset_base_path=road.root / "data",
        feature_merge_checkpoint=None,
        mode="merge",
        output_path=tmp_path,
    )
    with pytest.raises(UsageError, match="vae_lora_path"):
        train_vae(config)


def test_the_latent_layout_trains_and_reconstructs(road, tmp_path):
    size = {"height": 32, "width": 48, "num_frames": 5, "dataset_base_path": road.root / "data"}
    tiny = recipes.get_recipe("tiny")
    config = replace(tiny.train_vae, **size, merge_layout="latent", feature_merge_checkpoint=None, max_steps=1, output_path=tmp_path)
    merge_only, stage1 = train_vae(config)
    assert "conv_in.weight" in read_tensors(merge_only)
    report = evaluate(replace(tiny.evaluate, **size, feature_merge_checkpoint=stage1, max_clips=1, output_path=tmp_path / "evaluation"))
    assert report.mean["alpha_mae"] < 255


def test_plain_lora_is_an_adapter_too(road, tmp_path):
    size = {"height": 32, "width": 48, "num_frames": 5}
    config = replace(recipes.get_recipe("tiny").train_dit, **size, cache_path=road.root / "cache", adapter="lora", output_path=tmp_path)
    (path,) = train_dit(replace(config, noise_shift=0.0, loss_weighting="bsmntw", sigma_density="table", max_steps=1))
    adapter = read_adapter(path)
    assert adapter.kind == "lora"
    assert adapter.noise_shift == 0


def test_stage2_without_a_cache_makes_one(road, tmp_path):
    size = {"height": 32, "width": 48, "num_frames": 5, "dataset_base_path": road.root / "data"}
    config = replace(recipes.get_recipe("tiny").train_dit, **size, cache_path=None, draws=1, max_steps=1, output_path=tmp_path)
    train_dit(replace(config, feature_merge_checkpoint=road.stage1))
    assert LatentCache(tmp_path / "cache").index.draws == 1
