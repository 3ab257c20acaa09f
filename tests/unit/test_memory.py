"""Out of memory names the next setting to change."""

import pytest
import torch

from wan_alpha.config import TrainConfig, TrainDitConfig, TrainVaeConfig
from wan_alpha.errors import UsageError
from wan_alpha.memory import lighter_networks, next_setting, out_of_memory_named


@pytest.mark.parametrize(
    ("config", "setting"),
    [
        (TrainVaeConfig(batch_size=2), "add --gradient_checkpointing"),
        (TrainVaeConfig(batch_size=4, gradient_checkpointing=True), "--batch_size 2 --gradient_accumulation_steps 2"),
        (TrainVaeConfig(vae_passes="tiled"), "--vae_passes whole --gradient_checkpointing"),
        (TrainDitConfig(vae_passes="tiled"), "add --gradient_checkpointing"),
        (TrainDitConfig(gradient_checkpointing=True), "--base_quantization int8"),
        (TrainDitConfig(gradient_checkpointing=True, base_quantization="int8", num_frames=81), "--num_frames 41"),
        (TrainVaeConfig(gradient_checkpointing=True, num_frames=17), "--num_frames 9"),
        (TrainVaeConfig(gradient_checkpointing=True, num_frames=5, height=272, width=480), "--height 192 --width 352"),
    ],
)
def test_the_next_setting(config: TrainConfig, setting: str) -> None:
    assert next_setting(config) == setting


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


def test_while_loading_no_size_of_clips_is_named() -> None:
    message = r"^loading the networks: got out of memory; try: --precision bfloat16$"
    config = TrainDitConfig()
    with pytest.raises(UsageError, match=message), out_of_memory_named(config), out_of_memory_named(config, during="loading"):
        torch.empty(2**52)
