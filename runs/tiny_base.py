"""Make the tiny base: a small RGB text-to-video Wan, trained from scratch on procedural opaque clips.

    python runs/tiny_base.py pool vae latents text dit      # all steps, in this order; vae and dit resume where they stopped

Hardware: two CPU cores with bfloat16 arithmetic (AVX512-BF16), about two hours. Expected: the figures in
src/wan_alpha/assets/tiny/README.md, which runs/tiny_base_card.py measures. Work files go to --work (default build/tiny_base), the
result to --output.
"""

import argparse
import copy
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel
from torch import Tensor, nn
from transformers import ByT5Tokenizer, UMT5Config, UMT5EncoderModel

from wan_alpha.data import synthetic
from wan_alpha.models import whole_clip

SIZE, FRAMES, POOL, HELD_OUT = 64, 17, 6000, 48
HELD_OUT_SEED = 10_000_000
VAE = dict(base_dim=16, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=1, temperal_downsample=[False, True, True])


def render_pool(work: Path) -> np.ndarray:
    """Opaque training clips as one uint8 array (POOL, T, H, W, 3)."""

    def opaque(seed: int) -> np.ndarray:
        return synthetic.render_opaque(synthetic.sample_scene(seed), num_frames=FRAMES, height=SIZE, width=SIZE)

    return rendered(work / "pool.npy", (POOL, FRAMES, SIZE, SIZE, 3), opaque)


def rendered(path: Path, shape: tuple[int, ...], render: Callable[[int], np.ndarray]) -> np.ndarray:
    """render(seed), in [0, 1], of the first seeds as one uint8 array of the shape in a file, which is made where it is missing."""
    if not path.exists():
        partial = path.with_suffix(".partial")
        pool = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
        for i in range(len(pool)):
            pool[i] = np.round(render(i) * 255).astype(np.uint8)
            if i % 500 == 0:
                print(f"{path.stem} {i}/{len(pool)}", flush=True)
        pool.flush()
        os.replace(partial, path)
    return np.load(path, mmap_mode="r")


def held_out_clips() -> Tensor:
    """(N, 3, T, H, W) in [-1, 1], from scenes that training never draws."""
    scenes = (synthetic.sample_scene(HELD_OUT_SEED + i) for i in range(HELD_OUT))
    clips = np.stack([synthetic.render_opaque(s, num_frames=FRAMES, height=SIZE, width=SIZE) for s in scenes])
    return torch.from_numpy(clips).permute(0, 4, 1, 2, 3) * 2 - 1


def initialise_vae(vae: AutoencoderKLWan) -> None:
    """Weights N(0, 1/fan_in), residual branches closed, the past ignored: a clip starts as images, every frame the last of its group."""
    for name, module in vae.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)):
            taps = module.weight[0].numel() // (module.weight.shape[2] if module.weight.dim() == 5 else 1)
            nn.init.normal_(module.weight, std=taps**-0.5)
            nn.init.zeros_(module.bias)
            if module.weight.dim() == 5 and module.weight.shape[2] == 3:
                with torch.no_grad():
                    module.weight[:, :, :2] = 0
            if "time_conv" in name:
                with torch.no_grad():
                    copies = module.out_channels // module.in_channels
                    module.weight.zero_()
                    module.weight[:, :, -1, 0, 0] = torch.eye(module.in_channels).repeat(copies, 1)
            if name.endswith(("proj",)) or (name.endswith("conv2") and ("resnets" in name or "down_blocks" in name)):
                nn.init.zeros_(module.weight)


def psnr(vae: AutoencoderKLWan, clips: Tensor) -> float:
    """Mean over clips of the PSNR of [0, 1] pixels, float32, decoded from the posterior mean."""
    values = []
    with torch.no_grad():
        for clip in clips.split(1):
            latents = encode(vae, clip)[0]
            recon = whole_clip.decode(vae.decoder, vae.post_quant_conv, latents).clamp(-1, 1)
            values.append(-10 * math.log10(((recon - clip) / 2).square().mean().item()))
    return float(np.mean(values))


def encode(vae: AutoencoderKLWan, clip: Tensor) -> tuple[Tensor, Tensor]:
    """Posterior mean and log-variance, each (B, z, t, h, w)."""
    moments = whole_clip.encoder_head(vae.encoder, vae.quant_conv, whole_clip.encoder_features(vae.encoder, clip))
    mean, logvar = moments.float().chunk(2, dim=1)
    return mean, logvar.clamp(-20, 5)


def vae_loss(vae: AutoencoderKLWan, clip: Tensor, *, arithmetic: torch.dtype = torch.bfloat16) -> tuple[Tensor, Tensor]:
    """MSE + 0.3 L1 + 1e-4 KL, through a sampled latent; and the posterior mean."""
    with torch.autocast("cpu", torch.bfloat16, enabled=arithmetic == torch.bfloat16):
        mean, logvar = encode(vae, clip)
        latents = mean + torch.randn_like(mean) * (0.5 * logvar).exp()
        recon = whole_clip.decode(vae.decoder, vae.post_quant_conv, latents).float()
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    return F.mse_loss(recon, clip) + 0.3 * F.l1_loss(recon, clip) + 1e-4 * kl, mean


def batch(pool: np.ndarray, rng: np.random.Generator, count: int, num_frames: int) -> Tensor:
    """Random clips or windows, mirrored at random: (B, 3, num_frames, H, W) in [-1, 1]."""
    start = rng.integers(0, FRAMES - num_frames + 1)
    clips = np.stack([pool[i, start : start + num_frames] for i in rng.integers(0, len(pool), count)])
    if rng.random() < 0.5:
        clips = clips[:, :, :, ::-1]
    return torch.from_numpy(np.ascontiguousarray(clips)).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def train_vae(work: Path, minutes: float) -> None:
    """Single frames for a tenth of the time, then windows of 9 frames, then whole clips; the learning rate falls as a cosine of time.

    The first step on clips starts a new optimiser with a long warm-up and a lower rate: the taps on past frames had no gradient
    before, and Adam moves them all by the full rate (measured: at 1e-3, and at 4e-4 with two clips a step, 24 dB fell below 16).
    """
    torch.manual_seed(0)
    vae = AutoencoderKLWan(**VAE)
    initialise_vae(vae)
    optimiser = vae_optimiser(vae)
    state_path = work / "vae_state.pt"
    state = load_state(state_path, vae=vae, optimiser=optimiser)
    step, phase_start, spent = state.get("step", 0), state.get("phase_start", 0), state.get("spent", 0.0)
    pool, rng, held_out = np.load(work / "pool.npy", mmap_mode="r"), np.random.default_rng(step), held_out_clips()
    last, report = time.time(), spent
    while spent < minutes * 60:
        images = spent < 0.1 * minutes * 60
        if not images and phase_start == 0:
            optimiser, phase_start = vae_optimiser(vae), step
            torch.save(vae.state_dict(), work / "vae_images.pt")
        progress = spent / (minutes * 60)
        for group in optimiser.param_groups:
            group["lr"] = (
                (1e-3 if images else 2.5e-4)
                * min(1, (step - phase_start + 1) / (200 if images else 600))
                * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
            )
        shape = (24, 1) if images else (4, 9) if progress < 0.7 else (2, FRAMES)
        loss, _ = vae_loss(vae, batch(pool, rng, *shape))
        loss.backward()
        norm = nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        step, now = step + 1, time.time()
        spent, last = spent + now - last, now
        if step % 50 == 0:
            print(f"vae step {step} {spent / 60:.1f} min loss {loss.item():.4f} grad {norm.item():.2f}", flush=True)
        if spent - report > 150 or spent >= minutes * 60:
            report = spent
            clips, images = psnr(vae, held_out[:8]), psnr(vae, held_out[:8, :, :1])
            print(f"vae step {step} {spent / 60:.1f} min PSNR {clips:.2f} dB clips, {images:.2f} images", flush=True)
            save_state(state_path, vae=vae, optimiser=optimiser, step=step, phase_start=phase_start, spent=spent)


def save_state(path: Path, **parts: Any) -> None:
    """What a training is made of, by name: modules and optimisers by their states, numbers as they are. Written beside and renamed."""
    state = {name: part.state_dict() if hasattr(part, "state_dict") else part for name, part in parts.items()}
    torch.save(state, path.with_suffix(".partial"))
    os.replace(path.with_suffix(".partial"), path)


def load_state(path: Path, **parts: Any) -> dict[str, Any]:
    """Put modules and optimisers back as they were saved, and return the numbers; nothing changes where there is no file."""
    state = torch.load(path, weights_only=True) if path.exists() else {}
    for name in parts.keys() & state.keys():
        parts[name].load_state_dict(state.pop(name))
    return state


def vae_optimiser(vae: AutoencoderKLWan) -> torch.optim.Optimizer:
    return torch.optim.AdamW(vae.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=1e-4)


TEXT = dict(vocab_size=384, d_model=128, d_kv=32, num_heads=4, d_ff=256, num_layers=3, dropout_rate=0.0, tie_word_embeddings=False)
TEXT_LENGTH = 128
DIT = dict(
    num_attention_heads=5,
    attention_head_dim=32,
    in_channels=16,
    out_channels=16,
    text_dim=128,
    freq_dim=64,
    ffn_dim=640,
    num_layers=6,
    cross_attn_norm=True,
    qk_norm="rms_norm_across_heads",
    rope_max_seq_len=128,
)
ATTRIBUTES = {
    "subject": synthetic.SUBJECTS,
    "colour": tuple(synthetic.COLOURS),
    "motion": synthetic.MOTIONS,
    "backdrop": synthetic.BACKDROPS,
    "backdrop_colour": tuple(synthetic.COLOURS),
}


def encode_pool(work: Path, output: Path) -> None:
    """Posterior means of the pool in half precision, their statistics, and the finished VAE folder."""
    torch.manual_seed(0)
    vae = AutoencoderKLWan(**VAE)
    vae.load_state_dict(torch.load(work / "vae_state.pt", weights_only=True)["vae"])
    vae.half().float().requires_grad_(False)
    pool = np.load(work / "pool.npy", mmap_mode="r")
    latents = torch.empty(len(pool), VAE["z_dim"], 1 + (FRAMES - 1) // 4, SIZE // 8, SIZE // 8, dtype=torch.float16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for i in range(0, len(pool), 8):
            clip = torch.from_numpy(pool[i : i + 8].copy()).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
            latents[i : i + 8] = encode(vae, clip)[0]
    save_vae(vae, latents, output)
    write_index(output)
    torch.save(latents, work / "latents.pt")


def save_vae(vae: AutoencoderKLWan, latents: Tensor, output: Path) -> None:
    """The VAE in half precision, with the mean and standard deviation of these latents of its own."""
    mean, std = latents.float().mean((0, 2, 3, 4)), latents.float().std((0, 2, 3, 4))
    vae.register_to_config(latents_mean=[round(v, 4) for v in mean.tolist()], latents_std=[round(v, 4) for v in std.tolist()])
    vae.half().save_pretrained(output / "vae")


def write_index(output: Path) -> None:
    """model_index.json and the scheduler: what makes the folder a diffusers pipeline."""
    UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0).save_pretrained(output / "scheduler")
    classes = {
        "vae": ("diffusers", "AutoencoderKLWan"),
        "transformer": ("diffusers", "WanTransformer3DModel"),
        "text_encoder": ("transformers", "UMT5EncoderModel"),
        "tokenizer": ("transformers", "ByT5Tokenizer"),
        "scheduler": ("diffusers", "UniPCMultistepScheduler"),
    }
    index = {"_class_name": "WanPipeline", "_diffusers_version": diffusers.__version__, **classes}
    (output / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def text_encoder() -> UMT5EncoderModel:
    return UMT5EncoderModel(UMT5Config(**TEXT))


def tokenise(captions: list[str]) -> tuple[Tensor, Tensor]:
    """Byte tokens (N, L) and their mask, padded to TEXT_LENGTH as every later stage pads."""
    tokens = ByT5Tokenizer()(captions, padding="max_length", max_length=TEXT_LENGTH, truncation=True, return_tensors="pt")
    return tokens.input_ids, tokens.attention_mask


def embed(encoder: UMT5EncoderModel, captions: list[str]) -> Tensor:
    """Embeddings (N, L, D), zero after the real length, as Wan's pipeline has them."""
    ids, mask = tokenise(captions)
    return encoder(input_ids=ids, attention_mask=mask).last_hidden_state * mask[..., None]


def train_text(work: Path, output: Path, steps: int = 1500) -> None:
    """The text encoder learns to tell the attributes of a scene from its caption; linear heads on the mean token, thrown away after."""
    if (output / "text_encoder" / "config.json").exists():
        return
    torch.manual_seed(1)
    encoder = text_encoder()
    heads = nn.ModuleDict({name: nn.Linear(TEXT["d_model"], len(values)) for name, values in ATTRIBUTES.items()})
    optimiser = torch.optim.AdamW([*encoder.parameters(), *heads.parameters()], lr=1e-3)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * min(1, (step + 1) / 100) * (1 - step / steps)
        scenes = [synthetic.sample_scene(20_000_000 + 32 * step + k) for k in range(32)]
        transparent = step % 3 == 2
        ids, mask = tokenise([(synthetic.transparent_caption if transparent else synthetic.caption)(scene) for scene in scenes])
        longest = int(mask.sum(1).max())
        hidden = encoder(input_ids=ids[:, :longest], attention_mask=mask[:, :longest]).last_hidden_state
        pooled = (hidden * mask[:, :longest, None]).sum(1) / mask.sum(1, keepdim=True)
        loss, right = torch.zeros(()), {}
        for name, values in ATTRIBUTES.items():
            if transparent and name.startswith("backdrop"):
                continue
            target = torch.tensor([values.index(getattr(scene, name)) for scene in scenes])
            logits = heads[name](pooled)
            loss = loss + F.cross_entropy(logits, target)
            right[name] = (logits.argmax(1) == target).float().mean().item()
        loss = loss + 1e-3 * (hidden.square().mean() - 1).square()
        loss.backward()
        nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if step % 50 == 0 or step == steps - 1:
            print(f"text step {step} loss {loss.item():.3f} accuracy {right} rms {hidden.square().mean().sqrt().item():.2f}", flush=True)
    encoder.half().save_pretrained(output / "text_encoder")
    ByT5Tokenizer().save_pretrained(output / "tokenizer")


def train_dit(work: Path, output: Path, minutes: float) -> None:
    """Rectified flow on normalised latents, batch 16, one caption in ten empty; the average of the weights (EMA) is kept."""
    torch.manual_seed(2)
    dit = WanTransformer3DModel(**DIT)
    config = json.loads((output / "vae" / "config.json").read_text())
    mean, std = (torch.tensor(config[f"latents_{name}"]).view(1, -1, 1, 1, 1) for name in ("mean", "std"))
    latents = torch.load(work / "latents.pt", weights_only=True)
    encoder = UMT5EncoderModel.from_pretrained(output / "text_encoder", dtype=torch.float32).requires_grad_(False)
    captions = [synthetic.caption(synthetic.sample_scene(i)) for i in range(len(latents))]
    context = torch.cat([embed(encoder, captions[i : i + 100]).half() for i in range(0, len(captions), 100)])
    empty = embed(encoder, [""])
    optimiser = torch.optim.AdamW(dit.parameters(), lr=1.5e-3, betas=(0.9, 0.99), weight_decay=0.01)
    average, state_path = copy.deepcopy(dit).requires_grad_(False), work / "dit_state.pt"
    state = load_state(state_path, dit=dit, average=average, optimiser=optimiser)
    step, spent = state.get("step", 0), state.get("spent", 0.0)
    generator = torch.Generator().manual_seed(step)
    last, report, losses = time.time(), spent, []
    while spent < minutes * 60:
        for group in optimiser.param_groups:
            group["lr"] = 1.5e-3 * min(1, (step + 1) / 300) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * spent / (minutes * 60))))
        chosen = torch.randint(len(latents), (16,), generator=generator)
        x0, text = (latents[chosen].float() - mean) / std, context[chosen].float()
        text = torch.where(torch.rand(16, 1, 1, generator=generator) < 0.1, empty, text)
        sigma = torch.rand(16, generator=generator)
        sigma = (2 * sigma / (1 + sigma)).view(-1, 1, 1, 1, 1)
        noise = torch.randn(x0.shape, generator=generator)
        with torch.autocast("cpu", torch.bfloat16):
            velocity = dit(
                hidden_states=(1 - sigma) * x0 + sigma * noise,
                timestep=1000 * sigma.flatten(),
                encoder_hidden_states=text,
                return_dict=False,
            )[0]
        loss = F.mse_loss(velocity.float(), noise - x0)
        loss.backward()
        nn.utils.clip_grad_norm_(dit.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        decay = min(0.999, (1 + step) / (10 + step))
        for slow, fast in zip(average.parameters(), dit.parameters(), strict=True):
            slow.lerp_(fast, 1 - decay)
        step, now = step + 1, time.time()
        spent, last = spent + now - last, now
        losses.append(loss.item())
        if step % 100 == 0:
            print(f"dit step {step} {spent / 60:.1f} min loss {np.mean(losses[-100:]):.4f}", flush=True)
        if spent - report > 150 or spent >= minutes * 60:
            report = spent
            save_state(state_path, dit=dit, average=average, optimiser=optimiser, step=step, spent=spent)
            copy.deepcopy(average).half().save_pretrained(output / "transformer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="+", choices=["pool", "vae", "latents", "text", "dit"])
    parser.add_argument("--work", type=Path, default=Path("build/tiny_base"))
    parser.add_argument("--output", type=Path, default=Path("src/wan_alpha/assets/tiny"))
    parser.add_argument("--vae_minutes", type=float, default=33)
    parser.add_argument("--dit_minutes", type=float, default=40)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    run = {
        "pool": lambda: render_pool(args.work),
        "vae": lambda: train_vae(args.work, args.vae_minutes),
        "latents": lambda: encode_pool(args.work, args.output),
        "text": lambda: train_text(args.work, args.output),
        "dit": lambda: train_dit(args.work, args.output, args.dit_minutes),
    }
    for step in args.steps:
        run[step]()


if __name__ == "__main__":
    main()
