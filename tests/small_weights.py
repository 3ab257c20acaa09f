"""A base model of a few thousand weights on disk, with a Stage-1 checkpoint and a DoRA whose values are as after training."""

from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel

from wan_alpha.checkpoints.adapter import write_adapter
from wan_alpha.checkpoints.stage1 import write_stage1
from wan_alpha.models.dora import adapter_state, inject_adapter
from wan_alpha.models.rgba_vae import build_rgba_vae

RANK, LORA_RANK = 3, 2


def write_small_weights(folder: Path) -> None:
    """FOLDER/base (diffusers layout), FOLDER/epoch-2.safetensors (Stage 2), FOLDER/stage1_epoch_4.safetensors."""
    torch.manual_seed(0)
    vae = AutoencoderKLWan(
        base_dim=4,
        z_dim=2,
        dim_mult=[1, 1],
        num_res_blocks=1,
        temperal_downsample=[True],
        latents_mean=[0.5, -0.5],
        latents_std=[2.0, 3.0],
    )
    sizes = dict(
        num_attention_heads=2, attention_head_dim=12, in_channels=2, out_channels=2, text_dim=12, freq_dim=8, ffn_dim=32, num_layers=2
    )
    transformer = WanTransformer3DModel(**sizes)
    vae.save_pretrained(folder / "base" / "vae")
    transformer.save_pretrained(folder / "base" / "transformer")
    (folder / "base" / "model_index.json").write_text("{}")
    inject_adapter(transformer, rank=RANK, generator=torch.Generator().manual_seed(1))
    rgba = build_rgba_vae(vae, rank=LORA_RANK, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        for model in (transformer, rgba):
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.add_(0.1 * torch.randn_like(parameter))
    write_adapter(folder / "epoch-2.safetensors", adapter_state(transformer), metadata={"noise_shift": "0.05", "rank": str(RANK)})
    write_stage1(folder / "stage1_epoch_4.safetensors", rgba.stage1_tensors(), metadata={"stage": "1", "epoch": "4"})
