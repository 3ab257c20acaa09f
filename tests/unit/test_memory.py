"""Out of memory names the next setting to change."""

import re
from pathlib import Path
from types import ModuleType

import pytest
import torch

from wan_alpha import caching, evaluate, generate
from wan_alpha.config import CacheConfig, EvaluateConfig, GenerateConfig, TrainConfig, TrainDitConfig, TrainVaeConfig
from wan_alpha.errors import UsageError
from wan_alpha.memory import ANOTHER_DEVICE, StageConfig, lighter_networks, next_setting, out_of_memory_named

LEAST = {"gradient_checkpointing": True, "offload_activations": True, "base_quantization": "nf4"}
SIZE = "got out of memory with 81 frames of 832 x 480"


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU with bfloat16."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)


@pytest.mark.parametrize(
    ("config", "setting"),
    [
        (TrainVaeConfig(batch_size=2), "add --gradient_checkpointing"),
        (TrainVaeConfig(batch_size=4, gradient_checkpointing=True), "--batch_size 2 --gradient_accumulation_steps 2"),
        (TrainVaeConfig(vae_passes="tiled"), "--vae_passes whole --gradient_checkpointing"),
        (TrainDitConfig(vae_passes="tiled"), "add --gradient_checkpointing"),
        (TrainDitConfig(gradient_checkpointing=True), "--base_quantization int8"),
        (TrainDitConfig(gradient_checkpointing=True, base_quantization="int8", num_frames=81), "--base_quantization nf4"),
        (TrainDitConfig(**LEAST, num_frames=81), "--num_frames 41"),
        (TrainDitConfig(**LEAST, num_frames=81, cache_path=Path("cache"), on_the_fly=True), "--num_frames 41"),
        (TrainVaeConfig(gradient_checkpointing=True, num_frames=1, height=16, width=16), ANOTHER_DEVICE),
        (GenerateConfig(), "--vae_passes tiled"),
        (GenerateConfig(vae_passes="tiled"), "--base_quantization int8"),
        (GenerateConfig(vae_passes="tiled", base_quantization="fp8"), "--base_quantization nf4"),
        (GenerateConfig(vae_passes="tiled", base_quantization="nf4"), "--num_frames 41"),
        (CacheConfig(), "--vae_passes chunked"),
        (CacheConfig(vae_passes="tiled"), "--num_frames 9"),
        (EvaluateConfig(vae_passes="chunked"), "--vae_passes tiled"),
        (EvaluateConfig(vae_passes="tiled", num_frames=5), "--height 192 --width 192"),
        (EvaluateConfig(predictions=Path("clips")), ANOTHER_DEVICE),
        (TrainVaeConfig(gradient_checkpointing=True, num_frames=17), "--num_frames 9"),
        (TrainVaeConfig(gradient_checkpointing=True, num_frames=5, height=272, width=480), "--height 192 --width 352"),
    ],
)
def test_the_next_setting(config: StageConfig, setting: str) -> None:
    assert next_setting(config) == setting


@pytest.mark.parametrize(
    ("config", "setting"),
    [
        (TrainDitConfig(gradient_checkpointing=True), "add --offload_activations"),
        (TrainDitConfig(gradient_checkpointing=True, offload_activations=True), "--base_quantization int8"),
        (TrainDitConfig(gradient_checkpointing=True, device="cpu"), "--base_quantization int8"),
        (GenerateConfig(), "--offload model"),
        (GenerateConfig(offload="model"), "--vae_passes tiled"),
    ],
)
def test_the_next_setting_on_a_card(card: None, config: StageConfig, setting: str) -> None:
    assert next_setting(config) == setting


def test_a_cache_is_rebuilt_for_a_smaller_clip() -> None:
    message = r"^--num_frames 41, and a cache rebuilt for it, by the command that train-dit then names$"
    assert re.match(message, next_setting(TrainDitConfig(**LEAST, num_frames=81, cache_path=Path("cache"))))


def test_fsdp2_is_not_told_to_quantise(card: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    config = TrainDitConfig(gradient_checkpointing=True, offload_activations=True, num_frames=17)
    assert next_setting(config) == "--num_frames 9"
    assert lighter_networks(config) == f"a smaller --model, or {ANOTHER_DEVICE}"


@pytest.mark.parametrize(
    ("stage", "part", "config", "message"),
    [
        (generate, "weight_files", GenerateConfig(prompt=("A fox.",)), f"generating: {SIZE}; try: --vae_passes tiled"),
        (generate, "load_pipeline", GenerateConfig(prompt=("A fox.",)), "loading the networks: got out of memory; try: --precision"),
        (caching, "_build", CacheConfig(height=480, width=832, num_frames=81), f"caching: {SIZE}; try: --vae_passes chunked"),
        (caching, "load_rgba_vae", CacheConfig(), "loading the networks: got out of memory; try: --precision"),
        (evaluate, "load_scores", EvaluateConfig(height=480, width=832, num_frames=81), f"evaluating: {SIZE}; try: --vae_passes tiled"),
        (evaluate, "load_rgba_vae", EvaluateConfig(), "loading the networks: got out of memory; try: a smaller --model"),
    ],
)
def test_every_stage_says_it_in_one_line(
    stage: ModuleType, part: str, config: StageConfig, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def runs_out(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    for name, found in (("read_manifest", []), ("evaluation_entries", []), ("weight_files", {})):
        monkeypatch.setattr(stage, name, lambda *_, found=found, **__: found, raising=False)
    monkeypatch.setattr(stage, part, runs_out)
    run = {generate: generate.generate, caching: caching.build_cache, evaluate: evaluate.evaluate}[stage]
    with pytest.raises(UsageError, match=f"^{message}"):
        run(config)


def test_an_allocation_that_fails_is_one_line() -> None:
    message = r"training: got out of memory with 1 x 17 frames of 272 x 272; try: add --gradient_checkpointing"
    with pytest.raises(UsageError, match=message), out_of_memory_named(TrainVaeConfig()):
        torch.empty(2**52)
    with pytest.raises(UsageError, match=message), out_of_memory_named(TrainVaeConfig()):
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shapes"), out_of_memory_named(TrainVaeConfig()):
        raise RuntimeError("shapes differ")


@pytest.mark.parametrize(
    ("config", "setting"),
    [
        (TrainDitConfig(), "--precision bfloat16"),
        (TrainDitConfig(precision="bfloat16"), "a smaller --model, or a device with more memory"),
        (TrainVaeConfig(bidirectional="ours"), "--bidirectional none"),
        (TrainVaeConfig(), "a smaller --model, or a device with more memory"),
    ],
)
def test_lighter_networks(config: TrainConfig, setting: str) -> None:
    assert lighter_networks(config) == setting


@pytest.mark.parametrize(
    ("config", "setting"),
    [
        (TrainDitConfig(), "--base_quantization int8"),
        (TrainDitConfig(precision="float32"), "--precision bfloat16"),
        (TrainDitConfig(base_quantization="nf4"), f"a smaller --model, or {ANOTHER_DEVICE}"),
        (GenerateConfig(), "--offload model"),
        (GenerateConfig(offload="model"), "--base_quantization int8"),
        (CacheConfig(), f"a smaller --model, or {ANOTHER_DEVICE}"),
    ],
)
def test_lighter_networks_on_a_card(card: None, config: StageConfig, setting: str) -> None:
    assert lighter_networks(config) == setting


def test_while_loading_no_size_of_clips_is_named() -> None:
    message = r"^loading the networks: got out of memory; try: --precision bfloat16$"
    config = TrainDitConfig()
    with pytest.raises(UsageError, match=message), out_of_memory_named(config), out_of_memory_named(config, during="loading"):
        torch.empty(2**52)
