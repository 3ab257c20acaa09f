"""Prompt to transparent clip: text, noise, flow, two decoders."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from diffusers import WanTransformer3DModel
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase, UMT5EncoderModel

from wan_alpha.errors import UsageError
from wan_alpha.geometry import ClipSize
from wan_alpha.models.denoiser import predict_velocity
from wan_alpha.models.rgba_vae import RGBAlphaVAE
from wan_alpha.models.text import encode_prompts
from wan_alpha.objectives.flow import shift_noise
from wan_alpha.rgba import from_signed
from wan_alpha.sampling import Sampler, guided, reference_model_sigmas, sample, sampling_sigmas


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """How noise becomes latents; the fields of GenerateConfig with the same names."""

    num_inference_steps: int = 4
    guidance_scale: float = 1.0
    sampler: Sampler = "unipc"
    sigmas: Literal["shifted", "reference"] = "shifted"
    sigma_shift: float = 5.0
    noise_shift: float = 0.0
    max_sequence_length: int = 512


@dataclass(frozen=True, kw_only=True)
class RgbaClips:
    """Straight colour and alpha in [0, 1], clamped, float32 on the CPU."""

    rgb: Float[Tensor, "B 3 T H W"]
    alpha: Float[Tensor, "B 1 T H W"]


class WanAlphaPipeline:
    """A transformer (adapter merged or injected), a text encoder and an RGBA VAE, all on one device."""

    def __init__(
        self,
        *,
        transformer: WanTransformer3DModel,
        text_encoder: UMT5EncoderModel,
        tokenizer: PreTrainedTokenizerBase,
        rgba_vae: RGBAlphaVAE,
    ) -> None:
        self.transformer, self.text_encoder, self.tokenizer, self.rgba_vae = transformer, text_encoder, tokenizer, rgba_vae

    @torch.no_grad()
    def __call__(
        self,
        prompts: list[str],
        *,
        seeds: list[int],
        size: ClipSize,
        settings: SamplingSettings,
        negative_prompt: str = "",
        gaussian: Float[Tensor, "t h w"] | None = None,
        on_step: Callable[[int, Tensor], None] | None = None,
    ) -> RgbaClips:
        """One clip per prompt. Each has its own seed, so a clip does not depend on which others share its batch.

        gaussian: where the subject should be, 1 there and 0 far away; needed when settings.noise_shift is not 0.
        """
        if len(seeds) != len(prompts):
            raise UsageError("seeds", got=len(seeds), expected=f"one per prompt, {len(prompts)}")
        latents = sample(
            self._velocity(prompts, negative_prompt, settings),
            self._noise(seeds, size, settings, gaussian),
            sigmas=(sigmas := sampling_sigmas(settings.num_inference_steps, shift=settings.sigma_shift, rule=settings.sigmas)),
            sampler=settings.sampler,
            model_sigmas=reference_model_sigmas(sigmas) if settings.sigmas == "reference" else None,
            on_step=on_step,
        )
        rgb, alpha = self.rgba_vae.decode(self.rgba_vae.denormalise(latents))
        return RgbaClips(rgb=from_signed(rgb).clamp(0, 1).cpu(), alpha=from_signed(alpha).clamp(0, 1).cpu())

    @property
    def device(self) -> torch.device:
        return self.transformer.patch_embedding.weight.device

    def _noise(self, seeds: list[int], size: ClipSize, settings: SamplingSettings, gaussian: Tensor | None) -> Tensor:
        shape = (self.transformer.config.in_channels, *size.latent_shape)
        noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        if settings.noise_shift:
            if gaussian is None:
                raise UsageError(
                    "noise_shift", got=settings.noise_shift, expected="an ellipse beside it", do="give --ellipse_centre and --ellipse_axes"
                )
            noise = shift_noise(noise, gaussian, mu=settings.noise_shift)
        return noise.to(self.device)

    def _velocity(self, prompts: list[str], negative_prompt: str, settings: SamplingSettings) -> Callable[[Tensor, Tensor], Tensor]:
        def towards(texts: list[str]) -> Callable[[Tensor, Tensor], Tensor]:
            context = encode_prompts(
                texts, encoder=self.text_encoder, tokenizer=self.tokenizer, max_sequence_length=settings.max_sequence_length
            ).to(self.device)
            return lambda x, sigma: predict_velocity(self.transformer, x, sigma=sigma, context=context)

        positive = towards(prompts)
        if settings.guidance_scale == 1:
            return positive
        return guided(positive, towards([negative_prompt] * len(prompts)), scale=settings.guidance_scale)
