"""Prompt to transparent clip: text, noise, flow, two decoders. `sample_clips` is the arithmetic, WanAlphaPipeline what holds the models."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from diffusers import DiffusionPipeline, WanTransformer3DModel
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase, UMT5EncoderModel

from wan_alpha.errors import UsageError
from wan_alpha.geometry import ClipSize
from wan_alpha.models.denoiser import predict_velocity
from wan_alpha.models.rgba_vae import RGBAlphaVAE
from wan_alpha.models.text import encode_prompts
from wan_alpha.objectives.flow import shift_noise
from wan_alpha.objectives.transparency import gaussian_from_ellipse
from wan_alpha.rgba import from_signed
from wan_alpha.sampling import Sampler, guided, reference_model_sigmas, sample, sampling_sigmas

OnStep = Callable[[int, Tensor], None]
Velocity = Callable[[Tensor, Tensor], Tensor]
DEFAULT_TEXT_TOKENS = 512
"""Wan's own."""


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """How noise becomes latents; the fields of GenerateConfig with the same names.

    What is None is what the adapter was trained with, where a WanAlphaPipeline knows it; else no shift and 512 tokens.
    """

    num_inference_steps: int = 4
    guidance_scale: float = 1.0
    sampler: Sampler = "unipc"
    sigmas: Literal["shifted", "reference"] = "shifted"
    sigma_shift: float = 5.0
    noise_shift: float | None = None
    max_sequence_length: int | None = None


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What is to be painted, and on which device. Each clip has its own seed, so it does not depend on what shares its batch."""

    size: ClipSize
    seeds: list[int]
    context: Float[Tensor, "B L D"]
    """Text embeddings, one per seed (models/text.py, or a cache's `context`)."""
    negative_context: Float[Tensor, "B L D"] | None = None
    """Embeddings of what guidance moves away from; needed above guidance 1."""
    gaussian: Float[Tensor, "t h w"] | None = None
    """Where the subject should be, 1 there and 0 far away; needed when the noise is shifted."""
    device: torch.device | str = "cpu"


@dataclass(frozen=True, kw_only=True)
class RgbaClips:
    """Straight colour and alpha in [0, 1], clamped, float32 on the CPU."""

    rgb: Float[Tensor, "B 3 T H W"]
    alpha: Float[Tensor, "B 1 T H W"]


@torch.no_grad()
def sample_clips(
    transformer: WanTransformer3DModel,
    *,
    rgba_vae: RGBAlphaVAE,
    conditions: Conditions,
    settings: SamplingSettings,
    on_step: OnStep | None = None,
) -> RgbaClips:
    """One clip per seed, from models in memory and embeddings: what the pipeline runs, and what a training calls for its previews.

    The transformer may carry an injected adapter that is being trained: it is used as it is, without gradients, and nothing about
    it changes. Equal seeds, embeddings and weights give equal clips. on_step(i, latents) follows each sampling step.
    """
    sigmas = sampling_sigmas(settings.num_inference_steps, shift=settings.sigma_shift, rule=settings.sigmas)
    noise = _noise(conditions, channels=transformer.config.in_channels, noise_shift=settings.noise_shift or 0.0)
    latents = sample(
        _velocity(transformer, conditions, scale=settings.guidance_scale),
        noise.to(conditions.device),
        sigmas=sigmas,
        sampler=settings.sampler,
        model_sigmas=reference_model_sigmas(sigmas) if settings.sigmas == "reference" else None,
        on_step=on_step,
    )
    rgb, alpha = rgba_vae.decode(rgba_vae.denormalise(latents))
    return RgbaClips(rgb=from_signed(rgb).clamp(0, 1).cpu(), alpha=from_signed(alpha).clamp(0, 1).cpu())


def _noise(conditions: Conditions, *, channels: int, noise_shift: float) -> Float[Tensor, "B c t h w"]:
    """Standard normal, a generator per seed; with a shift, its mean is mu outside the ellipse."""
    shape = (channels, *conditions.size.latent_shape)
    noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in conditions.seeds])
    if not noise_shift:
        return noise
    if conditions.gaussian is None:
        raise UsageError("noise_shift", got=noise_shift, expected="an ellipse beside it", do="give --ellipse_centre and --ellipse_axes")
    return shift_noise(noise, conditions.gaussian.to(noise), mu=noise_shift)


def _velocity(transformer: WanTransformer3DModel, conditions: Conditions, *, scale: float) -> Velocity:
    """Guided by the text; at scale 1 there is no negative pass."""

    def towards(context: Tensor) -> Velocity:
        there = context.to(conditions.device)
        return lambda x, sigma: predict_velocity(transformer, x, sigma=sigma, context=there)

    if scale == 1:
        return towards(conditions.context)
    if conditions.negative_context is None:
        raise UsageError("guidance", got=scale, expected="embeddings of a negative prompt", do="give them, or guidance 1")
    return guided(towards(conditions.context), towards(conditions.negative_context), scale=scale)


class WanAlphaPipeline(DiffusionPipeline):
    """A transformer (adapter merged or injected), a text encoder and an RGBA VAE, as a diffusers pipeline.

    `save_pretrained(folder)` writes all of them, and what the adapter was trained with, into one folder;
    `WanAlphaPipeline.from_pretrained(folder)` gives the same clips. From files in their published layouts: `assemble.load_pipeline`.
    `to(device)` and `enable_model_cpu_offload()` are diffusers' own.
    """

    model_cpu_offload_seq = "text_encoder->transformer->rgba_vae"

    def __init__(
        self,
        *,
        transformer: WanTransformer3DModel,
        text_encoder: UMT5EncoderModel,
        tokenizer: PreTrainedTokenizerBase,
        rgba_vae: RGBAlphaVAE,
        noise_shift: float | None = None,
        max_sequence_length: int | None = None,
        acceleration_lora: str | None = None,
    ) -> None:
        """noise_shift, max_sequence_length: what the adapter was trained with, as far as its file says; acceleration_lora: the name of
        the one that is merged. Saved in model_index.json."""
        super().__init__()
        self.register_modules(transformer=transformer, text_encoder=text_encoder, tokenizer=tokenizer, rgba_vae=rgba_vae)
        self.register_to_config(noise_shift=noise_shift, max_sequence_length=max_sequence_length, acceleration_lora=acceleration_lora)

    def complete(self, settings: SamplingSettings) -> SamplingSettings:
        """With what they leave open as the adapter was trained. Raises UsageError for another text length than that."""
        trained = self.config.max_sequence_length
        shift = self.config.noise_shift or 0.0 if settings.noise_shift is None else settings.noise_shift
        length = settings.max_sequence_length or trained or DEFAULT_TEXT_TOKENS
        if trained is not None and length != trained:
            raise UsageError("--max_sequence_length", got=length, expected=f"{trained}, as the adapter was trained", do="leave it out")
        return replace(settings, noise_shift=shift, max_sequence_length=length)

    @torch.no_grad()
    def __call__(
        self,
        prompts: list[str],
        *,
        seeds: list[int],
        size: ClipSize,
        settings: SamplingSettings | None = None,
        negative_prompt: str = "",
        gaussian: Float[Tensor, "t h w"] | None = None,
        on_step: OnStep | None = None,
    ) -> RgbaClips:
        """One clip per prompt, each from its own seed, so that a clip does not depend on which others share its batch.

        settings: what they leave open is as the adapter was trained (`complete`). gaussian: where the subject should be, 1 there and
        0 far away; default, where the noise is shifted: an ellipse in the middle, half as wide and high as the frame.
        """
        settings = self.complete(settings or SamplingSettings())
        if len(seeds) != len(prompts):
            raise UsageError("seeds", got=len(seeds), expected=f"one per prompt, {len(prompts)}")
        if gaussian is None and settings.noise_shift:
            gaussian = gaussian_from_ellipse(shape=size.latent_shape)
        length = settings.max_sequence_length or DEFAULT_TEXT_TOKENS
        conditions = Conditions(
            size=size,
            seeds=seeds,
            context=self.embed(prompts, max_sequence_length=length),
            negative_context=None
            if settings.guidance_scale == 1
            else self.embed([negative_prompt], max_sequence_length=length).repeat(len(prompts), 1, 1),
            gaussian=gaussian,
            device=self._execution_device,
        )
        clips = sample_clips(self.transformer, rgba_vae=self.rgba_vae, conditions=conditions, settings=settings, on_step=on_step)
        self.maybe_free_model_hooks()
        return clips

    def embed(self, prompts: list[str], *, max_sequence_length: int) -> Float[Tensor, "B L D"]:
        """Text embeddings as the transformer takes them."""
        return encode_prompts(prompts, encoder=self.text_encoder, tokenizer=self.tokenizer, max_sequence_length=max_sequence_length)
