"""The judge of Stage 1 (paper v3): a frozen diffusion transformer says how natural latents are, cell by cell.

    x_sigma = (1 - sigma) z + sigma n,   err = v^(x_sigma, sigma, "") - (n - z),   L = mean M clamp(w(sigma) err^2, 0, 1)

Opaque cells (M = 1) should be easy for it, transparent ones (M = -1) hard, so that latents of both kinds lie apart; see
`objectives.flow.bidirectional_loss`. Gradients reach z through x_sigma and through the target.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from diffusers import WanTransformer3DModel
from jaxtyping import Float
from torch import Tensor

from wan_alpha.config import BaseModelConfig, TrainVaeConfig
from wan_alpha.device import frozen_dtype
from wan_alpha.errors import UsageError
from wan_alpha.models.denoiser import predict_velocity
from wan_alpha.models.load import load_text_encoder, load_transformer, resolve_base
from wan_alpha.models.rgba_vae import RGBAlphaVAE
from wan_alpha.models.text import encode_prompts
from wan_alpha.objectives.flow import REFERENCE_SHIFT, bell_weight, bidirectional_loss, noise_at, sample_sigmas, velocity
from wan_alpha.objectives.transparency import three_valued_mask

Mode = Literal["ours", "reference"]


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A frozen transformer with its embedding of the empty prompt, the form of the loss, and its weight in the total."""

    transformer: WanTransformer3DModel
    context: Float[Tensor, "1 L D"]
    mode: Mode
    weight: float


def judge_sigma(mode: Mode, *, generator: torch.Generator) -> Float[Tensor, " 1"]:
    """A noise level: ours is continuous, reference from the published table as it is used, both shifted by 5."""
    return sample_sigmas(1, density="reference" if mode == "reference" else "uniform", shift=REFERENCE_SHIFT, generator=generator)


def bidirectional_term(
    judge: Judge,
    model: RGBAlphaVAE,
    latents: Float[Tensor, "B z t h w"],
    *,
    alpha: Float[Tensor, "B 1 T H W"],
    noise: Float[Tensor, "B z t h w"],
    sigma: Float[Tensor, " B"],
) -> Float[Tensor, ""]:
    """The bidirectional loss of un-normalised latents of clips with this true alpha in [0, 1], one noise level per sample.

    ours: the judge sees latents on its own scale, (z - mean) / std. reference: raw latents, exact mask, first-frame rule.
    """
    x0 = latents.float() if judge.mode == "reference" else model.normalise(latents.float())
    context = judge.context.expand(len(x0), -1, -1)
    prediction = predict_velocity(judge.transformer, noise_at(x0, noise, sigma), sigma=sigma, context=context)
    mask = three_valued_mask(alpha, rule=judge.mode)[:, None].to(x0)
    weight = bell_weight(sigma, shift=REFERENCE_SHIFT)
    return bidirectional_loss(prediction, velocity(x0, noise), mask, weight, mode=judge.mode)


def judge_base(config: TrainVaeConfig) -> BaseModelConfig:
    """The base model whose transformer judges: --judge_model, else the one that is trained on."""
    return config if config.judge_model is None else BaseModelConfig(model=config.judge_model, models_folder=config.models_folder)


def load_judge(config: TrainVaeConfig, *, z_dim: int, device: torch.device) -> Judge | None:
    """None without --bidirectional. Its text encoder is dropped once the empty prompt is embedded. UsageError for another latent space.

    Activations are recomputed in the backward pass: a judge of 1.3B would hold more of them than the VAE.
    """
    if config.bidirectional == "none":
        return None
    source, dtype = resolve_base(judge_base(config)), frozen_dtype(config.precision, device=device)
    transformer = load_transformer(source, dtype=dtype, device=device)
    if transformer.config.in_channels != z_dim:
        got, expected = f"{transformer.config.in_channels} latent channels", f"{z_dim}, as the VAE has"
        raise UsageError("--judge_model", got=got, expected=expected, do="name a base model with this VAE")
    transformer.enable_gradient_checkpointing()
    encoder, tokenizer = load_text_encoder(source, dtype=dtype, device=device)
    context = encode_prompts([""], encoder=encoder, tokenizer=tokenizer, max_sequence_length=config.max_sequence_length)
    return Judge(transformer=transformer, context=context.to(dtype), mode=config.bidirectional, weight=config.bidirectional_weight)


def judge_weights(config: TrainVaeConfig) -> dict[str, Path]:
    """Role -> file of what the judge loads, for run.json."""
    if config.bidirectional == "none":
        return {}
    base = judge_base(config)
    files = {f"{part} {file.name}": file for part in ("transformer", "text_encoder") for file in resolve_base(base).part(part).files()}
    return {f"judge {role}": path for role, path in files.items()}
