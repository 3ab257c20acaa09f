"""Third part of the tiny base's VAE: the encoder learns to keep every frame apart.

    python runs/tiny_vae_frames.py --base DIR [--stage1 FILE] [--work build/tiny_base] [--output DIR]

After runs/tiny_vae_sudden.py the encoder still blurred frames that are new pictures each (an explosion drawn in nine), and what its
features lack no merge block brings back. Minutes of deep supervision did what hours of reconstruction loss had not: a linear map has
to read the mean colour of each 4 x 4 cell of each of a latent's four frames from the 64 features of its place, on clips cut together
from several materials, where neighbouring frames share nothing. Only the encoder learns, and its latents are held where they were, so
that decoder, transformer and adapter stay valid.

--base holds the VAE of the second part (`vae/`), --output gets the new one. Its features speak another language: --stage1, a file of
Stage-1 weights trained on --base, is carried over to OUTPUT/stage1.safetensors by a linear map from the new features to the old ones,
folded into the merge block's first layer.

Hardware: one CPU core, 12 minutes; the state goes to the work folder, a second start goes on. Expected: the readout's error on
cut clips falls from 27 to 9 of 255, smooth clips stay at 28.1 dB or better, their latents move by 0.09 of their standard deviation.
"""

import argparse
import copy
import dataclasses
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from tiny_base import FRAMES, SIZE, held_out_clips, load_state, psnr, render_pool, rendered, save_state
from tiny_vae_sudden import CANVAS, FLAT_CLIPS, MATERIALS, WINDOW, flat_batch, material_batch, material_clip, save
from torch import Tensor, nn

from wan_alpha.checkpoints.files import read_metadata
from wan_alpha.checkpoints.stage1 import read_stage1, write_stage1
from wan_alpha.geometry import SPATIAL_FACTOR, TEMPORAL_FACTOR
from wan_alpha.models import whole_clip
from wan_alpha.rgba import RENDER_COLOURS

MINUTES, PEAK_RATE, READOUT_FACTOR, WARMUP_STEPS = 12.0, 5e-4, 10.0, 150  # readouts learn faster, and from the first step
SMOOTH_CLIPS, CUT_CLIPS, UNSEEN = 1, 3, 16
CELL = 4  # pixels
HOLD, HOLD_CUT = 0.3, 0.09  # the latents of smooth clips, and of cut ones
CUT_SHARE, SHUFFLED_SHARE, CLOSE_SHARE, MATTE_SHARE, HARD_SHARE = 0.55, 0.3, 0.6, 0.3, 0.7
REPORT_SECONDS = 150


class FrameReadout(nn.Module):
    """Linear maps from features to cell means: of the first frame, and of the four frames of every later latent."""

    def __init__(self, *, feature_dim: int) -> None:
        super().__init__()
        values = 3 * (SPATIAL_FACTOR // CELL) ** 2
        self.first, self.later = nn.Linear(feature_dim, values), nn.Linear(feature_dim, TEMPORAL_FACTOR * values)

    def forward(self, features: Tensor, clip: Tensor) -> tuple[Tensor, Tensor]:
        """Errors on the first frame and on the later ones of features (B, D, t, h, w), the clip in [-1, 1]."""
        first, later = cell_means(clip)
        places = features.movedim(1, -1)
        return self.first(places[:, 0]) - first, self.later(places[:, 1:]) - later


def cell_means(clip: Tensor) -> tuple[Tensor, Tensor]:
    """(B, C, T, H, W) -> means of the cells at each place of the latent: (B, h, w, values) of the first frame, and (B, t - 1, h, w,
    4 values) of the frames of each later latent."""
    means, per_side = F.avg_pool3d(clip, (1, CELL, CELL)), SPATIAL_FACTOR // CELL
    split = means.unflatten(4, (-1, per_side)).unflatten(3, (-1, per_side))  # B, C, T, h, y, w, x
    cells = split.permute(0, 2, 3, 5, 1, 4, 6).flatten(4)
    return cells[:, 0], cells[:, 1:].unflatten(1, (-1, TEMPORAL_FACTOR)).movedim(2, -2).flatten(-2)


def cut_batch(pool: np.ndarray, rng: np.random.Generator, count: int) -> Tensor:
    """(B, 3, 9, 64, 64) in [-1, 1]: clips cut together from several materials, shuffled ones, and some as they move."""
    return torch.stack([cut_clip(pool, rng) for _ in range(count)]) * 2 - 1


def cut_clip(pool: np.ndarray, rng: np.random.Generator) -> Tensor:
    """(3, 9, 64, 64) in [0, 1]: what Stage 1 shows the encoder, colour over a plain backdrop or a matte as grey video."""
    kind, close = rng.random(), rng.random() < CLOSE_SHARE
    side = int(rng.integers(SIZE * 3 // 8, SIZE * 3 // 4) if close else rng.integers(SIZE * 3 // 4, CANVAS + 1))
    top, left = rng.integers(0, CANVAS - side + 1, 2)
    if kind < CUT_SHARE:
        materials = rng.integers(len(pool), size=rng.integers(2, 6))
        clips, order = materials[rng.integers(len(materials), size=WINDOW)], rng.integers(0, FRAMES, WINDOW)
    else:
        clips = np.full(WINDOW, rng.integers(len(pool)))
        shuffled = kind < CUT_SHARE + SHUFFLED_SHARE
        order = rng.permutation(FRAMES)[:WINDOW] if shuffled else np.arange(WINDOW) + rng.integers(FRAMES - WINDOW + 1)
    frames = np.stack([pool[i, t, top : top + side, left : left + side] for i, t in zip(clips, order, strict=True)])
    rgba = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
    rgba = F.interpolate(rgba, (SIZE, SIZE), mode="bilinear", antialias=True)
    colour, alpha = rgba[:, :3], rgba[:, 3:]
    if rng.random() < MATTE_SHARE:
        return alpha.expand(-1, 3, -1, -1).transpose(0, 1)
    if kind < CUT_SHARE and rng.random() < 0.5:  # a flash
        colour = (colour * torch.from_numpy(rng.uniform(0.4, 1.8, (WINDOW, 1, 1, 1))).float()).clamp(0, 1)
    backdrop = RENDER_COLOURS[int(rng.integers(len(RENDER_COLOURS)))].view(3, 1, 1)
    seen = (alpha > 8 / 255).float() if rng.random() < HARD_SHARE else alpha
    return (colour * seen + backdrop * (1 - seen)).transpose(0, 1)


def see(vae: AutoencoderKLWan, clip: Tensor) -> tuple[Tensor, Tensor]:
    """Encoder features and posterior mean."""
    features = whole_clip.encoder_features(vae.encoder, clip)
    return features, whole_clip.encoder_head(vae.encoder, vae.quant_conv, features)[:, : vae.config.z_dim]


def train(work: Path, base: Path) -> None:
    """MINUTES of steps; the state goes to work/vae_frames_state.pt."""
    torch.manual_seed(0)
    held = AutoencoderKLWan.from_pretrained(base / "vae", torch_dtype=torch.float32).requires_grad_(False)
    scale = torch.tensor(held.config.latents_std).view(1, -1, 1, 1, 1)
    vae, readout = copy.deepcopy(held), FrameReadout(feature_dim=held.config.base_dim * held.config.dim_mult[-1])
    learning = [*vae.encoder.requires_grad_(True).parameters(), *vae.quant_conv.requires_grad_(True).parameters()]
    groups = [{"params": learning}, {"params": list(readout.parameters())}]
    optimiser, state_path = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.0), work / "vae_frames_state.pt"
    state = load_state(state_path, vae=vae, readout=readout, optimiser=optimiser)
    step, spent = state.get("step", 0), state.get("spent", 0.0)
    flat, checks = render_pool(work)[:FLAT_CLIPS], held_out_clips()[:8]
    pool = rendered(work / "materials.npy", (MATERIALS, FRAMES, CANVAS, CANVAS, 4), material_clip)
    rng, unseen = np.random.default_rng(step + 1), cut_batch(pool[-UNSEEN:], np.random.default_rng(99), UNSEEN)
    last, reported = time.time(), spent
    while spent < MINUTES * 60:
        rate = PEAK_RATE * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * spent / (MINUTES * 60))))
        optimiser.param_groups[0]["lr"], optimiser.param_groups[1]["lr"] = rate * min(1, step / WARMUP_STEPS), rate * READOUT_FACTOR
        clip = torch.cat([flat_batch(flat, rng, SMOOTH_CLIPS, SIZE), cut_batch(pool[:-UNSEEN], rng, CUT_CLIPS)])
        features, mean = see(vae, clip)
        first, later = readout(features, clip)
        with torch.no_grad():
            target = see(held, clip)[1]
        moved = ((mean - target) / scale).square()
        loss = later.square().mean() + 0.5 * later.abs().mean() + 0.25 * first.abs().mean()
        loss = loss + HOLD * moved[:SMOOTH_CLIPS].mean() + HOLD_CUT * moved[SMOOTH_CLIPS:].mean()
        loss.backward()
        nn.utils.clip_grad_norm_(learning, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        step, now = step + 1, time.time()
        spent, last = spent + now - last, now
        if spent - reported > REPORT_SECONDS or spent >= MINUTES * 60:
            reported = spent
            with torch.no_grad():
                error = readout(see(vae, unseen)[0], unseen)[1].abs().mean().item() * 127.5
            print(
                f"step {step} {spent / 60:.1f} min, readout off by {error:.1f} of 255, smooth clips {psnr(vae, checks):.2f} dB", flush=True
            )
            save_state(state_path, vae=vae, readout=readout, optimiser=optimiser, step=step, spent=spent)
            last = time.time()


@torch.no_grad()
def carry_over(stage1: Path, *, old: Path, new: Path, work: Path) -> None:
    """NEW/stage1.safetensors: the Stage-1 weights of the old VAE for the new one, by least squares over smooth clips and materials."""
    vaes = [AutoencoderKLWan.from_pretrained(folder / "vae", torch_dtype=torch.float32) for folder in (new, old)]
    flat = render_pool(work)[:FLAT_CLIPS]
    pool, rng = rendered(work / "materials.npy", (MATERIALS, FRAMES, CANVAS, CANVAS, 4), material_clip), np.random.default_rng(0)
    clips = [flat_batch(flat, rng, 4, SIZE) if i % 3 else material_batch(pool, rng, 4, SIZE) for i in range(24)]
    x, y = (torch.cat([see(vae, clip)[0].movedim(1, -1).flatten(0, 3) for clip in clips]).double() for vae in vaes)
    x = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    solved = torch.linalg.solve(x.T @ x + 1e-4 * len(x) * torch.eye(x.shape[1]), x.T @ y)
    left_out = ((x @ solved - y).square().sum() / (y - y.mean(0)).square().sum()).sqrt().item()
    print(f"features of {old} from those of {new}: {left_out:.2f} of their standard deviation is left out")
    parts, weight, bias = read_stage1(stage1), "block.conv1.weight", "block.conv1.bias"
    matrix, twice = parts.merge[weight].flatten(1).double(), torch.block_diag(*[solved[:-1].T] * 2)
    merge = dict(parts.merge)
    merge[weight] = (matrix @ twice).float()[..., None, None, None]
    merge[bias] = (parts.merge[bias].double() + matrix @ solved[-1].repeat(2)).float()
    write_stage1(new / "stage1.safetensors", dataclasses.replace(parts, merge=merge), metadata=read_metadata(stage1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/tiny_base"))
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--stage1", type=Path)
    parser.add_argument("--output", type=Path, default=Path("src/wan_alpha/assets/tiny"))
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    train(args.work, args.base)
    save(args.work, args.output, state="vae_frames_state.pt")
    if args.stage1:
        carry_over(args.stage1, old=args.base, new=args.output, work=args.work)


if __name__ == "__main__":
    main()
