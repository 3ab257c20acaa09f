"""A Mac with an M-series chip: the seed's commands as a recipe."""

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

OUTPUT = Path("outputs/apple_silicon")
BASE: dict[str, Any] = dict(model="Wan-AI/Wan2.1-T2V-1.3B-Diffusers", precision="float32")
DECODERS: dict[str, Any] = dict(vae_lora_path=Path("Wan-Alpha/vae/decoder.bin"))
SIZE: dict[str, Any] = dict(height=272, width=272, num_frames=17)
DATA: dict[str, Any] = dict(dataset_base_path=OUTPUT / "data", **SIZE)


def apple_silicon() -> Recipe:
    """Wan2.1-T2V-1.3B at 272 x 272 x 17 in float32, published decoders frozen, no reader processes.

    command:   runs/apple_silicon.sh SOURCE, SOURCE a folder of RGBA clips
    hardware:  Apple M-series (mps); weights: the published decoder LoRA as Wan-Alpha/vae/decoder.bin
    time:      not measured: no such hardware was available; the seed document states 2 to 3 hours for Stage 1 on an M3 Max
    expected:  the seed's scale: colour error below 20 good, below 10 excellent; alpha error below 15 good, below 5 excellent
    """
    return Recipe(
        doctor=DoctorConfig(output_path=OUTPUT / "doctor"),
        prepare=PrepareConfig(output_path=OUTPUT / "data"),
        train_vae=TrainVaeConfig(
            mode="merge", num_workers=0, num_epochs=10, gradient_checkpointing=True, output_path=OUTPUT / "vae", **BASE, **DECODERS, **DATA
        ),
        cache=CacheConfig(output_path=OUTPUT / "cache", **BASE, **DECODERS, **DATA),
        train_dit=TrainDitConfig(
            num_workers=0,
            cache_path=OUTPUT / "cache",
            dataset_repeat=100,
            num_epochs=15,
            caption_dropout=0.1,
            gradient_checkpointing=True,
            output_path=OUTPUT / "dit",
            **BASE,
            **DECODERS,
            **DATA,
        ),
        generate=GenerateConfig(num_inference_steps=30, guidance_scale=5.0, output_path=OUTPUT / "generated", **BASE, **DECODERS, **SIZE),
        export=ExportConfig(source=OUTPUT / "generated", output_path=OUTPUT / "exported"),
        evaluate=EvaluateConfig(output_path=OUTPUT / "evaluation", **BASE, **DECODERS, **DATA),
    )
