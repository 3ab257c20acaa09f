"""A Stage-2 training on the tiny base that takes seconds."""

from dataclasses import replace
from pathlib import Path

import torch

from wan_alpha import recipes
from wan_alpha.cache import cache
from wan_alpha.config import TrainDitConfig
from wan_alpha.prepare import prepare


def tiny_stage2(root: Path, *, draws: int, **settings) -> TrainDitConfig:
    """Two steps on three procedural clips of 32 x 48 x 5, which are prepared and cached here; one torch thread from now on."""
    torch.set_num_threads(1)
    tiny, size = recipes.get_recipe("tiny"), {"height": 32, "width": 48, "num_frames": 5}
    prepare(replace(tiny.prepare, synthetic=3, output_path=root / "data", **size))
    cache(replace(tiny.cache, **size, dataset_base_path=root / "data", draws=draws, output_path=root / "cache"))
    return replace(
        tiny.train_dit,
        **size,
        dataset_base_path=root / "data",
        cache_path=root / "cache",
        feature_merge_checkpoint=tiny.cache.feature_merge_checkpoint,
        **{"max_steps": 2, "batch_size": 2, "output_path": root / "dit", **settings},
    )
