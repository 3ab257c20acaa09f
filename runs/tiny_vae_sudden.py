"""Second part of the tiny base's VAE: materials and sudden changes, with the latents that the transformer knows held in place.

    python runs/tiny_vae_sudden.py [--work build/tiny_base] [--base DIR] [--output DIR]

The first part (runs/tiny_base.py vae) saw smooth motion only, and four frames share one latent: where every frame is a new
picture (an explosion drawn in nine frames), the encoder kept the last of four. Here most clips are procedural materials, half of
them with their frames in random order; the latents of the first part's clips are pulled to where they were. --base holds
the VAE of the first part, --output gets the finished `vae/` folder.

Two rounds (ROUNDS): small crops first, then whole clips; in the second most clips are cut small and scaled up, as Stage 1 at 272 pixels
shows clips of 128. Each ends with the decoder alone.

Hardware: one CPU core for an hour, then two for an hour; resumes where it stopped. Expected: 28.1 dB on 48 held-out smooth clips
(before: 29.2) and 26.9 dB on sudden ones (before: 18.6). The third part is runs/tiny_vae_frames.py; then Stage 1, the adapter and
the card have to be made anew (runs/tiny_weights.sh, runs/tiny_base_card.py).
"""

import argparse
import copy
import math
import time
from dataclasses import dataclass
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
LAST, LAST_RATE = (64, 3, 1), 1e-4  # the decoder alone, mostly on smooth clips
WARMUP = 5.0  # minutes
HOLD = 0.05


@dataclass(frozen=True)
class Round:
    """One fall of the learning rate. A batch is (side, smooth clips, sudden clips); small crops give more and more varied steps."""

    minutes: float
    peak_rate: float
    small_share: float  # of the minutes, for the small batch
    large: tuple[int, int, int]
    close_share: float  # of the sudden clips, cut small and scaled up
    decoder_minutes: float  # after those, for the decoder alone
    small: tuple[int, int, int] = (32, 2, 6)


ROUNDS = (
    Round(minutes=56, peak_rate=3e-4, small_share=0.75, large=(64, 2, 2), close_share=0.0, decoder_minutes=5),
    Round(minutes=44, peak_rate=2e-4, small_share=0.0, large=(64, 1, 3), close_share=0.6, decoder_minutes=12),
)


def material_clip(seed: int) -> np.ndarray:
    """(T, 128, 128, 4) in [0, 1], straight RGBA."""
    colour, alpha = materials.render_material(seed, num_frames=FRAMES, height=CANVAS, width=CANVAS)
    return np.concatenate([colour, alpha[..., None]], axis=-1)


def flat_batch(pool: np.ndarray, rng: np.random.Generator, count: int, side: int) -> Tensor:
    """(B, 3, 9, side, side) in [-1, 1]: smooth motion."""
    start, top, left = rng.integers(0, FRAMES - WINDOW + 1), *rng.integers(0, SIZE - side + 1, 2)
    clips = np.stack([pool[i, start : start + WINDOW, top : top + side, left : left + side] for i in rng.integers(0, len(pool), count)])
    return torch.from_numpy(clips).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def material_batch(pool: np.ndarray, rng: np.random.Generator, count: int, side: int, *, close_share: float = 0.0) -> Tensor:
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
        close = rng.random() < close_share
        cut = int(rng.integers(side * 3 // 8, side * 3 // 4) if close else rng.integers(side * 3 // 4, CANVAS + 1))
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


def place(minutes: float) -> tuple[Round | None, float]:
    """The round after so many minutes of training, and the minutes spent in it; None when all are over."""
    for current in ROUNDS:
        if minutes < current.minutes + current.decoder_minutes:
            return current, minutes
        minutes -= current.minutes + current.decoder_minutes
    return None, 0.0


def setting(current: Round, minutes: float) -> tuple[tuple[int, int, int], float, bool]:
    """Batch, learning rate, and whether the encoder learns, at these minutes of a round."""
    progress = minutes / current.minutes
    if progress >= 1:
        return LAST, LAST_RATE * (1 - (minutes - current.minutes) / current.decoder_minutes) + 1e-6, False
    rate = current.peak_rate * min(1, minutes / WARMUP + 1e-3) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
    return current.small if progress < current.small_share else current.large, rate, True


def train(work: Path, base: Path) -> None:
    """Until the last round is over; the state goes to work/vae_sudden_state.pt."""
    torch.manual_seed(3)
    held = AutoencoderKLWan.from_pretrained(base / "vae", torch_dtype=torch.float32).requires_grad_(False)
    scale = torch.tensor(held.config.latents_std).view(1, -1, 1, 1, 1)
    vae = copy.deepcopy(held).requires_grad_(True)
    optimiser, state_path = vae_optimiser(vae), work / "vae_sudden_state.pt"
    state = load_state(state_path, vae=vae, optimiser=optimiser)
    step, spent = state.get("step", 0), state.get("spent", 0.0)
    flat, checks = render_pool(work)[:FLAT_CLIPS], held_out_clips()[:8]
    sudden = rendered(work / "materials.npy", (MATERIALS, FRAMES, CANVAS, CANVAS, 4), material_clip)
    rng, unseen = np.random.default_rng(step), material_batch(sudden[-16:], np.random.default_rng(12345), 16, SIZE)
    last, report = time.time(), spent
    current, minutes = place(spent / 60)
    while current:
        (side, smooth_clips, sudden_clips), rate, encoder_learns = setting(current, minutes)
        for part in (vae.encoder, vae.quant_conv):
            part.requires_grad_(encoder_learns)
        for group in optimiser.param_groups:
            group["lr"] = rate
        smooth = flat_batch(flat, rng, smooth_clips, side)
        burst = material_batch(sudden[:-16], rng, sudden_clips, side, close_share=current.close_share)
        loss = loss_of(vae, held, smooth, burst, scale)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        step, now = step + 1, time.time()
        spent, last = spent + now - last, now
        current, minutes = place(spent / 60)
        if step % 20 == 0:
            print(f"step {step} {spent / 60:.1f} min loss {loss.item():.4f} grad {norm.item():.2f}", flush=True)
        if spent - report > 150 or current is None:
            report = spent
            print(f"step {step} {spent / 60:.1f} min PSNR {psnr(vae, checks):.2f} dB smooth, {psnr(vae, unseen):.2f} sudden", flush=True)
            save_state(state_path, vae=vae, optimiser=optimiser, step=step, spent=spent)
            last = time.time()


def save(work: Path, output: Path, *, state: str = "vae_sudden_state.pt") -> None:
    """The finished VAE of a state in the work folder, its latents measured on smooth clips."""
    vae = AutoencoderKLWan(**VAE).requires_grad_(False)
    load_state(work / state, vae=vae)
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
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    train(args.work, args.base)
    save(args.work, args.output)


if __name__ == "__main__":
    main()
