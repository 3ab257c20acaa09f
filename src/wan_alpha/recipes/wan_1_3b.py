"""Wan2.1-T2V-1.3B with the paper's objectives: the smallest real base."""

from pathlib import Path
from typing import Any

from wan_alpha.config import (
    CacheConfig,
    DoctorConfig,
    EvaluateConfig,
    ExportConfig,
    GenerateConfig,
    PrepareConfig,
    TrainDitConfig,
    TrainVaeConfig,
)
from wan_alpha.recipes.recipe import Recipe

OUTPUT = Path("outputs/wan_1_3b")
BASE: dict[str, Any] = dict(model="Wan-AI/Wan2.1-T2V-1.3B-Diffusers")
STAGE_1_SIZE: dict[str, Any] = dict(height=272, width=272, num_frames=17)
STAGE_2_SIZE: dict[str, Any] = dict(height=480, width=832, num_frames=81)
DATA: dict[str, Any] = dict(dataset_base_path=OUTPUT / "data")
BUCKETS: dict[str, Any] = dict(buckets="aspect+length")  # the paper's Stage 2: one area, any aspect, up to 81 frames
WATCHED: dict[str, Any] = dict(validate_every_steps=250, validation_clips=8, preview_clips=2)


def wan_1_3b() -> Recipe:
    """Both stages on Wan2.1-T2V-1.3B: 272 x 272 x 17 for the VAE, 480 x 832 x 81 for the transformer.

    command:   runs/wan_1_3b.sh SOURCE, SOURCE a folder of RGBA clips
    hardware:  one CUDA GPU with bfloat16
    time:      not measured: the real weights were not available
    expected:  no published numbers for 1.3B; the paper's (14B, its own data) are 41.47 dB colour, 42.22 dB alpha for the VAE.
               No few-step LoRA: 30 sampling steps with guidance 5, for which a tenth of the captions is dropped in training.
    Stage 2 holds 8 clips out and draws 2 previews, for which it needs --vae_lora_path, the file of Stage 1.
    """
    return Recipe(
        doctor=DoctorConfig(output_path=OUTPUT / "doctor", num_frames=81),
        prepare=PrepareConfig(output_path=OUTPUT / "data"),
        train_vae=TrainVaeConfig(
            num_workers=8,
            mode="merge+decoders",
            bidirectional="ours",
            batch_size=2,
            max_steps=60_000,
            num_epochs=100_000,
            save_every_epochs=100,
            save_every_steps=1000,
            output_path=OUTPUT / "vae",
            **BASE,
            **DATA,
            **STAGE_1_SIZE,
        ),
        cache=CacheConfig(output_path=OUTPUT / "cache", **BASE, **DATA, **STAGE_2_SIZE, **BUCKETS),
        train_dit=TrainDitConfig(
            num_workers=8,
            cache_path=OUTPUT / "cache",
            caption_dropout=0.1,
            gradient_accumulation_steps=8,
            gradient_checkpointing=True,
            max_steps=1750,
            num_epochs=100_000,
            save_every_epochs=100,
            save_every_steps=250,
            guidance_scale=5.0,
            output_path=OUTPUT / "dit",
            **BASE,
            **DATA,
            **STAGE_2_SIZE,
            **BUCKETS,
            **WATCHED,
        ),
        generate=GenerateConfig(num_inference_steps=30, guidance_scale=5.0, output_path=OUTPUT / "generated", **BASE, **STAGE_2_SIZE),
        export=ExportConfig(source=OUTPUT / "generated", output_path=OUTPUT / "exported"),
        evaluate=EvaluateConfig(output_path=OUTPUT / "evaluation", **BASE, **DATA, **STAGE_1_SIZE),
    )
