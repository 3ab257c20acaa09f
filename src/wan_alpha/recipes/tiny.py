"""The demo and the tests: the real code on the small base that ships with the package."""

from importlib import resources
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

OUTPUT = Path("outputs/tiny")
SHIPPED = Path(str(resources.files("wan_alpha"))) / "assets" / "tiny"
STAGE1, ADAPTER = SHIPPED / "stage1.safetensors", SHIPPED / "adapter.safetensors"
SIZE: dict[str, Any] = dict(height=64, width=64, num_frames=17)
TEXT: dict[str, Any] = dict(max_sequence_length=128)  # bytes: the tiny base reads captions with ByT5's tokenizer
TRAINING: dict[str, Any] = dict(decay="cosine", num_epochs=1000, save_every_epochs=100, memory_forecast="none")  # it is small
DATA: dict[str, Any] = dict(dataset_base_path=OUTPUT / "data", **SIZE)


def tiny() -> Recipe:
    """The whole road on the tiny base: 64 x 64 pixels, 17 frames, two CPU cores, minutes.

    Stage 1 goes on from the weights that ship with the package (runs/tiny_weights.sh made them), Stage 2 starts from the plain
    base. Stages whose weights are not named use the shipped ones, so `generate --recipe tiny` works at once.

    command:   make demo (runs/demo.sh), or stage by stage: wan-alpha STAGE --recipe tiny
    hardware:  two CPU cores, no GPU
    time:      see the README; the demo takes minutes, install included
    expected:  a transparent clip in outputs/tiny/exported; the measured numbers stand in the README
    """
    return Recipe(
        doctor=DoctorConfig(output_path=OUTPUT / "doctor"),
        prepare=PrepareConfig(output_path=OUTPUT / "data", **SIZE),
        train_vae=TrainVaeConfig(
            mode="merge+decoders",
            decoder_lora_rank=16,
            perceptual="none",
            max_scale=1.25,
            learning_rate=2e-4,
            decoder_learning_rate=2e-3,
            batch_size=2,
            max_steps=60,
            warmup_steps=10,
            feature_merge_checkpoint=STAGE1,
            output_path=OUTPUT / "vae",
            **TRAINING,
            **DATA,
            **TEXT,
        ),
        cache=CacheConfig(feature_merge_checkpoint=STAGE1, output_path=OUTPUT / "cache", **DATA, **TEXT),
        train_dit=TrainDitConfig(
            cache_path=OUTPUT / "cache",
            sigma_shift=3.0,
            caption_dropout=0.1,
            learning_rate=1e-3,
            batch_size=8,
            max_steps=400,
            output_path=OUTPUT / "dit",
            **TRAINING,
            **DATA,
            **TEXT,
        ),
        generate=GenerateConfig(
            vae_lora_path=STAGE1,
            adapter_path=ADAPTER,
            num_inference_steps=20,
            guidance_scale=3.0,
            sigma_shift=3.0,
            output_path=OUTPUT / "generated",
            **SIZE,
            **TEXT,
        ),
        export=ExportConfig(source=OUTPUT / "generated", output_path=OUTPUT / "exported"),
        evaluate=EvaluateConfig(feature_merge_checkpoint=STAGE1, output_path=OUTPUT / "evaluation", **DATA),
    )
