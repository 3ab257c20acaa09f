"""Does Stage 2 teach transparency? Sixteen fixed prompts, the same seeds and decoders, with one adapter or several and without.

    python benchmarks/transparency.py --adapter FILE --stage1 FILE [--sheet docs/images/generated.png]
    python benchmarks/transparency.py --adapter V2 V1 --stage1 FILE --sheet both.png

Each adapter's noise shift is the one in its own metadata, so that one trained with --noise_shift 0.05 (v2) meets one trained with 0 (v1).
A clip counts as clean when its mean alpha in the outer four pixels is below 0.05, and as a subject when its coverage (mean alpha)
lies between 0.02 and 0.7 and its highest alpha is above 0.9. Holes: of the pixels that a subject (alpha above 0.5) covers or encloses, the
share that it encloses; a ring has one by right, so they count in comparison only. The sheet has, for each prompt, a row for the base alone,
then one for each adapter. The last line is JSON: how many of 16 pass, and means, by adapter and for the base alone.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wan_alpha import recipes
from wan_alpha.assemble import ellipse, load_pipeline, sampling_settings
from wan_alpha.config import GenerateConfig
from wan_alpha.data.synthetic import evaluation_scenes, transparent_caption
from wan_alpha.geometry import ClipSize
from wan_alpha.metrics.regions import largest_region
from wan_alpha.metrics.transparency import transparency_statistics
from wan_alpha.preview import write_sheet

PROMPTS, SEED = 16, 40_000_000
BORDER, COVERAGE, PEAK = 0.05, (0.02, 0.7), 0.9


def generate_all(config: GenerateConfig, prompts: list[str]) -> tuple[list[tuple[Tensor, Tensor]], list[dict[str, float]]]:
    """Clips (rgb, alpha) and their transparency statistics."""
    pipeline, gaussian = load_pipeline(config), ellipse(config)
    settings = sampling_settings(config, pipeline)
    size = ClipSize(num_frames=config.num_frames, height=config.height, width=config.width)
    clips, statistics = [], []
    for first in range(0, len(prompts), 8):
        chosen = prompts[first : first + 8]
        found = pipeline(chosen, seeds=list(range(first, first + len(chosen))), size=size, settings=settings, gaussian=gaussian)
        clips += list(zip(found.rgb, found.alpha, strict=True))
        statistics += [{**transparency_statistics(alpha[None]), "holes": holes(alpha)} for alpha in found.alpha]
    return clips, statistics


def holes(alpha: Tensor) -> float:
    """Of the pixels (1, T, H, W) that a subject covers or encloses, the share that it encloses, over all frames."""
    subject = alpha[0].numpy() > 0.5
    open_ = np.pad(~subject, ((0, 0), (1, 1), (1, 1)), constant_values=True)  # a rim joins what reaches the border
    outside = largest_region(open_)[:, 1:-1, 1:-1]
    filled = int((~outside).sum())
    return float((~outside & ~subject).sum()) / filled if filled else 0.0


def passes(statistics: list[dict[str, float]]) -> dict[str, float]:
    """Counts of clips, and means."""
    return {
        "clean_border": sum(s["border_leak"] < BORDER for s in statistics),
        "subject": sum(COVERAGE[0] < s["coverage"] < COVERAGE[1] and s["peak"] > PEAK for s in statistics),
        "mean_border_leak": round(sum(s["border_leak"] for s in statistics) / len(statistics), 4),
        "mean_coverage": round(sum(s["coverage"] for s in statistics) / len(statistics), 4),
        "mean_holes": round(sum(s["holes"] for s in statistics) / len(statistics), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", type=Path, nargs="+", required=True)
    parser.add_argument("--stage1", type=Path, required=True)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--prompts", type=int, default=PROMPTS, help="the first so many")
    parser.add_argument("--sheet", type=Path)
    args = parser.parse_args()
    torch.manual_seed(0)
    base = replace(recipes.get_recipe("tiny").generate, model=args.model, vae_lora_path=args.stage1, adapter_path=None)
    prompts = [transparent_caption(scene) for scene in evaluation_scenes(PROMPTS, seed=SEED)][: args.prompts]
    found = {str(path or "base alone"): generate_all(replace(base, adapter_path=path), prompts) for path in (None, *args.adapter)}
    for name, (_, statistics) in found.items():
        for prompt, values in zip(prompts, statistics, strict=True):
            print(f"{name}: {prompt:95s}", *(f"{key} {value:.3f}" for key, value in values.items()))
    if args.sheet:
        rows = [clip for same_prompt in zip(*(clips for clips, _ in found.values()), strict=True) for clip in same_prompt]
        args.sheet.parent.mkdir(parents=True, exist_ok=True)
        write_sheet(rows, args.sheet)
    print(json.dumps({"prompts": len(prompts), **{name: passes(statistics) for name, (_, statistics) in found.items()}}))


if __name__ == "__main__":
    main()
