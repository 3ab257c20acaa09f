"""The memory forecast against what training steps really take, on a CPU.

    python benchmarks/memory.py

Every case runs in a process of its own: networks with random or shipped weights are built, the forecast is made, two training steps run
(the second with the optimiser's state). Real: the highest resident memory of that process in all its life (Linux's VmHWM), Python and
torch included. The last line is JSON: forecast / real by case.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from timing import highest_resident_bytes
from torch import Tensor, nn

from wan_alpha.config import TrainDitConfig, TrainVaeConfig
from wan_alpha.malloc import HUGE_PAGES, give_back_freed_tensors
from wan_alpha.models.perceptual import VGG16Features
from wan_alpha.models.rgba_vae import build_rgba_vae
from wan_alpha.objectives.reconstruction import ReconstructionSettings
from wan_alpha.recipes import get_recipe
from wan_alpha.train import dit, vae
from wan_alpha.train.flow_data import empty_batch as empty_flow
from wan_alpha.train.forecast import Forecast
from wan_alpha.train.optimisers import make_optimiser
from wan_alpha.train.rgba_data import empty_batch as empty_rgba

CPU = torch.device("cpu")
WIDE_VAE = {"height": 96, "width": 64, "num_frames": 17, "precision": "float32", "perceptual": "none", "mode": "merge+decoders"}
WIDE_DIT = {"height": 128, "width": 128, "num_frames": 33, "precision": "float32"}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "tiny VAE, 64 x 64 x 17, batch 2": ("tiny_vae", {}),
    "tiny VAE, the same, checkpointed": ("tiny_vae", {"gradient_checkpointing": True}),
    "tiny VAE, the same, with the judge": ("tiny_vae", {"bidirectional": "ours"}),
    "VAE of base width 32, 96 x 64 x 17": ("wide_vae", WIDE_VAE),
    "VAE of base width 32, checkpointed": ("wide_vae", {**WIDE_VAE, "gradient_checkpointing": True}),
    "VAE of base width 32, VGG16": ("wide_vae", {**WIDE_VAE, "perceptual": "vgg16"}),
    "tiny transformer, 64 x 64 x 17, batch 8": ("tiny_dit", {}),
    "transformer 768 wide, 8 blocks, 128 x 128 x 33": ("wide_dit", WIDE_DIT),
    "transformer 768 wide, checkpointed": ("wide_dit", {**WIDE_DIT, "gradient_checkpointing": True}),
    **{
        f"transformer 768 wide, checkpointed, {kind} base": (
            "wide_dit",
            {**WIDE_DIT, "gradient_checkpointing": True, "base_quantization": kind},
        )
        for kind in ("int8", "fp8", "nf4")
    },
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A training that stands ready: its loss on one batch, what it trains, and its forecast."""

    config: TrainVaeConfig | TrainDitConfig
    loss: Callable[[], Tensor]
    trainables: dict[str, nn.Parameter]
    forecast: Callable[[], Forecast]


def vae_case(config: TrainVaeConfig, *, wide: bool) -> Case:
    objective = vae.VaeObjective(
        reconstruction=ReconstructionSettings(), perceptual_features=VGG16Features() if config.perceptual == "vgg16" else None, judge=None
    )
    if wide:
        model = build_rgba_vae(AutoencoderKLWan(base_dim=32), rank=config.decoder_lora_rank, merge_init="random")
        model.requires_grad_(False)
        model.gradient_checkpointing = config.gradient_checkpointing
        for parameter in model.trainable_parameters(mode=config.mode).values():
            parameter.requires_grad_(True)
    else:
        model = vae.build_model(config, device=CPU)
        objective = replace(objective, judge=vae.build_objective(config, z_dim=model.z_dim, device=CPU).judge)
    batch = random_batch(empty_rgba(config, z_dim=model.z_dim))
    return Case(
        config=config,
        loss=lambda: vae.loss(model, batch, objective=objective)["total"],
        trainables=model.trainable_parameters(mode=config.mode),
        forecast=lambda: vae.forecast_memory(config, model, objective=objective, device=CPU),
    )


def dit_case(config: TrainDitConfig, *, wide: bool) -> Case:
    if wide:
        wide_base = WanTransformer3DModel(num_attention_heads=6, ffn_dim=3072, num_layers=8, text_dim=512).requires_grad_(False)
        transformer = dit.put_adapter(config, wide_base, device=CPU)
    else:
        transformer = dit.build_transformer(config, device=CPU)
    sizes = transformer.config
    batch = random_batch(empty_flow(config, channels=sizes.in_channels, text_dim=sizes.text_dim))
    return Case(
        config=config,
        loss=lambda: dit.loss(transformer, batch, noise_shift=0.05, weighting="none", sigma_shift=5.0)["total"],
        trainables=dit.adapter_parameters(transformer),
        forecast=lambda: dit.forecast_memory(config, transformer, device=CPU),
    )


def random_batch(batch: Any) -> Any:
    return type(batch)(**{name: torch.rand_like(tensor) for name, tensor in vars(batch).items()})


def build(kind: str, settings: dict[str, Any]) -> Case:
    recipe = get_recipe("tiny")
    if kind.endswith("vae"):
        return vae_case(replace(recipe.train_vae, **{"precision": "float32", **settings}), wide=kind == "wide_vae")
    return dit_case(replace(recipe.train_dit, **{"precision": "float32", **settings}), wide=kind == "wide_dit")


def measure(name: str) -> None:
    """The forecast of one case, then two steps in this process; prints bytes as JSON."""
    give_back_freed_tensors("cpu")  # as the commands do
    case = build(*CASES[name])
    expected = case.forecast()
    optimiser = make_optimiser(case.config, trainables=case.trainables, rate_factor=lambda _: 1.0)
    for _ in range(2):
        case.loss().backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    print(json.dumps({"real": highest_resident_bytes(), "forecast": expected.total, "text": expected.text}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=list(CASES), help="measure this one in this process")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    args = parser.parse_args()
    if args.case:
        measure(args.case)
        return
    ratios = {}
    for name in [name for name in CASES if args.only in name]:
        environment = {**os.environ, HUGE_PAGES: "1"}  # as the commands do
        run = subprocess.run([sys.executable, __file__, "--case", name], stdout=subprocess.PIPE, text=True, check=True, env=environment)
        found = json.loads(run.stdout.splitlines()[-1])
        ratios[name] = round(found["forecast"] / found["real"], 3)
        print(f"{name:50s} real {found['real'] / 2**30:6.3f} GiB   forecast / real {ratios[name]:5.2f}   {found['text']}", flush=True)
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
