"""evaluate: reconstruct clips with the RGBA VAE and measure what comes back.

Each clip is hard-rendered on black, encoded, decoded, and compared on its original frames: the seed's mean absolute errors of
colour and alpha in 0-255 units, PSNR and SSIM over nine backgrounds (AlphaVAE's protocol), the same of alpha alone, and
background leak and holes.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wan_alpha.config import EvaluateConfig
from wan_alpha.data.clips import ClipDataset, Sample, usable_entries
from wan_alpha.data.manifest import ClipEntry, read_manifest
from wan_alpha.device import choose_device
from wan_alpha.encoding import encode_clip, load_rgba_vae, loaded_weights
from wan_alpha.errors import UsageError
from wan_alpha.geometry import ClipSize
from wan_alpha.media.atomic import beside
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.write import write_pair, write_png
from wan_alpha.metrics.measure import measure
from wan_alpha.models.rgba_vae import RGBAlphaVAE
from wan_alpha.preview import comparison_sheet
from wan_alpha.progress import progress
from wan_alpha.rgba import from_signed, to_uint8
from wan_alpha.run_record import now, write_run_record

SHEET_CLIPS = 8
GRADES = (("excellent", 10.0, 5.0), ("good", 20.0, 15.0))  # the seed's bounds on RGB MAE and alpha MAE


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Means over clips, the values of each clip, and the files written."""

    mean: dict[str, float]
    clips: dict[str, dict[str, float]]
    report: Path
    sheet: Path

    def summary(self) -> list[str]:
        return [
            f"{len(self.clips)} clips, 0-255: RGB MAE {self.mean['rgb_mae']:.2f} (over alpha > 0: {self.mean['rgb_mae_any_alpha']:.2f}), "
            f"alpha MAE {self.mean['alpha_mae']:.2f}: {grade(self.mean)}",
            f"over nine backgrounds: PSNR {self.mean['psnr']:.2f} dB, SSIM {self.mean['ssim']:.4f}; "
            f"alpha: PSNR {self.mean['alpha_psnr']:.2f} dB, SSIM {self.mean['alpha_ssim']:.4f}",
            f"alpha: SAD {self.mean['alpha_sad']:.3f}, MSE {self.mean['alpha_mse']:.2f}, Grad {self.mean['alpha_grad']:.3f}, "
            f"Conn {self.mean['alpha_conn']:.3f}, dtSSD {self.mean['alpha_dtssd']:.2f}",
            f"background leak {self.mean['background_leak']:.4f}, holes {self.mean['holes']:.4f}, edge error {self.mean['edge_error']:.4f}",
            f"report: {self.report}",
            f"pictures: {self.sheet} (truth above reconstruction)",
        ]


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Measure the dataset, or the pair of --test_rgb_video and --test_alpha_video.

    Writes OUTPUT/PREFIX.json, PREFIX_sheet.png, and for each of the first clips PREFIX_NAME_{truth,prediction}_{rgb,alpha}.mp4.
    """
    started, device = now(), choose_device(config.device)
    entries = evaluation_entries(config)
    size = ClipSize(num_frames=config.num_frames, height=config.height, width=config.width)
    rgba_vae = load_rgba_vae(config, device=device, needs=("merge block", "decoders"))
    values: dict[str, dict[str, float]] = {}
    shown: list[tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]] = []
    with progress("evaluating", total=len(entries)) as advance:
        for sample in ClipDataset(entries, size=size, seed=config.seed, crop="centre"):
            truth, prediction = reconstruct(rgba_vae, sample, device=device, hard_threshold=config.hard_threshold)
            values[sample.name] = measure(prediction, truth, hard_threshold=config.hard_threshold)
            if len(shown) < SHEET_CLIPS:
                shown.append((truth, prediction))
                _write_videos(config, sample, truth, prediction)
            advance()
    mean = {key: float(np.mean([clip[key] for clip in values.values()])) for key in next(iter(values.values()))}
    report, sheet = _write_report(config, mean, values), _write_sheet(config, shown)
    weights = loaded_weights(config, "vae")
    write_run_record(config.output_path, verb="evaluate", config=config, weights=weights, extra=mean, started=started)
    return Evaluation(mean=mean, clips=values, report=report, sheet=sheet)


def evaluation_entries(config: EvaluateConfig) -> list[ClipEntry]:
    rgb, alpha = config.test_rgb_video, config.test_alpha_video
    if (rgb is None) != (alpha is None):
        raise UsageError("evaluate", got="one of --test_rgb_video and --test_alpha_video", expected="both, or neither")
    if rgb is not None and alpha is not None:
        entries = [ClipEntry(name=rgb.stem.removesuffix("_rgb"), prompt="", rgb=rgb, alpha=alpha)]
    else:
        entries = read_manifest(config.dataset_base_path, config.dataset_metadata_path)
    return usable_entries(entries[: config.max_clips], on_bad_sample=config.on_bad_sample)[0]


@torch.no_grad()
def reconstruct(
    rgba_vae: RGBAlphaVAE, sample: Sample, *, device: torch.device, hard_threshold: float
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(truth, prediction), each rgb (3, T, H, W) and alpha (1, T, H, W) in [0, 1] on the CPU, original frames only."""
    rgb, alpha = sample.rgb[None].to(device), sample.alpha[None].to(device)
    black = torch.zeros(1, 3, device=device)
    latents = encode_clip(rgba_vae, rgb, alpha, colour=black, hard_threshold=hard_threshold)
    decoded = rgba_vae.decode(rgba_vae.denormalise(latents))
    kept = sample.original_frames
    prediction = tuple(from_signed(x).clamp(0, 1)[0, :, :kept].cpu() for x in decoded)
    return (sample.rgb[:, :kept], sample.alpha[:, :kept]), (prediction[0], prediction[1])


def grade(mean: dict[str, float]) -> str:
    """The seed's words for its bounds."""
    return next((word for word, rgb, alpha in GRADES if mean["rgb_mae"] < rgb and mean["alpha_mae"] < alpha), "below the seed's 'good'")


def _write_videos(config: EvaluateConfig, sample: Sample, truth: tuple[Tensor, Tensor], prediction: tuple[Tensor, Tensor]) -> None:
    config.output_path.mkdir(parents=True, exist_ok=True)
    for word, (rgb, alpha) in (("truth", truth), ("prediction", prediction)):
        clip = RgbaClip(rgb=to_uint8(rgb).permute(1, 2, 3, 0).numpy(), alpha=to_uint8(alpha)[0].numpy(), fps=sample.fps)
        write_pair(clip, config.output_path / f"{config.output_prefix}_{sample.name}_{word}")


def _write_report(config: EvaluateConfig, mean: dict[str, float], clips: dict[str, dict[str, float]]) -> Path:
    path = config.output_path / f"{config.output_prefix}.json"
    with beside(path) as partial:
        partial.write_text(json.dumps({"mean": mean, "grade": grade(mean), "clips": clips}, indent=2) + "\n", encoding="utf-8")
    return path


def _write_sheet(config: EvaluateConfig, shown: list[tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]]) -> Path:
    path = config.output_path / f"{config.output_prefix}_sheet.png"
    sheet = comparison_sheet([truth for truth, _ in shown], [prediction for _, prediction in shown])
    write_png(to_uint8(sheet).permute(1, 2, 0).numpy(), path)
    return path
