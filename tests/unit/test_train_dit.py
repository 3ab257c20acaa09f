"""Stage 2 on the tiny base, a few steps: from a cache and on the fly, validation per noise level, previews with their transparency."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from scarce_memory import advice, line_where_memory_ends
from tiny_stage2 import tiny_stage2
from training_log import log_lines
from wan_alpha.checkpoints.files import read_tensors, write_tensors
from wan_alpha.config import TrainDitConfig
from wan_alpha.data.draws import BatchOrder
from wan_alpha.data.latents import LatentCache
from wan_alpha.encoding import encode_clip, load_rgba_vae
from wan_alpha.errors import UsageError
from wan_alpha.media.read import read_rgba
from wan_alpha.models.load import load_transformer, resolve_base
from wan_alpha.objectives.transparency import gaussian_ellipse
from wan_alpha.recipes.tiny import STAGE1
from wan_alpha.train import dit
from wan_alpha.train.dit import build_transformer, loss, train
from wan_alpha.train.flow_data import FlowBatch, FlowSample, sample_at, to_batch, validation_sample
from wan_alpha.train.latent_data import LatentData, latent_data
from wan_alpha.train.latent_source import CachedLatents, hold_out, stack_latents
from wan_alpha.train.validation import SIGMAS, validate_dit

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> TrainDitConfig:
    """Three procedural clips 32 x 48 x 5 in a cache of two draws."""
    return tiny_stage2(tmp_path_factory.mktemp("stage2"), draws=2)


@pytest.fixture(scope="module")
def trained(config) -> Path:
    """Two steps with validation and previews after each."""
    train(replace(config, validation_clips=1, validate_every_steps=1, preview_clips=2, num_inference_steps=2, guidance_scale=2.0))
    return config.output_path


def same(a: FlowSample, b: FlowSample) -> bool:
    return all(
        torch.equal(x, y) for x, y in zip((*a.clip, a.context, a.noise, a.sigma), (*b.clip, b.context, b.noise, b.sigma), strict=True)
    )


def test_validation_is_logged_per_noise_level(trained) -> None:
    lines = log_lines(trained)
    found = [line for line in lines if "validation/total" in line]
    assert [line["step"] for line in found] == [1, 2]
    levels = [found[0][f"validation/sigma_{sigma:g}"] for sigma in SIGMAS]
    assert found[0]["validation/total"] == pytest.approx(sum(levels) / 9, abs=1e-5)
    assert (trained / "best.safetensors").is_file()


def test_previews_come_with_their_transparency(trained) -> None:
    rows = json.loads((trained / "previews" / "step_000002.json").read_text())
    assert [row["seed"] for row in rows] == [0, 1][: len(rows)]
    assert {"prompt", "border_leak", "coverage", "peak", "flicker"} <= rows[0].keys()
    lines = log_lines(trained)
    logged = next(line for line in lines if line["step"] == 2 and "validation/total" in line)
    assert logged["validation/preview_coverage"] == pytest.approx(sum(row["coverage"] for row in rows) / len(rows), abs=1e-6)
    moving = read_rgba(trained / "previews" / "step_000002.webp")
    assert moving.rgb.shape == (5, len(rows) * 34 - 2, 4 * 48 + 3 * 2, 3)
    assert (trained / "previews" / "step_000002.png").is_file()


def test_a_reversed_noise_level_would_show(config) -> None:
    """The base was trained with 1 as noise: near noise it is worse when told that it sees a clip."""
    transformer = load_transformer(resolve_base(config), dtype=torch.float32, device=CPU)
    _, source = hold_out(CachedLatents(LatentCache(config.cache_path)), 1)

    def measured(batch: FlowBatch) -> dict[str, torch.Tensor]:
        return loss(transformer, batch, noise_shift=0.0, weighting="none", sigma_shift=3.0)

    right = validate_dit(source, loss=measured, encode=stack_latents(CPU), device=CPU)
    assert right == validate_dit(source, loss=measured, encode=stack_latents(CPU), device=CPU), "to the bit"

    def reversed_level(batch: FlowBatch) -> dict[str, torch.Tensor]:
        hook = transformer.register_forward_pre_hook(
            lambda _m, _a, given: ((), {**given, "timestep": 1000 - given["timestep"]}), with_kwargs=True
        )
        try:
            return measured(batch)
        finally:
            hook.remove()

    wrong = validate_dit(source, loss=reversed_level, encode=stack_latents(CPU), device=CPU)
    assert wrong["sigma_0.9"] > 1.1 * right["sigma_0.9"]


def test_validation_noise_is_the_same_at_every_level_and_of_every_clip_its_own(config) -> None:
    source = CachedLatents(LatentCache(config.cache_path))
    low, high, other = (validation_sample(source, i, sigma=sigma) for i, sigma in ((0, 0.1), (0, 0.9), (1, 0.1)))
    assert torch.equal(low.noise, high.noise)
    assert torch.equal(low.clip[0], high.clip[0])
    assert not torch.equal(low.noise, other.noise)


def test_holding_out_takes_a_clip_under_all_its_captions(config) -> None:
    source = CachedLatents(LatentCache(config.cache_path))
    source.keys = ("a", "b", "a")
    rest, held = hold_out(source, 1)
    assert held.prompts == (source.prompts[0], source.prompts[2])
    assert rest.prompts == (source.prompts[1],)
    assert rest.fingerprint != source.fingerprint
    with pytest.raises(UsageError, match="--validation_clips: got 3"):
        hold_out(source, 3)


@pytest.fixture(scope="module")
def on_the_fly(config) -> tuple[TrainDitConfig, LatentData]:
    config = replace(config, on_the_fly=True, cache_path=None, noise_shift=0.0, output_path=config.output_path.with_name("fly"))
    transformer = build_transformer(config, device=CPU)
    return config, latent_data(config, transformer, device=CPU)


def test_clips_encoded_on_the_fly_are_what_a_cache_would_hold(config, on_the_fly) -> None:
    fly, data = on_the_fly
    order = BatchOrder(data.training.sizes, batch_size=2, seed=fly.seed)
    samples = [sample_at(data.training, position, order=order, config=fly) for position in (0, 1)]
    batch = to_batch(samples, encode=data.encode, device=CPU)
    rgb, alpha, colour = samples[1].clip
    rgba_vae = load_rgba_vae(config, device=CPU, needs=("merge block",))
    expected = encode_clip(rgba_vae, rgb[None], alpha[None], colour=colour[None], hard_threshold=config.hard_threshold)
    torch.testing.assert_close(batch.x0[1:], expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(batch.gaussian[1:, 0], gaussian_ellipse(alpha[None]))
    assert batch.x0.shape == batch.noise.shape == (2, 16, 2, 4, 6), "c, t, h, w"
    cached = CachedLatents(LatentCache(config.cache_path))
    for prompt in (cached.prompts[0], ""):
        torch.testing.assert_close(data.training.context(prompt), cached.context(prompt))


def test_training_on_the_fly_needs_no_cache(on_the_fly, caplog) -> None:
    fly, _ = on_the_fly
    caplog.set_level("INFO", logger="wan_alpha")
    (path,) = train(replace(fly, max_steps=1, gradient_checkpointing=True, offload_activations=True, memory_forecast="log"))
    assert any(record.message.startswith("memory forecast: ") for record in caplog.records)
    assert read_tensors(path)
    assert not (fly.output_path / "cache").exists()
    assert len(json.loads((fly.output_path / "clips.json").read_text())["clips"]) == 3


def test_a_resumed_run_on_the_fly_has_the_same_captions_and_merge_block(on_the_fly, tmp_path) -> None:
    """No state holds either."""
    fly, _ = on_the_fly
    other, table = tmp_path / "stage1.safetensors", tmp_path / "captions.csv"
    write_tensors(other, {name: tensor * 1.01 for name, tensor in read_tensors(STAGE1).items()}, metadata={})
    table.write_text((fly.dataset_base_path / "metadata.csv").read_text().replace("The background is transparent", "No background"))
    run = replace(fly, max_steps=1, decay="constant", output_path=tmp_path / "dit")
    train(run)
    for change in ({"feature_merge_checkpoint": other}, {"dataset_metadata_path": table}):
        with pytest.raises(UsageError, match=r"--resume: got data clips .*, captions .*, VAE and merge block .* \(was clips "):
            train(replace(run, max_steps=2, resume="latest", **change))
    train(replace(run, max_steps=2, resume="latest", feature_merge_checkpoint=None, vae_lora_path=STAGE1))


def test_a_sample_on_the_fly_depends_on_its_position_alone(on_the_fly) -> None:
    fly, data = on_the_fly
    order = BatchOrder(data.training.sizes, batch_size=2, seed=fly.seed)
    first = [sample_at(data.training, position, order=order, config=fly) for position in range(3)]
    assert same(sample_at(data.training, 2, order=order, config=fly), first[2])
    assert not torch.equal(first[0].noise, first[1].noise)


def test_checkpointing_and_offloading_change_no_gradient(config, monkeypatch) -> None:
    source = CachedLatents(LatentCache(config.cache_path))
    batch = to_batch([validation_sample(source, 0, sigma=0.5)], encode=stack_latents(CPU), device=CPU)
    moved: list[int] = []

    class Counted(torch.autograd.graph.saved_tensors_hooks):
        def __init__(self, *, pin_memory: bool) -> None:
            super().__init__(lambda tensor: moved.append(tensor.numel()) or tensor, lambda tensor: tensor)

    def gradients(**changes: bool) -> dict[str, torch.Tensor]:
        moved.clear()
        changed = replace(config, **changes)
        transformer = build_transformer(changed, device=CPU)
        with dit.activations_on_cpu(changed, device=CPU):
            value = loss(transformer, batch, noise_shift=0.05, weighting="none", sigma_shift=3.0)["total"]
        value.backward()
        return {name: p.grad for name, p in transformer.named_parameters() if p.grad is not None}

    plain = gradients()
    monkeypatch.setattr(dit, "save_on_cpu", Counted)
    offloaded = gradients(gradient_checkpointing=True, offload_activations=True)
    assert moved, "the blocks' inputs go through the hooks"
    assert plain.keys() == offloaded.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(offloaded[name], gradient, atol=1e-6, rtol=1e-4)
    with pytest.raises(UsageError, match="--gradient_checkpointing"):
        gradients(offload_activations=True)


def test_noise_belongs_to_the_sample(config) -> None:
    """v1 has mean 0 everywhere, v2 mu outside the subject's own ellipse: batch mates do not share it."""
    source = CachedLatents(LatentCache(config.cache_path))
    order = BatchOrder(source.sizes, batch_size=2, seed=0)
    samples = [sample_at(source, position, order=order, config=config) for position in (0, 1)]
    batch = to_batch(samples, encode=stack_latents(CPU), device=CPU)
    assert batch.gaussian.shape == (2, 1, 2, 4, 6)
    assert not torch.equal(batch.gaussian[0], batch.gaussian[1])
    assert not torch.equal(batch.sigma[0], batch.sigma[1])


def test_captions_are_dropped_at_their_rate(config) -> None:
    source = CachedLatents(LatentCache(config.cache_path))
    order, empty = BatchOrder(source.sizes, batch_size=2, seed=0), source.context("")
    for rate in (0.0, 0.3, 1.0):
        drawn = [sample_at(source, i, order=order, config=replace(config, caption_dropout=rate)) for i in range(150)]
        share = sum(torch.equal(sample.context, empty) for sample in drawn) / len(drawn)
        assert share == pytest.approx(rate, abs=0.09 if 0 < rate < 1 else 0)


def test_nothing_to_validate_on_is_an_error(config) -> None:
    with pytest.raises(UsageError, match="--validation_cache_path"):
        train(replace(config, validate_every_steps=1, output_path=config.output_path.with_name("nothing")))


def test_the_encoder_refuses_nothing_silently(config) -> None:
    """Another latent space is named before training starts."""
    fly = replace(config, on_the_fly=True)
    transformer = build_transformer(config, device=CPU)
    transformer.register_to_config(in_channels=48)
    with pytest.raises(UsageError, match="16 latent channels, expected 48"):
        latent_data(fly, transformer, device=CPU)


@pytest.mark.parametrize("part", ["load_transformer", "quantise", "inject_adapter", "latent_data", "log_forecast", "fit"])
def test_wherever_memory_ends_one_line_names_the_next_setting(config, part, monkeypatch) -> None:
    line = line_where_memory_ends(dit, part, config=config, monkeypatch=monkeypatch)
    assert re.search(advice(part, loading="--precision bfloat16"), line)
