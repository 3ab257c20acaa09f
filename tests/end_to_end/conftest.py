"""The whole road once, on the tiny base, under a guard that refuses float64: what the tests of this folder look at."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from no_float64 import refuse_float64
from wan_alpha import recipes
from wan_alpha.cache import cache
from wan_alpha.evaluate import Evaluation, evaluate
from wan_alpha.export import export
from wan_alpha.generate import GeneratedClip, generate
from wan_alpha.prepare import prepare
from wan_alpha.train.dit import train as train_dit
from wan_alpha.train.vae import train as train_vae

PROMPT = "A red star moving right. The background is transparent. Flat style. Close shot."


@dataclass(frozen=True, kw_only=True)
class Road:
    """Folders and results of one run through all stages."""

    root: Path
    stage1: Path
    adapter: Path
    generated: list[GeneratedClip]
    exported: tuple[Path, ...]
    evaluation: Evaluation


@pytest.fixture(scope="session")
def road(tmp_path_factory: pytest.TempPathFactory) -> Road:
    torch.set_num_threads(1)
    root, tiny = tmp_path_factory.mktemp("road"), recipes.get_recipe("tiny")
    size = {"height": 32, "width": 48, "num_frames": 5}
    data = {"dataset_base_path": root / "data", **size}
    prepare(replace(tiny.prepare, synthetic=3, output_path=root / "data", **size))
    with refuse_float64():
        _, stage1 = train_vae(replace(tiny.train_vae, **data, max_steps=2, output_path=root / "vae"))
        cache(replace(tiny.cache, **data, draws=2, feature_merge_checkpoint=stage1, output_path=root / "cache"))
        (adapter,) = train_dit(
            replace(tiny.train_dit, **size, cache_path=root / "cache", max_steps=2, batch_size=2, output_path=root / "dit")
        )
        clips = generate(
            replace(
                tiny.generate,
                **size,
                prompt=(PROMPT, "A blue ring."),
                vae_lora_path=stage1,
                adapter_path=adapter,
                num_inference_steps=3,
                output_path=root / "generated",
            )
        )
    exported = export(replace(tiny.export, source=root / "generated", output_path=root / "exported")).files
    evaluation = evaluate(replace(tiny.evaluate, **data, feature_merge_checkpoint=stage1, output_path=root / "evaluation"))
    return Road(root=root, stage1=stage1, adapter=adapter, generated=clips, exported=exported, evaluation=evaluation)
