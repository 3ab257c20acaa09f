"""Validation of both stages: the training's own loss on fixed samples, without gradients, and pictures of what the model makes."""

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from wan_alpha.config import TrainVaeConfig
from wan_alpha.data.clips import ClipDataset
from wan_alpha.models.rgba_vae import RGBAlphaVAE
from wan_alpha.rgba import from_signed, hard_render, to_signed
from wan_alpha.train.previews import Clip, write_comparison
from wan_alpha.train.rgba_data import RgbaBatch, to_batch, validation_sample

PREVIEW_CLIPS = 4

Validate = Callable[[int], dict[str, float]]


@torch.no_grad()
def mean_terms(terms: Iterable[dict[str, Tensor]]) -> dict[str, float]:
    """Mean of every named scalar over the samples."""
    columns: dict[str, list[Tensor]] = {}
    for sample in terms:
        for name, value in sample.items():
            columns.setdefault(name, []).append(value.detach())
    return {name: float(torch.stack(values).mean()) for name, values in columns.items()}


def validate_vae(
    config: TrainVaeConfig,
    model: RGBAlphaVAE,
    clips: ClipDataset | None,
    *,
    loss: Callable[[RgbaBatch], dict[str, Tensor]],
    device: torch.device,
) -> Validate | None:
    """Stage 1's validation at a step: every term of `loss`, mean over the clips, one clip at a time; None without clips.

    The first clips are shown in OUTPUT/previews/step_N.png and, moving, step_N.webp.
    """
    if clips is None:
        return None

    @torch.no_grad()
    def validate(step: int) -> dict[str, float]:
        samples = (to_batch([validation_sample(clips, i, config=config, z_dim=model.z_dim)], device=device) for i in range(len(clips)))
        values = mean_terms(loss(sample) for sample in samples)
        shown = [i for i in range(len(clips)) if clips.sizes[i] == clips.sizes[0]][:PREVIEW_CLIPS]
        batches = [to_batch([validation_sample(clips, i, config=config, z_dim=model.z_dim)], device=device) for i in shown]
        pairs = [reconstruct(model, batch, hard_threshold=config.hard_threshold) for batch in batches]
        write_comparison(preview_path(config.output_path, step), [truth for truth, _ in pairs], [found for _, found in pairs])
        return values

    return validate


@torch.no_grad()
def reconstruct(model: RGBAlphaVAE, batch: RgbaBatch, *, hard_threshold: float) -> tuple[Clip, Clip]:
    """(truth, prediction) of a batch of one, each (rgb (3, T, H, W), alpha (1, T, H, W)) in [0, 1] on the CPU."""
    rendered = hard_render(batch.rgb, batch.alpha, batch.input_colour, threshold=hard_threshold)
    decoded = model.decode(model.encode(to_signed(rendered), to_signed(batch.alpha)))
    rgb, alpha = (from_signed(x.float()).clamp(0, 1)[0].cpu() for x in decoded)
    return (batch.rgb[0].cpu(), batch.alpha[0].cpu()), (rgb, alpha)


def preview_path(output_path: Path, step: int) -> Path:
    """Without suffix."""
    return output_path / "previews" / f"step_{step:06d}"
