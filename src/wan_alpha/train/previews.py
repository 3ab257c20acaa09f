"""Pictures of a training under way: OUTPUT/previews/step_N.png, a few frames side by side, and step_N.webp, the same moving."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import WanTransformer3DModel
from jaxtyping import Float
from torch import Tensor

from wan_alpha.config import TrainDitConfig
from wan_alpha.geometry import ClipSize
from wan_alpha.media.atomic import beside
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.write import write_webp
from wan_alpha.metrics.transparency import transparency_statistics
from wan_alpha.models.rgba_vae import RGBAlphaVAE
from wan_alpha.objectives.transparency import gaussian_from_ellipse
from wan_alpha.pipeline import Conditions, SamplingSettings, sample_clips
from wan_alpha.preview import Panel, contact_sheet, write_sheet
from wan_alpha.rgba import to_uint8

Clip = tuple[Tensor, Tensor]
"""(rgb (3, T, H, W), alpha (1, T, H, W)), straight, in [0, 1]."""
RECONSTRUCTION_PANELS: tuple[Panel, ...] = ("checkerboard", "black", "white", "magenta", "alpha")
FPS = 16.0


@dataclass(frozen=True, kw_only=True)
class Prompted:
    """A caption to preview: its seed, its embedding, and that of the empty prompt for guidance."""

    prompt: str
    seed: int
    context: Float[Tensor, "L D"]
    without: Float[Tensor, "L D"]


def preview_path(output_path: Path, step: int) -> Path:
    """OUTPUT/previews/step_N, without suffix."""
    return output_path / "previews" / f"step_{step:06d}"


def write_comparison(stem: Path, truths: list[Clip], predictions: list[Clip]) -> None:
    """Two rows per clip, truth above reconstruction, on every panel of RECONSTRUCTION_PANELS. Clips of one height and width."""
    pairs = list(zip(truths, predictions, strict=True))
    _write(stem, [clip for pair in pairs for clip in pair], panels=RECONSTRUCTION_PANELS)


def write_samples(stem: Path, clips: list[Clip], captions: list[Prompted]) -> dict[str, float]:
    """One row per clip on checkerboard, black, white, and its alpha; STEM.json says each row's prompt, seed and transparency
    statistics, whose means are returned as preview_border_leak, preview_coverage, preview_peak, preview_flicker."""
    _write(stem, clips, panels=("checkerboard", "black", "white", "alpha"))
    measured = [transparency_statistics(alpha[None]) for _, alpha in clips]
    rows = [{"prompt": c.prompt, "seed": c.seed, **values} for c, values in zip(captions, measured, strict=True)]
    with beside(stem.with_suffix(".json")) as partial:
        partial.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return {f"preview_{name}": sum(values[name] for values in measured) / len(measured) for name in measured[0]}


def sample_clip(
    transformer: WanTransformer3DModel, rgba_vae: RGBAlphaVAE, caption: Prompted, *, config: TrainDitConfig, device: torch.device
) -> Clip:
    """One clip of the configured size from the model as it is, with an ellipse in the middle of the frame."""
    size = ClipSize(num_frames=config.num_frames, height=config.height, width=config.width)
    conditions = Conditions(
        size=size,
        seeds=[caption.seed],
        context=caption.context[None],
        negative_context=caption.without[None],
        gaussian=gaussian_from_ellipse(centre=(0.5, 0.5), axes=(0.5, 0.5), angle=0.0, shape=size.latent_shape),
        device=device,
    )
    settings = SamplingSettings(
        num_inference_steps=config.num_inference_steps,
        guidance_scale=config.guidance_scale,
        sigma_shift=config.sigma_shift,
        noise_shift=config.noise_shift,
    )
    clips = sample_clips(transformer, rgba_vae=rgba_vae, conditions=conditions, settings=settings)
    return clips.rgb[0], clips.alpha[0]


def _write(stem: Path, clips: list[Clip], *, panels: tuple[Panel, ...]) -> None:
    write_sheet(clips, stem.with_suffix(".png"), panels=panels)
    longest = max(rgb.shape[1] for rgb, _ in clips)
    moving = torch.stack([contact_sheet([_frame(clip, t) for clip in clips], frames=1, panels=panels) for t in range(longest)], dim=1)
    write_webp(_opaque(moving), stem.with_suffix(".webp"))


def _frame(clip: Clip, t: int) -> Clip:
    """Frame t alone; a clip that has ended shows its last."""
    t = min(t, clip[0].shape[1] - 1)
    return clip[0][:, t : t + 1], clip[1][:, t : t + 1]


def _opaque(moving: Float[Tensor, "3 T H W"]) -> RgbaClip:
    rgb = to_uint8(moving).permute(1, 2, 3, 0).numpy()
    return RgbaClip(rgb=rgb, alpha=np.full(rgb.shape[:3], 255, np.uint8), fps=FPS)
