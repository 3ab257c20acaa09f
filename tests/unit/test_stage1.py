from pathlib import Path

import pytest
import torch
from torch import Tensor

from wan_alpha.checkpoints.files import read_tensors, write_tensors
from wan_alpha.checkpoints.kinds import describe
from wan_alpha.checkpoints.stage1 import (
    read_decoder_lora,
    read_merge,
    read_stage1,
    split_stage1,
    write_decoder_lora,
    write_merge,
    write_stage1,
)
from wan_alpha.checkpoints.vae_layout import count_res_blocks, original_decoder_path, original_key
from wan_alpha.errors import CheckpointError

FULL = {
    "middle.block.conv1.weight": torch.ones(2, 4, 1, 1, 1),
    "vae_fgr.decoder.conv1.conv3D.lora_A.default.weight": torch.ones(3, 2, 3, 3, 3),
    "vae_fgr.decoder.conv1.conv3D.lora_B.default.weight": torch.ones(2, 3, 1, 1, 1),
    "vae_fgr.decoder.middle.1.to_qkv.lora_A.default.weight": torch.ones(3, 2, 1, 1),
    "vae_pha.decoder.middle.1.to_qkv.lora_B.default.weight": torch.ones(6, 3, 1, 1),
}


def only(prefix: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in FULL.items() if key.startswith(prefix)}


def test_full_checkpoint_keeps_the_published_names(tmp_path: Path) -> None:
    parts = split_stage1(FULL, source="x")
    assert list(parts.merge) == ["block.conv1.weight"]
    assert list(parts.rgb_lora) == ["conv1.lora_A", "conv1.lora_B", "middle.1.to_qkv.lora_A"]
    assert list(parts.alpha_lora) == ["middle.1.to_qkv.lora_B"]
    write_stage1(tmp_path / "full.safetensors", parts, metadata={"mode": "merge"})
    assert read_tensors(tmp_path / "full.safetensors").keys() == FULL.keys()
    write_decoder_lora(tmp_path / "decoder.bin", parts, metadata={})
    assert read_tensors(tmp_path / "decoder.bin").keys() == only("vae_").keys()
    write_merge(tmp_path / "feature_merge_epoch_1.safetensors", parts, metadata={})
    assert read_tensors(tmp_path / "feature_merge_epoch_1.safetensors").keys() == only("middle.").keys()


def test_latent_merge_file_has_no_prefix(tmp_path: Path) -> None:
    latent = {"conv_in.weight": torch.ones(1), "res_blocks.0.residual.0.gamma": torch.ones(1)}
    for prefix in ("", "middle."):
        parts = split_stage1({prefix + key: tensor for key, tensor in latent.items()}, source="x")
        write_merge(tmp_path / "m.safetensors", parts, metadata={})
        assert read_tensors(tmp_path / "m.safetensors").keys() == latent.keys()


def test_names_without_adapter_name_and_frozen_baggage_are_read() -> None:
    bare = {key.replace(".default", "").replace(".conv3D", ""): tensor for key, tensor in FULL.items()}
    baggage = (
        "vae_fgr.decoder.conv1.conv3D.base_layer.weight",
        "vae_pha.conv2.bias",
        "vae_fgr.encoder.conv1.bias",
        "pipe.dit.x",
        "perceptual_loss.model.0.bias",
    )
    parts = split_stage1(bare | {key: torch.ones(1) for key in baggage}, source="x")
    assert parts.rgb_lora.keys() == split_stage1(FULL, source="x").rgb_lora.keys()
    assert len(parts.merge) == 1


def test_wrong_files_say_what_they_look_like(tmp_path: Path) -> None:
    path = tmp_path / "t2v.safetensors"
    write_tensors(path, {"blocks.0.self_attn.q.lora_magnitude_vector.default.weight": torch.ones(1)}, metadata={})
    with pytest.raises(CheckpointError, match=r"t2v.safetensors: got what looks like a DiT adapter \(1 tensors\)"):
        read_stage1(path)
    with pytest.raises(CheckpointError, match="1 foreign keys"):
        split_stage1(FULL | {"surprise": torch.ones(1)}, source="x")
    with pytest.raises(CheckpointError, match="expected a Stage-1 file"):
        split_stage1({}, source="x")
    write_tensors(path, only("middle."), metadata={})
    with pytest.raises(CheckpointError, match="--feature_merge_checkpoint"):
        read_decoder_lora(path)
    write_tensors(path, only("vae_"), metadata={})
    with pytest.raises(CheckpointError, match="--vae_lora_path"):
        read_merge(path)
    assert read_decoder_lora(path).source == str(path)


@pytest.mark.parametrize(
    ("ours", "published", "num_res_blocks"),
    [
        ("conv_in", "conv1", 2),
        ("conv_out", "head.2", 2),
        ("norm_out.gamma", "head.0.gamma", 2),
        ("mid_block.resnets.1.conv2", "middle.2.residual.6", 2),
        ("mid_block.attentions.0.to_qkv", "middle.1.to_qkv", 2),
        ("up_blocks.0.resnets.2.conv1", "upsamples.2.residual.2", 2),
        ("up_blocks.0.upsamplers.0.resample.1", "upsamples.3.resample.1", 2),
        ("up_blocks.1.resnets.0.conv_shortcut", "upsamples.4.shortcut", 2),
        ("up_blocks.1.upsamplers.0.time_conv", "upsamples.7.time_conv", 2),
        ("up_blocks.3.resnets.2.norm2.gamma", "upsamples.14.residual.3.gamma", 2),
        ("up_blocks.1.resnets.0.conv_shortcut", "upsamples.3.shortcut", 1),
        ("up_blocks.2.upsamplers.0.resample.1", "upsamples.8.resample.1", 1),
    ],
)
def test_decoder_names(ours: str, published: str, num_res_blocks: int) -> None:
    assert original_decoder_path(ours, num_res_blocks=num_res_blocks) == published


@pytest.mark.parametrize(("num_res_blocks", "num_tensors"), [(1, None), (2, 194)])
def test_every_tensor_of_the_vae_has_an_original_name(num_res_blocks: int, num_tensors: int | None) -> None:
    from diffusers import AutoencoderKLWan

    with torch.device("meta"):
        keys = AutoencoderKLWan(base_dim=4, num_res_blocks=num_res_blocks).state_dict()
    originals = {original_key(key, num_res_blocks=num_res_blocks) for key in keys}
    assert len(originals) == len(keys) == (num_tensors or len(keys))
    assert count_res_blocks(originals) == num_res_blocks
    assert describe(originals).startswith("an original VAE")
    assert describe(list(keys)).startswith("a diffusers VAE")
    with pytest.raises(CheckpointError, match="a module of the Wan"):
        original_key("decoder.nonsense.weight", num_res_blocks=num_res_blocks)
    with pytest.raises(CheckpointError, match="unknown layout"):
        count_res_blocks(["a"])
