"""Second part of the tiny base's VAE: materials and sudden changes, with the latents that the transformer knows held in place.

    python runs/tiny_vae_sudden.py [--minutes 56] [--work build/tiny_base] [--base DIR] [--output DIR]

The first part (runs/tiny_base.py vae) saw smooth motion only, and four frames share one latent: where every frame is a new
picture (an explosion drawn in nine frames), the encoder kept the last of four. Here most clips are procedural materials, half of
them with their frames in random order; the latents of the first part's clips are pulled to where they were. Small crops first,
then whole clips, at last the decoder alone. --base holds the VAE of the first part, --output gets the finished `vae/` folder.

Hardware: one CPU core, an hour; resumes where it stopped. Expected: 28.1 dB on 48 held-out smooth clips (before: 29.2) and 25.6 dB on
sudden ones (before: 20). The weights that ship are still those of the first part (docs/log.md, 2026-11-24); with these, Stage 1, the
adapter and the card have to be made anew (runs/tiny_weights.sh, runs/tiny_base_card.py).
"""

import argparse
import copy
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from tiny_base import (
    FRAMES,
    SIZE,
    VAE,
    encode,
    held_out_clips,
    load_state,
    psnr,
    render_pool,
    rendered,
    save_state,
    save_vae,
    vae_loss,
    vae_optimiser,
)
from torch import Tensor, nn

from wan_alpha.data import materials
from wan_alpha.rgba import RENDER_COLOURS

FLAT_CLIPS, MATERIALS, CANVAS, MEASURED = 1500, 600, 128, 400
WINDOW = 9
SMALL, LARGE = (32, 2, 6), (64, 2, 2)  # side, smooth clips, sudden clips: small crops first, more and more varied steps in the same time
SMALL_SHARE = 0.75
LAST, LAST_RATE, LAST_MINUTES = (64, 3, 1), 1e-4, 5.0  # the decoder alone, mostly on smooth clips
PEAK_RATE, WARMUP = 3e-4, 200
HOLD = 0.05


def material_clip(seed: int) -> np.ndarray:
    """(T, 128, 128, 4) in [0, 1], straight RGBA."""
    colour, alpha = materials.render_material(seed, num_frames=FRAMES, height=CANVAS, width=CANVAS)
    return np.concatenate([colour, alpha[..., None]], axis=-1)


def flat_batch(pool: np.ndarray, rng: np.random.Generator, count: int, side: int) -> Tensor:
    """(B, 3, 9, side, side) in [-1, 1]: smooth motion."""
    start, top, left = rng.integers(0, FRAMES - WINDOW + 1), *rng.integers(0, SIZE - side + 1, 2)
    clips = np.stack([pool[i, start : start + WINDOW, top : top + side, left : left + side] for i in rng.integers(0, len(pool), count)])
    return torch.from_numpy(clips).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def material_batch(pool: np.ndarray, rng: np.random.Generator, count: int, side: int) -> Tensor:
    """(B, 3, 9, side, side) in [-1, 1]: what Stage 1 shows the encoder, a material over a plain colour or its matte as grey video."""
    clips = []
    for i in rng.integers(0, len(pool), count):
        kind = rng.random()
        if kind < 0.5:  # every frame a new picture
            order = rng.permutation(FRAMES)[:WINDOW]
        elif kind < 0.625:  # in order, with gaps
            order = np.sort(rng.permutation(FRAMES)[:WINDOW])
        else:
            order = np.arange(WINDOW) + rng.integers(FRAMES - WINDOW + 1)
        cut = int(rng.integers(side, CANVAS + 1))
        top, left = rng.integers(0, CANVAS - cut + 1, 2)
        rgba = torch.from_numpy(pool[i][order, top : top + cut, left : left + cut]).permute(0, 3, 1, 2).float() / 255
        rgba = F.interpolate(rgba, (side, side), mode="bilinear", antialias=True)
        colour, alpha = rgba[:, :3], rgba[:, 3:]
        if rng.random() < 0.25:
            clip = alpha.expand(-1, 3, -1, -1)
        else:
            backdrop = RENDER_COLOURS[int(rng.integers(len(RENDER_COLOURS)))].view(3, 1, 1)
            seen = (alpha > 8 / 255).float() if rng.random() < 0.5 else alpha
            clip = colour * seen + backdrop * (1 - seen)
        clips.append(clip.transpose(0, 1))
    return torch.stack(clips) * 2 - 1


def loss_of(vae: AutoencoderKLWan, held: AutoencoderKLWan, flat: Tensor, sudden: Tensor, scale: Tensor) -> Tensor:
    """The first part's loss, and the normalised distance of the flat clips' latents from where they were."""
    loss, mean = vae_loss(vae, torch.cat([flat, sudden]), arithmetic=torch.float32)
    with torch.no_grad():
        target = encode(held, flat)[0]
    return loss + HOLD * ((mean[: len(flat)] - target) / scale).square().mean()


def train(work: Path, base: Path, minutes: float) -> None:
    """Until `minutes` and LAST_MINUTES are spent; the state goes to work/vae_sudden_state.pt."""
    torch.manual_seed(3)
    held = AutoencoderKLWan.from_pretrained(base / "vae", torch_dtype=torch.float32).requires_grad_(False)
    scale = torch.tensor(held.config.latents_std).view(1, -1, 1, 1, 1)
    vae = copy.deepcopy(held).requires_grad_(True)
    optimiser, state_path = vae_optimiser(vae), work / "vae_sudden_state.pt"
    state = load_state(state_path, vae=vae, optimiser=optimiser)
    step, spent = state.get("step", 0), state.get("spent", 0.0)
    flat, checks = render_pool(work)[:FLAT_CLIPS], held_out_clips()[:8]
    sudden = rendered(work / "materials.npy", (MATERIALS, FRAMES, CANVAS, CANVAS, 4), material_clip)
    rng, check_rng = np.random.default_rng(step), np.random.default_rng(12345)
    unseen = material_batch(sudden[-16:], check_rng, 16, SIZE)
    last, report = time.time(), spent
    end = (minutes + LAST_MINUTES) * 60
    while spent < end:
        progress = spent / (minutes * 60)
        rate = PEAK_RATE * min(1, (step + 1) / WARMUP) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1, progress))))
        side, smooth_clips, sudden_clips = SMALL if progress < SMALL_SHARE else LARGE
        if progress >= 1:
            vae.encoder.requires_grad_(False)
            vae.quant_conv.requires_grad_(False)
            (side, smooth_clips, sudden_clips), rate = LAST, LAST_RATE * (1 - (spent / 60 - minutes) / LAST_MINUTES) + 1e-6
        for group in optimiser.param_groups:
            group["lr"] = rate
        smooth, burst = flat_batch(flat, rng, smooth_clips, side), material_batch(sudden[:-16], rng, sudden_clips, side)
        loss = loss_of(vae, held, smooth, burst, scale)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        step, now = step + 1, time.time()
        spent, last = spent + now - last, now
        if step % 20 == 0:
            print(f"step {step} {spent / 60:.1f} min loss {loss.item():.4f} grad {norm.item():.2f}", flush=True)
        if spent - report > 150 or spent >= end:
            report = spent
            print(f"step {step} {spent / 60:.1f} min PSNR {psnr(vae, checks):.2f} dB smooth, {psnr(vae, unseen):.2f} sudden", flush=True)
            save_state(state_path, vae=vae, optimiser=optimiser, step=step, spent=spent)
            last = time.time()


def save(work: Path, output: Path) -> None:
    """The finished VAE, its latents measured on smooth clips."""
    vae = AutoencoderKLWan(**VAE).requires_grad_(False)
    load_state(work / "vae_sudden_state.pt", vae=vae)
    vae.half().float()
    clips = torch.from_numpy(render_pool(work)[:MEASURED].copy()).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    with torch.no_grad():
        latents = torch.cat([encode(vae, clip)[0] for clip in clips.split(4)])
    save_vae(vae, latents, output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/tiny_base"))
    parser.add_argument("--base", type=Path, default=Path("build/tiny_base/first"))
    parser.add_argument("--output", type=Path, default=Path("src/wan_alpha/assets/tiny"))
    parser.add_argument("--minutes", type=float, default=56)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    train(args.work, args.base, args.minutes)
    save(args.work, args.output)


if __name__ == "__main__":
    main()
