"""Validation of both stages: the training's own loss on fixed samples, without gradients, and pictures of what the model makes."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from wan_alpha.config import TrainVaeConfig
from wan_alpha.data.clips import ClipDataset
from wan_alpha.models.rgba_vae import RGBAlphaVAE
from wan_alpha.rgba import from_signed
from wan_alpha.train.flow_data import FlowBatch
from wan_alpha.train.flow_data import to_batch as to_flow_batch
from wan_alpha.train.flow_data import validation_sample as flow_validation_sample
from wan_alpha.train.latent_source import Encoder, LatentSource
from wan_alpha.train.previews import Clip, preview_path, write_comparison
from wan_alpha.train.rgba_data import RgbaBatch, to_batch, validation_sample

PREVIEW_CLIPS = 4
SIGMAS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

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
    decoded = model.decode(model.encode(*batch.encoder_input(hard_threshold=hard_threshold)))
    rgb, alpha = (from_signed(x.float()).clamp(0, 1)[0].cpu() for x in decoded)
    return (batch.rgb[0].cpu(), batch.alpha[0].cpu()), (rgb, alpha)


def validate_dit(
    source: LatentSource, *, loss: Callable[[FlowBatch], dict[str, Tensor]], encode: Encoder, device: torch.device
) -> dict[str, float]:
    """Stage 2's loss at fixed noise levels with fixed noise: `sigma_0.1` ... `sigma_0.9`, each the mean over the clips, and `total`,
    the mean over the levels."""

    def terms() -> Iterator[dict[str, Tensor]]:
        for i in range(len(source.prompts)):
            batch = to_flow_batch([flow_validation_sample(source, i, sigma=SIGMAS[0])], encode=encode, device=device)
            levels = {f"sigma_{sigma:g}": loss(replace(batch, sigma=torch.full_like(batch.sigma, sigma)))["total"] for sigma in SIGMAS}
            yield {**levels, "total": torch.stack(list(levels.values())).mean()}

    with torch.no_grad():
        return mean_terms(terms())
