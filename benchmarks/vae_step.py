"""One training step of Stage 1: whole-clip passes (ours) against the chunked frame-by-frame formulation (theirs), same weights.

    python benchmarks/vae_step.py --pixels 64            # CPU: a VAE a third as wide as Wan's
    python benchmarks/vae_step.py --device cuda          # Wan's own size, 272 pixels, two clips, bfloat16 autocast

theirs: colour and matte in two encoder passes of 1 and 4, 4, ... frames, the merge block and both decoders one latent frame at a time,
each with the feature caches of diffusers' modules; decoders without the clamp. ours: `wan_alpha.train.vae.loss`. Both: the encoder
without gradients, LoRA of both decoders, L1 and edge terms, backward, AdamW. Values and gradients are compared, at 32 pixels, before
anything is timed. The last line is JSON; ratio = theirs / ours, higher is better.
"""

import argparse
import json
from collections.abc import Callable

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d
from timing import alternate, peak_gib
from torch import Tensor, nn

from wan_alpha.device import autocast_dtype
from wan_alpha.malloc import give_back_freed_tensors
from wan_alpha.models.feature_merge import FeatureMergeBlock, MergeResidual
from wan_alpha.models.rgba_vae import RGBAlphaVAE, build_rgba_vae, chunked_decode, chunked_features
from wan_alpha.objectives.reconstruction import ReconstructionSettings
from wan_alpha.rgba import RENDER_COLOURS
from wan_alpha.train.rgba_data import RgbaBatch
from wan_alpha.train.vae import VaeObjective, loss

OBJECTIVE = VaeObjective(perceptual_features=None, reconstruction=ReconstructionSettings(), judge=None)


class FrameByFrame:
    """An RGBA VAE's weights, run as the chunked formulation does."""

    def __init__(self, vae: RGBAlphaVAE) -> None:
        self.vae = vae

    def encode(self, rgb: Tensor, alpha: Tensor) -> Tensor:
        with torch.no_grad():
            of_rgb, of_alpha = (chunked_features(self.vae.encoder, clip) for clip in (rgb, alpha.expand_as(rgb)))
        caches: dict[nn.Module, Tensor] = {}
        frames = zip(of_rgb.split(1, dim=2), of_alpha.split(1, dim=2), strict=True)
        return torch.cat([merge_frame(self.vae.merge_block, torch.cat(pair, dim=1), caches) for pair in frames], dim=2)

    def decode_raw(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        decoders = (self.vae.rgb_decoder, self.vae.alpha_decoder)
        rgb, alpha = (chunked_decode(decoder, self.vae.post_quant_conv, latents) for decoder in decoders)
        return rgb, alpha


def merge_frame(merge: FeatureMergeBlock, x: Tensor, caches: dict[nn.Module, Tensor]) -> Tensor:
    """One latent frame through the merge block; each causal convolution keeps its last two input frames."""

    def run(layers: nn.Sequential, x: Tensor) -> Tensor:
        for layer in layers:
            if isinstance(layer, WanCausalConv3d):
                past = caches.get(layer)
                caches[layer] = x if past is None else torch.cat([past, x], dim=2)[:, :, -2:]
                x = layer(x, past)
            else:
                x = layer(x)
        return x

    x = merge.block.conv1(x)
    for layer in merge.block.middle:
        x = x + run(layer.residual, x) if isinstance(layer, MergeResidual) else layer(x)
    return run(merge.block.head, x)


def make_model(base_dim: int, *, rank: int, device: torch.device) -> RGBAlphaVAE:
    torch.manual_seed(0)
    vae = AutoencoderKLWan(base_dim=base_dim).to(device)
    model = build_rgba_vae(vae, rank=rank, merge_init="random", generator=torch.Generator().manual_seed(0)).to(device)
    with torch.no_grad():  # as after some training: no factor is zero
        for parameter in model.trainable_parameters(mode="merge+decoders").values():
            parameter.requires_grad_(True).add_(0.01 * torch.randn_like(parameter))
    return model


def make_batch(*, pixels: int, frames: int, clips: int, device: torch.device) -> RgbaBatch:
    generator = torch.Generator().manual_seed(1)
    rgb, alpha = (torch.rand(clips, c, frames, pixels, pixels, generator=generator).to(device) for c in (3, 1))
    colours = [RENDER_COLOURS[torch.randint(8, (clips,), generator=generator)].to(device) for _ in range(3)]
    no_judge = {"judge_sigma": torch.zeros(clips, device=device), "judge_noise": torch.zeros(clips, 1, 1, 1, 1, device=device)}
    return RgbaBatch(rgb=rgb, alpha=alpha, input_colour=colours[0], hard_colour=colours[1], soft_colour=colours[2], **no_judge)


def check_agreement(losses: dict[str, Callable[[], Tensor]], parameters: dict[str, nn.Parameter], *, tolerance: float) -> float:
    """Largest relative difference of the loss and of any parameter's gradient; stops above the tolerance."""
    values, gradients = {}, {}
    for name, compute in losses.items():
        values[name] = compute()
        gradients[name] = torch.autograd.grad(values[name], list(parameters.values()))
    ours, theirs = values.values()
    worst = abs(ours.item() / theirs.item() - 1)
    for mine, other in zip(*gradients.values(), strict=True):
        worst = max(worst, float((mine - other).norm() / other.norm()))
    if not worst < tolerance:
        raise SystemExit(f"ours and theirs differ by {worst:.2e}, more than {tolerance:.0e}: nothing to compare")
    return worst


def step_arguments(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The parser's arguments with those of a step's size and device, whose defaults depend on the device."""
    parser.add_argument("--pixels", type=int, help="height and width (default: 64 on a CPU, 272 on a GPU)")
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--batch_size", type=int, help="default: 1 on a CPU, 2 on a GPU")
    parser.add_argument("--base_dim", type=int, help="width of the VAE (default: 32 on a CPU, Wan's 96 on a GPU)")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    gpu = args.device.startswith("cuda")
    args.pixels = args.pixels or (272 if gpu else 64)
    args.batch_size = args.batch_size or (2 if gpu else 1)
    args.base_dim = args.base_dim or (96 if gpu else 32)
    return args


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", type=int, default=128, help="of the decoder LoRA")
    parser.add_argument("--seconds", type=float, default=390, help="for the timed runs; the rest takes about a minute")
    args = step_arguments(parser)
    device, pixels, clips, base_dim = torch.device(args.device), args.pixels, args.batch_size, args.base_dim
    model = make_model(base_dim, rank=args.rank, device=device)
    batch = make_batch(pixels=pixels, frames=args.frames, clips=clips, device=device)
    small = make_batch(pixels=min(pixels, 32), frames=args.frames, clips=1, device=device)
    parameters, arithmetic = model.trainable_parameters(mode="merge+decoders"), autocast_dtype("auto", device=device)
    optimiser = torch.optim.AdamW(parameters.values(), lr=1e-6)

    def loss_of(vae: RGBAlphaVAE | FrameByFrame, batch: RgbaBatch) -> Tensor:
        with torch.autocast(device.type, arithmetic, enabled=arithmetic != torch.float32):
            return loss(vae, batch, objective=OBJECTIVE)["total"]

    def step(vae: RGBAlphaVAE | FrameByFrame) -> None:
        loss_of(vae, batch).backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    ways = {"ours": model, "theirs": FrameByFrame(model)}
    losses = {name: lambda way=way: loss_of(way, small) for name, way in ways.items()}
    difference = check_agreement(losses, parameters, tolerance=1e-3 if arithmetic == torch.float32 else 0.1)
    steps = {name: lambda way=way: step(way) for name, way in ways.items()}
    give_back_freed_tensors(device.type)  # as train-vae does
    timed = alternate(steps, seconds=args.seconds, device=device, warm_up=0)  # the comparison was the warm-up
    medians = timed.seconds
    peaks = {f"{name}_peak_gib": peak_gib(run, device=device) for name, run in steps.items()}
    size = {"pixels": pixels, "frames": args.frames, "batch_size": clips, "base_dim": base_dim, "rank": args.rank, "device": str(device)}
    seconds = {f"{name}_seconds": round(value, 4) for name, value in medians.items()}
    ratio = round(medians["theirs"] / medians["ours"], 3)
    print(json.dumps({"ratio": ratio, **seconds, **peaks, "difference": difference, "rounds": timed.rounds, **size}))


if __name__ == "__main__":
    main()
