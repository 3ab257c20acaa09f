"""One optimiser step of Stage 2 on the real Wan2.1 1.3B architecture with random weights, on a CPU.

    python benchmarks/one_step_1_3b.py                        # 64 x 64 x 5 pixels
    python benchmarks/one_step_1_3b.py --size 128x128x17 --micro_batches 1

Everything but the weights and the clips is the recipe wan_1_3b: the adapter, gradient checkpointing, the noise shift, the optimiser, the
micro-batches of a step, and 512 tokens of text. Latents, ellipses, text and noise are random. B is zero before the first step, so that it
moves B and the magnitudes, not A. Needs about 9 GiB. The last line is JSON.
"""

import argparse
import json
import math
import time
from dataclasses import fields, replace

import torch
from accelerate import Accelerator
from diffusers import WanTransformer3DModel
from timing import forget_highest_resident, highest_resident_bytes
from torch import Tensor

from wan_alpha.config import TrainDitConfig
from wan_alpha.data.draws import generator_at
from wan_alpha.data.shares import Share
from wan_alpha.malloc import give_back_freed_tensors, resident_bytes
from wan_alpha.objectives.flow import sample_sigmas
from wan_alpha.recipes import get_recipe
from wan_alpha.train import dit
from wan_alpha.train.flow_data import FlowBatch, empty_batch
from wan_alpha.train.optimisers import make_optimiser
from wan_alpha.train.state import TrainState
from wan_alpha.train.step import WholeUpdate, optimiser_step

CPU = torch.device("cpu")
WAN_1_3B = dict(num_attention_heads=12, ffn_dim=8960, num_layers=30)
PATCH = 2


def base() -> WanTransformer3DModel:
    """The 1.3B transformer with random weights, frozen, in float32: what the recipe's precision is on a CPU."""
    torch.manual_seed(0)
    return WanTransformer3DModel(**WAN_1_3B).requires_grad_(False).eval()


def random_batch(config: TrainDitConfig, position: int, *, transformer: WanTransformer3DModel) -> FlowBatch:
    """A standard normal batch of the configured size; noise levels as the recipe draws them, ellipses in [0, 1]."""
    generator = generator_at(config.seed, position)
    shapes = empty_batch(config, channels=transformer.config.in_channels, text_dim=transformer.config.text_dim)
    drawn = {field.name: torch.randn(getattr(shapes, field.name).shape, generator=generator) for field in fields(shapes)}
    sigma = sample_sigmas(config.batch_size, density=config.sigma_density, shift=config.sigma_shift, generator=generator)
    return FlowBatch(**{**drawn, "gaussian": drawn["gaussian"].sigmoid(), "sigma": sigma})


def one_step(config: TrainDitConfig, transformer: WanTransformer3DModel) -> dict[str, float]:
    """The first step: seconds, loss, gradient norm, how many of the adapter's tensors it moved, and resident memory before and at most."""
    trainables = dit.adapter_parameters(transformer)
    state = TrainState(trainables=trainables, optimiser=make_optimiser(config, trainables=trainables, rate_factor=lambda _: 1.0))
    before = {name: float(parameter.detach().abs().sum(dtype=torch.float64)) for name, parameter in trainables.items()}
    accelerator = Accelerator(cpu=True, mixed_precision="no")

    def loss(positions: list[int]) -> dict[str, Tensor]:
        batch = random_batch(config, positions[0], transformer=transformer)
        return dit.loss(transformer, batch, noise_shift=config.noise_shift, weighting=config.loss_weighting, sigma_shift=config.sigma_shift)

    forget_highest_resident()
    resident, began = resident_bytes() or 0, time.perf_counter()
    update = WholeUpdate(config, accelerator=accelerator, state=state, loss=loss)
    values = optimiser_step(config, update=update, state=state, share=Share(), step=0, total=config.max_steps or 1)
    seconds, peak = time.perf_counter() - began, highest_resident_bytes()
    moved = sum(float(parameter.detach().abs().sum(dtype=torch.float64)) != before[name] for name, parameter in trainables.items())
    if not math.isfinite(float(values["gradient_norm"])) or moved == 0:
        raise SystemExit(f"no step: gradient norm {float(values['gradient_norm'])}, {moved} tensors of {len(trainables)} moved")
    return {
        "seconds": round(seconds, 1),
        "loss": float(values["total"]),
        "gradient_norm": float(values["gradient_norm"]),
        "tensors_moved": moved,
        "tensors": len(trainables),
        "resident_before_gib": resident / 2**30,
        "peak_resident_gib": peak / 2**30,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="64x64x5", help="WIDTHxHEIGHTxFRAMES")
    parser.add_argument("--micro_batches", type=int, help="default: the recipe's")
    args = parser.parse_args()
    width, height, frames = map(int, args.size.split("x"))
    recipe = get_recipe("wan_1_3b").train_dit
    micro_batches = args.micro_batches or recipe.gradient_accumulation_steps
    config = replace(recipe, width=width, height=height, num_frames=frames, gradient_accumulation_steps=micro_batches, device="cpu")
    give_back_freed_tensors("cpu")  # as train-dit does
    transformer = dit.put_adapter(config, base(), device=CPU)
    weights = sum(parameter.numel() for parameter in transformer.parameters() if not parameter.requires_grad)
    tokens = math.prod(empty_batch(config, channels=1, text_dim=1).x0.shape) // PATCH**2
    print(
        f"{weights:,} frozen weights in {transformer.dtype}, {tokens} tokens, {micro_batches} micro-batches of {config.batch_size}",
        flush=True,
    )
    found = one_step(config, transformer)
    rounded = {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in found.items()}
    result = {"tokens": tokens, **rounded}
    forecast = dit.forecast_memory(config, transformer, device=CPU)
    about = {"forecast_gib": round(forecast.total / 2**30, 2), "threads": torch.get_num_threads(), "micro_batches": micro_batches}
    print(json.dumps({**result, **about, "size": args.size, "optimiser": config.optimiser, "frozen_weights": weights}))


if __name__ == "__main__":
    main()
