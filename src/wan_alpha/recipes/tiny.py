"""The demo and the tests: the real code on the small base that ships with the package."""

from pathlib import Path
from typing import Any

from wan_alpha.config import (
    CacheConfig,
    EvaluateConfig,
    ExportConfig,
    GenerateConfig,
    PrepareConfig,
    TrainDitConfig,
    TrainVaeConfig,
)
from wan_alpha.recipes.recipe import Recipe

OUTPUT = Path("outputs/tiny")
SIZE: dict[str, Any] = dict(height=64, width=64, num_frames=17)
TEXT: dict[str, Any] = dict(max_sequence_length=128)  # bytes: the tiny base reads captions with ByT5's tokenizer
DATA: dict[str, Any] = dict(dataset_base_path=OUTPUT / "data", **SIZE)


def tiny() -> Recipe:
    """The whole road on the tiny base: 64 x 64 pixels, 17 frames, two CPU cores, minutes.

    command:   make demo (runs/demo.sh), or stage by stage: wan-alpha STAGE --recipe tiny
    hardware:  two CPU cores, no GPU
    time:      within 15 minutes, install included
    expected:  a transparent clip in outputs/tiny/exported; the measured numbers stand in the README
    """
    return Recipe(
        prepare=PrepareConfig(output_path=OUTPUT / "data", **SIZE),
        train_vae=TrainVaeConfig(
            mode="merge+decoders",
            decoder_lora_rank=16,
            perceptual="none",
            max_scale=1.25,
            decay="cosine",
            learning_rate=1e-3,
            decoder_learning_rate=1e-2,
            batch_size=2,
            max_steps=200,
            num_epochs=1000,
            output_path=OUTPUT / "vae",
            **DATA,
        ),
        cache=CacheConfig(output_path=OUTPUT / "cache", **DATA, **TEXT),
        train_dit=TrainDitConfig(
            cache_path=OUTPUT / "cache",
            sigma_shift=3.0,
            caption_dropout=0.1,
            learning_rate=1e-3,
            batch_size=8,
            max_steps=400,
            num_epochs=1000,
            output_path=OUTPUT / "dit",
            **DATA,
            **TEXT,
        ),
        generate=GenerateConfig(
            num_inference_steps=20, guidance_scale=3.0, sigma_shift=3.0, output_path=OUTPUT / "generated", **SIZE, **TEXT
        ),
        export=ExportConfig(source=OUTPUT / "generated", output_path=OUTPUT / "exported"),
        evaluate=EvaluateConfig(output_path=OUTPUT / "evaluation", **DATA),
    )
