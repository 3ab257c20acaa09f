"""What does v2's bidirectional loss do? Stage 1 trained on from one start without it, with ours, and in the released form.

    python benchmarks/bidirectional.py --start FILE --data FOLDER --held_out FOLDER --steps N --output FOLDER

Same start, data, seeds and steps; only --bidirectional differs. Measured on the held-out clips: reconstruction (as `evaluate`), and
the normalised latents of transparent cells, where M = -1, against opaque ones, M = 1:

    judge_opaque, judge_transparent   mean err^2 of the frozen transformer at noise levels 0.1 ... 0.9
    clamped_opaque, clamped_transparent   share of their w err^2 above 1, which has no gradient any more
    spread_opaque, spread_transparent standard deviation of cells around their mean, mean over channels
    centre_distance                   between both means, in units of the spread of all cells
    nearest_opaque                    mean distance of a transparent cell to the nearest opaque cell of its clip, in the same unit

An interrupted run goes on where it stopped when called again. The last line is JSON; OUTPUT/bidirectional.json holds it too.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from wan_alpha import recipes
from wan_alpha.checkpoints.files import sha256
from wan_alpha.config import TrainVaeConfig
from wan_alpha.data.clips import ClipDataset
from wan_alpha.data.draws import generator_at
from wan_alpha.data.manifest import read_manifest
from wan_alpha.encoding import encode_clip, load_rgba_vae
from wan_alpha.evaluate import evaluate
from wan_alpha.geometry import ClipSize
from wan_alpha.media.atomic import beside
from wan_alpha.models.denoiser import predict_velocity
from wan_alpha.objectives.flow import bell_weight, noise_at, velocity
from wan_alpha.objectives.transparency import three_valued_mask
from wan_alpha.train.judge import Judge, load_judge
from wan_alpha.train.vae import train

MODES = ("none", "reference", "ours")
LEVELS = tuple(n / 10 for n in range(1, 10))
RECONSTRUCTION = ("rgb_mae", "alpha_mae", "psnr", "ssim", "alpha_psnr", "alpha_ssim", "background_leak", "holes")
CPU = torch.device("cpu")


@torch.no_grad()
def latent_statistics(config: TrainVaeConfig, judge: Judge, *, stage1: Path, held_out: Path, clips: int | None) -> dict[str, float]:
    """Mean over the held-out clips that have cells of both kinds."""
    rgba_vae = load_rgba_vae(replace(config, feature_merge_checkpoint=stage1, vae_lora_path=None), device=CPU, needs=("merge block",))
    size = ClipSize(num_frames=config.num_frames, height=config.height, width=config.width)
    rows = []
    for i, sample in enumerate(ClipDataset(read_manifest(held_out)[:clips], size=size, crop="centre")):
        alpha = sample.alpha[None]
        z = encode_clip(rgba_vae, sample.rgb[None], alpha, colour=torch.zeros(1, 3), hard_threshold=config.hard_threshold)
        mask = three_valued_mask(alpha)[0]
        if bool((mask == 1).any()) and bool((mask == -1).any()):
            rows.append({**judged(judge, z, mask, number=i), **separation(z[0], mask)})
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]} | {"clips_with_both": len(rows)}


def judged(judge: Judge, z: Tensor, mask: Tensor, *, number: int) -> dict[str, float]:
    """Errors of the frozen transformer on normalised latents (1, c, t, h, w), noise fixed per clip."""
    noise = torch.randn(z.shape, generator=generator_at(0, number))
    found: dict[str, list[Tensor]] = {}
    for level in LEVELS:
        sigma = torch.tensor([level])
        error = (predict_velocity(judge.transformer, noise_at(z, noise, sigma), sigma=sigma, context=judge.context) - velocity(z, noise))[0]
        cells = error.square().movedim(0, -1)
        for kind, value in (("opaque", 1), ("transparent", -1)):
            found.setdefault(f"judge_{kind}", []).append(cells[mask == value].mean())
            found.setdefault(f"clamped_{kind}", []).append((bell_weight(sigma) * cells[mask == value] > 1).float().mean())
    return {name: float(torch.stack(values).mean()) for name, values in found.items()}


def separation(z: Tensor, mask: Tensor) -> dict[str, float]:
    """Where the cells of both kinds lie; latents (c, t, h, w)."""
    cells = z.movedim(0, -1)
    opaque, transparent = cells[mask == 1], cells[mask == -1]
    unit = cells.flatten(0, -2).std(dim=0).norm()
    nearest = torch.cdist(transparent, opaque).amin(dim=1)
    return {
        "spread_opaque": float(opaque.std(dim=0, correction=0).mean()),
        "spread_transparent": float(transparent.std(dim=0, correction=0).mean()),
        "centre_distance": float((opaque.mean(dim=0) - transparent.mean(dim=0)).norm() / unit),
        "nearest_opaque": float(nearest.mean() / unit),
    }


def measure(config: TrainVaeConfig, judge: Judge, *, stage1: Path, args: argparse.Namespace) -> dict[str, float]:
    size = {name: getattr(config, name) for name in ("height", "width", "num_frames")}
    settings = replace(recipes.get_recipe("tiny").evaluate, **size, model=config.model, dataset_base_path=args.held_out, device="cpu")
    found = evaluate(
        replace(settings, feature_merge_checkpoint=stage1, max_clips=args.clips, output_path=config.output_path / "evaluation")
    ).mean
    latents = latent_statistics(config, judge, stage1=stage1, held_out=args.held_out, clips=args.clips)
    return {**{name: found[name] for name in RECONSTRUCTION}, **latents}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", type=Path, default=recipes.get_recipe("tiny").train_vae.feature_merge_checkpoint)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--held_out", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--weight", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clips", type=int, help="only the first N held-out clips")
    parser.add_argument("--size", type=int, nargs=3, default=(17, 64, 64), metavar=("FRAMES", "HEIGHT", "WIDTH"))
    args = parser.parse_args()
    torch.manual_seed(0)
    frames, height, width = args.size
    base = replace(
        recipes.get_recipe("tiny").train_vae,
        **{"num_frames": frames, "height": height, "width": width},
        **{"dataset_base_path": args.data, "feature_merge_checkpoint": args.start, "device": "cpu", "seed": args.seed},
        **{"max_steps": args.steps, "bidirectional_weight": args.weight},
    )
    judge = load_judge(replace(base, bidirectional="ours"), z_dim=16, device=CPU)
    assert judge is not None
    table = {"start": measure(replace(base, output_path=args.output / "start"), judge, stage1=args.start, args=args)}
    for mode in MODES:
        config = replace(base, bidirectional=mode, output_path=args.output / mode)
        going_on = any((config.output_path / "states").glob("step_*"))
        _, stage1 = train(replace(config, resume="latest" if going_on else None))
        table[mode] = measure(config, judge, stage1=stage1, args=args)
    print(f"{'':20s}" + "".join(f"{name:>12s}" for name in table))
    for name in table["start"]:
        print(f"{name:20s}" + "".join(f"{row[name]:12.4f}" for row in table.values()))
    settings = {"steps": args.steps, "weight": args.weight, "seed": args.seed, "start": sha256(args.start)[:12]}
    result = json.dumps({**settings, "results": {mode: {k: round(v, 5) for k, v in row.items()} for mode, row in table.items()}})
    with beside(args.output / "bidirectional.json") as partial:
        partial.write_text(result + "\n")
    print(result)


if __name__ == "__main__":
    main()
