"""How much does the RGBA VAE lose against the RGB VAE it stands on? Same held-out procedural clips, same backgrounds.

    python benchmarks/stage1_quality.py [--stage1 FILE] [--clips 12]

The RGB VAE reconstructs each clip as opaque video: composited over each of the nine backgrounds, its matte as grey video, and the
same scene before its backdrop, the kind of clip that the VAE was trained on. The RGBA VAE reconstructs colour and matte once, and
its result is composited over the same backgrounds. The last line is JSON: PSNR in dB of both, mean over clips, and by how much the
RGBA VAE's colour and alpha lie below (positive) or above (negative) the RGB VAE's composites, mattes and opaque clips.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wan_alpha.config import BaseModelConfig
from wan_alpha.data import synthetic
from wan_alpha.device import choose_device
from wan_alpha.encoding import encode_clip, load_rgba_vae
from wan_alpha.metrics.quality import alpha_psnr_ssim, psnr_ssim_over_backgrounds
from wan_alpha.models import whole_clip
from wan_alpha.models.load import load_vae, resolve_base
from wan_alpha.recipes.tiny import STAGE1
from wan_alpha.rgba import HARD_THRESHOLD, METRIC_COLOURS, from_signed, over, to_signed

SIZE, FRAMES, SEED = 64, 17, 1_000_000


def held_out_clip(i: int) -> tuple[Tensor, Tensor]:
    """Straight colour (1, 3, T, H, W) and alpha (1, 1, T, H, W) in [0, 1] of a scene that no training draws."""
    scene = synthetic.sample_transparent_scene(SEED + i)
    colour, alpha = synthetic.render_subject(scene, num_frames=FRAMES, height=SIZE, width=SIZE)
    return torch.from_numpy(colour).permute(3, 0, 1, 2)[None], torch.from_numpy(alpha)[None, None]


def opaque_clip(i: int) -> Tensor:
    """(1, 3, T, H, W) in [0, 1]: the scene of `held_out_clip` before its backdrop."""
    scene = synthetic.sample_transparent_scene(SEED + i)
    return torch.from_numpy(synthetic.render_opaque(scene, num_frames=FRAMES, height=SIZE, width=SIZE)).permute(3, 0, 1, 2)[None]


def psnr(prediction: Tensor, truth: Tensor) -> float:
    """dB over a clip in [0, 1]."""
    return float(-10 * torch.log10((prediction - truth).square().mean()))


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--stage1", type=Path, default=STAGE1)
    parser.add_argument("--clips", type=int, default=12)
    args = parser.parse_args()
    device = choose_device("auto")
    config = BaseModelConfig(model=args.model, feature_merge_checkpoint=args.stage1)
    vae = load_vae(resolve_base(config), dtype=torch.float32, device=device)
    rgba_vae = load_rgba_vae(config, device=device, needs=("merge block", "decoders"))

    def as_opaque(clip: Tensor) -> Tensor:
        """What the RGB VAE makes of an opaque clip in [0, 1]."""
        moments = whole_clip.encoder_head(vae.encoder, vae.quant_conv, whole_clip.encoder_features(vae.encoder, to_signed(clip)))
        return from_signed(whole_clip.decode(vae.decoder, vae.post_quant_conv, moments[:, : vae.config.z_dim])).clamp(0, 1)

    rows = []
    for i in range(args.clips):
        rgb, alpha = (x.to(device) for x in held_out_clip(i))
        latents = encode_clip(rgba_vae, rgb, alpha, colour=torch.zeros(1, 3, device=device), hard_threshold=HARD_THRESHOLD)
        found_rgb, found_alpha = (from_signed(x).clamp(0, 1) for x in rgba_vae.decode(rgba_vae.denormalise(latents)))
        backgrounds = [torch.tensor(colour, device=device)[None, :, None, None, None] for colour in METRIC_COLOURS.values()]
        opaque = [over(rgb, alpha, background) for background in backgrounds]
        grey = alpha.expand(-1, 3, -1, -1, -1)
        before_backdrop = opaque_clip(i).to(device)
        rows.append(
            {
                "rgb_vae_on_opaque_clips": psnr(as_opaque(before_backdrop), before_backdrop),
                "rgb_vae": float(np.mean([psnr(as_opaque(clip), clip) for clip in opaque])),
                "rgba_vae": psnr_ssim_over_backgrounds((found_rgb, found_alpha), (rgb, alpha))["psnr"],
                "rgb_vae_on_matte": psnr(as_opaque(grey).mean(dim=1, keepdim=True), alpha),
                "rgba_vae_alpha": alpha_psnr_ssim(found_alpha, alpha)["psnr"],
            }
        )
        print(i, {name: round(value, 2) for name, value in rows[-1].items()}, flush=True)
    mean = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    against = {"colour": ("rgb_vae", "rgba_vae"), "alpha": ("rgb_vae_on_matte", "rgba_vae_alpha")}
    below = {f"{name}_below": mean[theirs] - mean[ours] for name, (theirs, ours) in against.items()}
    below |= {f"{name}_below_opaque_clips": mean["rgb_vae_on_opaque_clips"] - mean[ours] for name, (_, ours) in against.items()}
    print(json.dumps({name: round(value, 2) for name, value in {**mean, **below}.items()}))


if __name__ == "__main__":
    main()
