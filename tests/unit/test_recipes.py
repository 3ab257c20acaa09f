"""Recipes: complete, consistent from stage to stage, documented, and in step with the scripts in runs/."""

import dataclasses
import inspect
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel

from wan_alpha import cli
from wan_alpha.errors import UsageError
from wan_alpha.geometry import ClipSize
from wan_alpha.models.dora import inject_adapter
from wan_alpha.models.rgba_vae import build_rgba_vae
from wan_alpha.recipes import RECIPES, Recipe, get_recipe

RUNS = Path(__file__).parents[2] / "runs"
every_recipe = pytest.mark.parametrize("make", RECIPES.values(), ids=list(RECIPES))


@every_recipe
def test_fields_are_the_stages_and_their_configs(make: Callable[[], Recipe]) -> None:
    recipe = make()
    assert [field.name for field in dataclasses.fields(recipe)] == [name.replace("-", "_") for name in cli.STAGES]
    for name, verb in cli.STAGES.items():
        assert type(getattr(recipe, name.replace("-", "_"))) is verb.config


@every_recipe
def test_stages_fit_each_other(make: Callable[[], Recipe]) -> None:
    r = make()
    stages = [r.train_vae, r.cache, r.train_dit, r.generate, r.evaluate]
    for stage in stages:
        ClipSize(num_frames=stage.num_frames, height=stage.height, width=stage.width)
    assert len({stage.model for stage in stages}) == 1
    assert len({stage.precision for stage in stages}) == 1
    assert len({(c.height, c.width, c.num_frames) for c in (r.cache, r.train_dit, r.generate)}) == 1
    assert len({(c.height, c.width, c.num_frames) for c in (r.train_vae, r.evaluate)}) == 1
    assert r.cache.max_sequence_length == r.train_dit.max_sequence_length == (r.generate.max_sequence_length or 512)
    assert r.cache.draws == r.train_dit.draws
    assert r.cache.buckets == r.train_dit.buckets
    assert r.train_dit.sigma_shift == r.generate.sigma_shift
    assert r.prepare.fps == r.generate.fps
    assert r.export.fps is None, "the record beside generated frames states it"


@every_recipe
def test_a_stage_reads_what_the_one_before_wrote(make: Callable[[], Recipe]) -> None:
    r = make()
    assert {c.dataset_base_path for c in (r.train_vae, r.cache, r.train_dit, r.evaluate)} == {r.prepare.output_path}
    assert r.train_dit.cache_path == r.cache.output_path
    assert r.export.source == r.generate.output_path
    outputs = [getattr(r, field.name).output_path for field in dataclasses.fields(r)]
    assert len(set(outputs)) == len(outputs)


@every_recipe
def test_guidance_needs_captions_dropped_in_training(make: Callable[[], Recipe]) -> None:
    r = make()
    assert (r.generate.guidance_scale > 1) == (r.train_dit.caption_dropout > 0)


@every_recipe
def test_docstring_says_command_hardware_time_and_result(make: Callable[[], Recipe]) -> None:
    doc = inspect.getdoc(make) or ""
    assert [word for word in ("command:", "hardware:", "time:", "expected:") if word not in doc] == []


@pytest.mark.parametrize("name", ["wan_1_3b", "wan_14b"])
def test_real_runs_validate_and_preview_stage_2(name: str) -> None:
    r = get_recipe(name)
    dit = r.train_dit
    assert (dit.validate_every_steps, dit.validation_clips, dit.preview_clips) == (250, 8, 2)
    assert dit.guidance_scale == r.generate.guidance_scale
    call = next(line for line in (RUNS / f"{name}.sh").read_text().splitlines() if line.startswith("wan-alpha train-dit"))
    assert '"${vae[@]}"' in call  # previews need the decoders


def test_the_papers_numbers() -> None:
    """arXiv 2509.24979 v3 and the released scripts."""
    r = get_recipe("wan_14b")
    vae, dit = r.train_vae, r.train_dit
    assert (vae.mode, vae.decoder_lora_rank, vae.learning_rate, vae.batch_size, vae.max_steps) == ("merge+decoders", 128, 1e-4, 2, 75_000)
    assert (vae.height, vae.width, vae.num_frames) == (272, 272, 17)
    assert (dit.adapter, dit.dora_rank, dit.learning_rate, dit.noise_shift) == ("dora", 32, 1e-4, 0.05)
    assert (dit.batch_size * dit.gradient_accumulation_steps, dit.max_steps) == (8, 1750)
    assert (r.generate.num_inference_steps, r.generate.guidance_scale, r.generate.fps) == (4, 1.0, 16.0)


def test_apple_silicon_is_the_seeds_setting() -> None:
    r = get_recipe("apple-silicon")
    assert (r.train_dit.height, r.train_dit.width, r.train_dit.num_frames) == (272, 272, 17)
    assert (r.train_vae.mode, r.train_vae.num_epochs, r.train_dit.num_epochs, r.train_dit.dataset_repeat) == ("merge", 10, 15, 100)
    assert {r.train_vae.num_workers, r.train_dit.num_workers} == {0}
    assert r.train_dit.precision == "float32"


@pytest.mark.parametrize(
    ("name", "blocks", "heads", "ffn_dim"), [("apple_silicon", 30, 12, 8960), ("wan_1_3b", 30, 12, 8960), ("wan_14b", 40, 40, 13824)]
)
def test_shapes_run_on_the_meta_device(name: str, blocks: int, heads: int, ffn_dim: int) -> None:
    """The whole real base with the recipe's adapter, on one clip of the recipe's size, forward and backward."""
    config = get_recipe(name).train_dit
    size = ClipSize(num_frames=config.num_frames, height=config.height, width=config.width)
    with torch.device("meta"):
        transformer = WanTransformer3DModel(num_attention_heads=heads, ffn_dim=ffn_dim, num_layers=blocks).requires_grad_(False)
        inject_adapter(transformer, rank=config.dora_rank, kind=config.adapter)
        latents = torch.empty(config.batch_size, 16, *size.latent_shape)
        text, timestep = torch.empty(config.batch_size, config.max_sequence_length, 4096), torch.empty(config.batch_size)
        velocity = transformer(latents, timestep, text, return_dict=False)[0]
        velocity.mean().backward()
    assert velocity.shape == latents.shape
    trained = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    assert len(trained) == 30 * blocks
    assert all(parameter.grad is not None and parameter.grad.shape == parameter.shape for parameter in trained)


@pytest.mark.parametrize("name", ["apple_silicon", "wan_1_3b", "wan_14b"])
def test_shapes_of_stage_1_run_on_the_meta_device(name: str) -> None:
    """Wan's own VAE with the recipe's merge block and decoder LoRA, on one batch of the recipe's size, forward and backward."""
    config = get_recipe(name).train_vae
    with torch.device("meta"):
        model = build_rgba_vae(AutoencoderKLWan(), layout=config.merge_layout, width=config.merge_width, rank=config.decoder_lora_rank)
        rgb, alpha = (torch.empty(config.batch_size, c, config.num_frames, config.height, config.width) for c in (3, 1))
        latents = model.encode(rgb, alpha)
        pixels = model.decode_raw(latents)
        sum(decoded.mean() for decoded in pixels).backward()
    size = ClipSize(num_frames=config.num_frames, height=config.height, width=config.width)
    assert latents.shape == (config.batch_size, 16, *size.latent_shape)
    assert [decoded.shape for decoded in pixels] == [rgb.shape, rgb.shape]
    trained = model.trainable_parameters(mode="merge+decoders")
    assert any("lora_" in name for name in trained)
    assert all(parameter.grad is not None and parameter.grad.shape == parameter.shape for parameter in trained.values())


def test_unknown_recipe() -> None:
    with pytest.raises(UsageError, match="did you mean 'wan_14b'"):
        get_recipe("wan-14B")


STUB = '#!/usr/bin/env bash\nprintf "%s\\x1f" "$@" >> "$CALLS"\necho >> "$CALLS"\n'


@pytest.mark.parametrize("name", ["wan_1_3b", "wan_14b", "apple_silicon"])
def test_script_runs_every_stage_with_flags_that_exist(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The script runs with a stand-in for the command; each recorded call must then parse."""
    command = tmp_path / "bin" / "wan-alpha"
    command.parent.mkdir()
    command.write_text(STUB)
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    for file in ("vae/feature_merge_epoch_2.safetensors", "vae/stage1.safetensors", "dit/epoch-9.safetensors", "dit/epoch-10.safetensors"):
        (tmp_path / "out" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / file).touch()
    environment = {"PATH": f"{command.parent}:{os.environ['PATH']}", "CALLS": str(tmp_path / "calls")}
    subprocess.run(["bash", RUNS / f"{name}.sh", "my clips", tmp_path / "out"], env=environment, check=True)
    calls = [line.split("\x1f")[:-1] for line in (tmp_path / "calls").read_text().splitlines()]
    assert {call[0] for call in calls} == set(cli.STAGES)
    for call in calls:
        assert cli.main([*call, "--dry-run"]) == 0, capsys.readouterr().err
        assert call[call.index("--recipe") + 1] == name
    generate = next(call for call in calls if call[0] == "generate")
    assert generate[generate.index("--adapter_path") + 1].endswith("epoch-10.safetensors")
