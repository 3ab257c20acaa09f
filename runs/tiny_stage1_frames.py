"""A merge block that keeps every frame apart, made in minutes, for Stage 1 to go on from.

    python runs/tiny_stage1_frames.py --data DIR --stage1 FILE --output FILE

Where every frame is a new picture, Stage 1 alone hardly learns to put four frames of colour and matte into the 16 channels of a latent:
the way from the loss through two decoders is long, and a batch holds few places. Here no decoder takes part. The frozen encoder sees
each window of DIR once; then
  1. a linear map with 16 values in its middle learns to name the mean colour and matte of each 4 x 4 cell of each frame from the
     features of a place (seconds, 1,024 places a step);
  2. its 16 values, turned to lie as close as a rotation can bring them to the latents of FILE, become the merge block's start;
  3. the whole block learns to serve two readouts of the same means, linear and convolutional, and the first frame's.
The decoders of FILE are kept as they are and have to follow: `wan-alpha train-vae --feature_merge_checkpoint OUTPUT`.

Hardware: one CPU core, five minutes for 2,200 windows and eight of training. Expected with the data of docs/log.md, 2026-11-25: the
readout of colour is off by 15 of 255, of the matte by 6.
"""

import argparse
import copy
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tiny_vae_frames import cell_means
from torch import Tensor, nn

from wan_alpha.checkpoints.stage1 import write_stage1
from wan_alpha.models.feature_merge import FeatureMergeBlock, MergeResidual
from wan_alpha.models.rgba_vae import RGBAlphaVAE
from wan_alpha.recipes import get_recipe
from wan_alpha.train.rgba_data import rgba_clips, sample_at
from wan_alpha.train.vae import build_model

WINDOWS, BATCH = 2200, 8
LINEAR_STEPS, LINEAR_PLACES, LINEAR_RATE = 3000, 1024, 3e-3
MINUTES, BLOCK_RATE, READOUT_RATE, WARMUP_STEPS = 8.0, 5e-4, 3e-3, 60
HOLD = 0.03  # to the latents of before, in their standard deviations
LOUD = 30.0  # the constant channel against the code, so that the block's norm hardly changes it


@dataclass(frozen=True)
class Seen:
    """What the encoder makes of windows, and what shall be read from it. Features (N, D, t, h, w); means (N, frames, h, w, values).

    first, later: of the first frame, and of the four frames of every later latent: the cells' visible colour, then their matte;
    first_share, later_share: how much of each is visible, which is its weight; 1 for the matte.
    """

    rgb: Tensor
    alpha: Tensor
    first: Tensor
    first_share: Tensor
    later: Tensor
    later_share: Tensor

    def at(self, chosen: Tensor) -> "Seen":
        return Seen(**{name: tensor[chosen].float() for name, tensor in vars(self).items()})


@torch.no_grad()
def look(model: RGBAlphaVAE, data: Path) -> Seen:
    """WINDOWS random windows of the dataset, as train-vae draws them, in half precision."""
    config = replace(get_recipe("tiny").train_vae, dataset_base_path=data, num_frames=9, max_scale=6.0, num_workers=0)
    clips, _ = rgba_clips(config)
    seen: list[Seen] = []
    for position in range(WINDOWS):
        batch = sample_at(clips, position, config=config, z_dim=model.z_dim)
        rgb, alpha = model.features(*batch.encoder_input(hard_threshold=config.hard_threshold))
        visible = (batch.alpha > config.hard_threshold).to(batch.rgb).expand_as(batch.rgb)
        parts = zip(cell_means(batch.rgb * visible), cell_means(visible), cell_means(batch.alpha), strict=True)
        (first, first_share), (later, later_share) = (_joined(*part) for part in parts)
        seen.append(Seen(rgb=rgb, alpha=alpha, first=first, first_share=first_share, later=later, later_share=later_share))
    return Seen(**{name: torch.cat([getattr(one, name) for one in seen]).half() for name in vars(seen[0])})


def _joined(colour: Tensor, share: Tensor, matte: Tensor) -> tuple[Tensor, Tensor]:
    """Means of visible colour and of the matte, and their weights."""
    return torch.cat([colour / share.clamp_min(1e-3), matte], dim=-1), torch.cat([share, torch.ones_like(matte)], dim=-1)


def linear_code(places: Tensor, means: Tensor, shares: Tensor, *, size: int) -> tuple[Tensor, Tensor]:
    """(matrix (size, 2 D), offset): the middle of a linear map from features of places (M, 2 D) to means (M, values)."""
    centre, scale = places.mean(0), places.std(0) + 1e-3
    code, read = nn.Linear(places.shape[1], size), nn.Linear(size, means.shape[1])
    optimiser = torch.optim.Adam([*code.parameters(), *read.parameters()], LINEAR_RATE)
    for step in range(LINEAR_STEPS):
        optimiser.param_groups[0]["lr"] = LINEAR_RATE * (1 - step / LINEAR_STEPS)
        chosen = torch.randint(len(places), (LINEAR_PLACES,))
        error = (read(code((places[chosen] - centre) / scale)) - means[chosen]).abs() * shares[chosen]
        loss = error.sum() / shares[chosen].sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    print(f"linear map through {size} values: off by {loss.item() * 255:.1f} of 255", flush=True)
    matrix = code.weight.detach() / scale
    return matrix, code.bias.detach() - matrix @ centre


def turned(code: Tensor, towards: Tensor) -> tuple[Tensor, Tensor]:
    """(matrix, offset) of the map of code (M, z) onto the mean and covariance of latents (M, z) that correlates most with them."""
    ours, theirs = torch.cov(code.T), torch.cov(towards.T)
    white = (code - code.mean(0)) @ _power(ours, -0.5)
    target = (towards - towards.mean(0)) @ _power(theirs, -0.5)
    u, _, vh = torch.linalg.svd(white.T @ target / len(code))
    matrix = (_power(ours, -0.5) @ u @ vh @ _power(theirs, 0.5)).T
    return matrix, towards.mean(0) - matrix @ code.mean(0)


def _power(symmetric: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(symmetric)
    return vectors @ torch.diag(values.clamp_min(1e-6) ** exponent) @ vectors.T


@torch.no_grad()
def make_linear(block: FeatureMergeBlock, matrix: Tensor, offset: Tensor, *, loud: float) -> None:
    """block(features) = matrix features + offset, nearly: x = SiLU(x) - SiLU(-x), and a constant channel drowns the norm's changes."""
    z, published = block.z_dim, block.block
    published.conv1.weight.mul_(0.02)
    published.conv1.bias.zero_()
    for row, sign in ((0, 1), (z, -1)):
        published.conv1.weight[row : row + z] = sign * matrix[..., None, None, None]
        published.conv1.bias[row : row + z] = sign * offset
    published.conv1.weight[2 * z] = 0
    published.conv1.bias[2 * z] = loud
    for layer in published.middle:
        last = layer.get_submodule("residual.6" if isinstance(layer, MergeResidual) else "proj")
        for parameter in last.parameters():
            parameter.zero_()
    norm, conv = published.head.get_submodule("0"), published.head.get_submodule("2")
    norm.get_parameter("gamma").fill_(loud / block.width**0.5)
    weight = conv.get_parameter("weight").zero_()
    conv.get_parameter("bias").zero_()
    now = torch.arange(z)
    weight[now, now, -1, 1, 1], weight[now, now + z, -1, 1, 1] = 1.0, -1.0


class Readouts(nn.Module):
    """The means of normalised latents: linear and convolutional ones of the later frames, convolutional ones of the first."""

    def __init__(self, *, z_dim: int, first: int, later: int) -> None:
        super().__init__()
        self.linear = nn.Linear(z_dim, later)
        self.later = nn.Sequential(
            nn.Conv2d(z_dim, 160, 3, padding=1), nn.GELU(), nn.Conv2d(160, 160, 1), nn.GELU(), nn.Conv2d(160, later, 1)
        )
        self.first = nn.Sequential(nn.Conv2d(z_dim, 96, 3, padding=1), nn.GELU(), nn.Conv2d(96, first, 1))

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        frames = latents[:, :, 1:].transpose(1, 2)
        convolved = self.later(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).movedim(2, -1)
        return self.linear(frames.movedim(2, -1)), convolved, self.first(latents[:, :, 0]).movedim(1, -1)


def train(block: FeatureMergeBlock, before: FeatureMergeBlock, seen: Seen) -> None:
    """MINUTES of steps of BATCH windows; the learning rate falls as a cosine of time."""
    with torch.no_grad():
        some = seen.at(torch.arange(0, len(seen.rgb), 9))
        latents = before(some.rgb, some.alpha)
    centre, scale = latents.mean((0, 2, 3, 4)).view(1, -1, 1, 1, 1), latents.std((0, 2, 3, 4)).view(1, -1, 1, 1, 1)
    readouts = Readouts(z_dim=block.z_dim, first=seen.first.shape[-1], later=seen.later.shape[-1])
    groups = [{"params": list(block.parameters())}, {"params": list(readouts.parameters())}]
    optimiser, start, step = torch.optim.AdamW(groups, lr=BLOCK_RATE, betas=(0.9, 0.99), weight_decay=0.0), time.time(), 0
    while (progress := (time.time() - start) / (MINUTES * 60)) < 1:
        fall = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))
        for group, rate in zip(optimiser.param_groups, (BLOCK_RATE * min(1, step / WARMUP_STEPS), READOUT_RATE), strict=True):
            group["lr"] = rate * fall
        batch = seen.at(torch.randint(len(seen.rgb), (BATCH,)))
        latents = block(batch.rgb, batch.alpha)
        with torch.no_grad():
            moved = before(batch.rgb, batch.alpha)
        linear, convolved, first = readouts((latents - centre) / scale)
        loss = _off(linear, batch.later, batch.later_share) + 2 * _off(convolved, batch.later, batch.later_share)
        loss = loss + 0.5 * _off(first, batch.first, batch.first_share) + HOLD * ((latents - moved) / scale).square().mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(block.parameters(), 1.0)
        optimiser.step()
        step += 1
        if step % 200 == 0:
            print(f"step {step}, {progress * MINUTES:.1f} min, {_reading(convolved, batch)}", flush=True)


def _off(read: Tensor, means: Tensor, shares: Tensor) -> Tensor:
    error = (read - means) * shares
    return (error.abs() + 3 * error.square()).sum() / shares.sum()


def _reading(read: Tensor, batch: Seen) -> str:
    error, colours = ((read - batch.later) * batch.later_share).abs(), batch.later.shape[-1] * 3 // 4
    colour = error[..., :colours].sum() / batch.later_share[..., :colours].sum()
    return f"off by {colour.item() * 255:.1f} of 255 in colour, {error[..., colours:].mean().item() * 255:.1f} in the matte"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--stage1", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    torch.manual_seed(3)
    model = build_model(replace(get_recipe("tiny").train_vae, feature_merge_checkpoint=args.stage1), device=torch.device("cpu"))
    block = model.merge_block
    if not isinstance(block, FeatureMergeBlock):
        raise SystemExit(f"{args.stage1}: a merge block of the {block.layout} layout, the feature layout is needed")
    seen, before = look(model, args.data), copy.deepcopy(block).requires_grad_(False)
    places = torch.cat([seen.rgb, seen.alpha], dim=1)[:, :, 1:].movedim(1, -1).flatten(0, 3).float()
    means, shares = seen.later.flatten(0, 3).float(), seen.later_share.flatten(0, 3).float()
    busy = means[:, means.shape[1] * 3 // 4 :].sum(1) > 0.02  # places that show anything
    matrix, offset = linear_code(places[busy], means[busy], shares[busy], size=model.z_dim)
    with torch.no_grad():
        latents = torch.cat([before(some.rgb, some.alpha) for some in map(seen.at, torch.arange(len(seen.rgb)).split(32))])
    latents = latents[:, :, 1:].movedim(1, -1).flatten(0, 3)[busy]
    turn, shift = turned(places[busy] @ matrix.T + offset, latents)
    make_linear(block, turn @ matrix, turn @ offset + shift, loud=LOUD * latents.std().item())
    train(block, before, seen)
    write_stage1(args.output, model.stage1_tensors(), metadata={"stage": "1", "layout": block.layout})


if __name__ == "__main__":
    main()
