"""Measure the tiny base for its card, and draw its samples: reconstruction, and how well text-to-video follows the caption.

    python runs/tiny_base_card.py            # about five minutes on two CPU cores; needs build/tiny_base/pool.npy of runs/tiny_base.py

A judge, trained here on rendered clips and thrown away, names subject and colour of 32 samples for 32 fixed captions.
"""

import argparse
import itertools
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tiny_base import ATTRIBUTES, FRAMES, HELD_OUT, SIZE, TEXT_LENGTH, held_out_clips, psnr
from torch import Tensor, nn

from wan_alpha.config import BaseModelConfig
from wan_alpha.data import synthetic
from wan_alpha.models import whole_clip
from wan_alpha.models.denoiser import predict_velocity
from wan_alpha.models.load import load_text_encoder, load_transformer, load_vae, resolve_base
from wan_alpha.models.text import encode_prompts
from wan_alpha.sampling import guided, sample, sampling_sigmas

PROMPTS, STEPS, GUIDANCE, SHIFT = 32, 25, 4.0, 3.0
JUDGED = ("subject", "colour")


class Judge(nn.Module):
    """Three frames of a clip -> logits of subject and colour."""

    def __init__(self) -> None:
        super().__init__()
        widths = (9, 32, 64, 96, 128)
        self.body = nn.Sequential(
            *[
                layer
                for i, (a, b) in enumerate(itertools.pairwise(widths))
                for layer in (nn.Conv2d(a, b, 5 if i == 0 else 3, stride=2, padding=2 if i == 0 else 1), nn.BatchNorm2d(b), nn.SiLU())
            ],
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
        )
        self.heads = nn.ModuleDict({name: nn.Linear(4 * widths[-1], len(ATTRIBUTES[name])) for name in JUDGED})

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        features = self.body(frames)
        return {name: head(features) for name, head in self.heads.items()}


def three_frames(clips: Tensor) -> Tensor:
    """(B, 3, T, H, W) -> (B, 9, H, W): first, middle and last frame."""
    return clips[:, :, [0, FRAMES // 2, FRAMES - 1]].flatten(1, 2)


def train_judge(pool: np.ndarray, *, steps: int = 900) -> Judge:
    torch.manual_seed(3)
    judge, rng = Judge(), np.random.default_rng(3)
    optimiser = torch.optim.AdamW(judge.parameters(), lr=2e-3)
    targets = {
        name: np.array([ATTRIBUTES[name].index(getattr(synthetic.sample_scene(i), name)) for i in range(len(pool))]) for name in JUDGED
    }
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * (1 - step / steps)
        chosen = rng.integers(0, len(pool), 64)
        frames = torch.from_numpy(pool[chosen][:, [0, FRAMES // 2, FRAMES - 1]]).permute(0, 4, 1, 2, 3).float().flatten(1, 2) / 127.5 - 1
        frames = frames + 0.05 * torch.randn_like(frames)
        logits = judge(frames)
        loss = sum(F.cross_entropy(logits[name], torch.from_numpy(targets[name][chosen])) for name in JUDGED)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    return judge.eval()


@torch.no_grad()
def accuracy(judge: Judge, clips: Tensor, scenes: list[synthetic.Scene]) -> dict[str, float]:
    logits = judge(three_frames(clips))
    return {
        name: float(np.mean([ATTRIBUTES[name][i] == getattr(s, name) for i, s in zip(logits[name].argmax(1), scenes, strict=True)]))
        for name in JUDGED
    }


@torch.no_grad()
def generate(scenes: list[synthetic.Scene], *, config: BaseModelConfig) -> Tensor:
    """One sample per scene's caption, seed = its index: (B, 3, T, H, W) in [-1, 1]."""
    source = resolve_base(config)
    where = {"dtype": torch.float32, "device": "cpu"}
    vae, transformer = load_vae(source, **where), load_transformer(source, **where)
    encoder, tokenizer = load_text_encoder(source, **where)
    embed = {"encoder": encoder, "tokenizer": tokenizer, "max_sequence_length": TEXT_LENGTH}
    mean, std = (torch.tensor(getattr(vae.config, f"latents_{name}")).view(1, -1, 1, 1, 1) for name in ("mean", "std"))
    clips = []
    for first in range(0, len(scenes), 8):
        chosen = scenes[first : first + 8]
        context, empty = (encode_prompts(p, **embed) for p in ([synthetic.caption(s) for s in chosen], [""] * len(chosen)))
        noise = torch.stack(
            [
                torch.randn(transformer.config.in_channels, 5, 8, 8, generator=torch.Generator().manual_seed(first + i))
                for i in range(len(chosen))
            ]
        )
        towards, without = (lambda x, sigma, c=c: predict_velocity(transformer, x, sigma=sigma, context=c) for c in (context, empty))
        latents = sample(guided(towards, without, scale=GUIDANCE), noise, sigmas=sampling_sigmas(STEPS, shift=SHIFT))
        clips.append(whole_clip.decode(vae.decoder, vae.post_quant_conv, latents * std + mean).clamp(-1, 1))
    return torch.cat(clips)


def sheet(clips: Tensor, *, columns: int = 4) -> Image.Image:
    """Three frames of every clip, `columns` clips a row."""
    strips = [torch.cat(list(clip[:, [0, FRAMES // 2, FRAMES - 1]].unbind(1)), dim=2) for clip in clips]
    rows = [torch.cat(strips[i : i + columns], dim=2) for i in range(0, len(strips), columns)]
    picture = torch.cat(rows, dim=1).add(1).mul(127.5).round().clamp(0, 255)
    return Image.fromarray(picture.permute(1, 2, 0).to(torch.uint8).numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/tiny_base"))
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--images", type=Path, default=Path("docs/images"))
    args = parser.parse_args()
    config = BaseModelConfig(model=args.model)
    vae = load_vae(resolve_base(config), dtype=torch.float32, device="cpu")
    held_out = held_out_clips()
    scenes = synthetic.evaluation_scenes(PROMPTS, seed=30_000_000)
    samples = generate(scenes, config=config)
    judge = train_judge(np.load(args.work / "pool.npy", mmap_mode="r"))
    held_out_scenes = [synthetic.sample_scene(10_000_000 + i) for i in range(HELD_OUT)]
    figures = {
        "vae_psnr_db": round(psnr(vae, held_out), 2),
        "judge_on_held_out_clips": accuracy(judge, held_out, held_out_scenes),
        "judge_on_samples": accuracy(judge, samples, scenes),
        "captions": [synthetic.caption(scene) for scene in scenes],
        "sampling": f"UniPC, {STEPS} steps, guidance {GUIDANCE}, shift {SHIFT}, {SIZE}x{SIZE}, {FRAMES} frames",
    }
    args.images.mkdir(parents=True, exist_ok=True)
    sheet(samples).save(args.images / "tiny_base_samples.png")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
