"""What Stage 2 learns from: a clip's latents with its caption or none, a noise level and noise, by position; fixed ones for validation."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from wan_alpha.config import TrainDitConfig
from wan_alpha.data.draws import BatchOrder, generator_at
from wan_alpha.device import on_device
from wan_alpha.geometry import ClipSize
from wan_alpha.objectives.flow import sample_sigmas
from wan_alpha.train.latent_source import Encoder, LatentSource

VALIDATION_SEED = 0
"""Of validation's windows, colours and noise: the same in every run, so that runs compare."""


@dataclass(frozen=True, kw_only=True)
class FlowBatch:
    """One batch on its device: normalised latents, the subject's ellipse, text, standard normal noise and noise levels."""

    x0: Float[Tensor, "B c t h w"]
    gaussian: Float[Tensor, "B 1 t h w"]
    context: Float[Tensor, "B L D"]
    noise: Float[Tensor, "B c t h w"]
    sigma: Float[Tensor, " B"]


@dataclass(frozen=True, kw_only=True, eq=False)
class FlowSample:
    """What a worker makes of a position; `clip` are the source's parts, which an Encoder turns into latents and ellipse."""

    clip: tuple[Tensor, ...]
    context: Float[Tensor, "L D"]
    noise: Float[Tensor, "c t h w"]
    sigma: Float[Tensor, ""]


def sample_at(source: LatentSource, position: int, *, order: BatchOrder, config: TrainDitConfig) -> FlowSample:
    """Clip, draw, empty prompt or not, level and noise at a position, all from the seed."""
    generator = generator_at(config.seed, position)
    clip = source.clip(order.index_at(position), draw=position, generator=generator)
    dropped = float(torch.rand((), generator=generator)) < config.caption_dropout
    sigma = sample_sigmas(1, density=config.sigma_density, shift=config.sigma_shift, generator=generator)[0]
    noise = torch.randn(clip.latent_shape, generator=generator)
    return FlowSample(clip=clip.parts, context=source.context("" if dropped else clip.prompt), noise=noise, sigma=sigma)


def validation_sample(source: LatentSource, i: int, *, sigma: float) -> FlowSample:
    """Clip i with its caption at this level; window, colour and noise depend on i alone, so that levels and runs compare."""
    generator = generator_at(VALIDATION_SEED, i)
    clip = source.clip(i, draw=i, generator=generator)
    noise = torch.randn(clip.latent_shape, generator=generator)
    return FlowSample(clip=clip.parts, context=source.context(clip.prompt), noise=noise, sigma=torch.tensor(sigma))


def to_batch(samples: list[FlowSample], *, encode: Encoder, device: torch.device) -> FlowBatch:
    """Samples of one size stacked, on the device."""
    x0, gaussian = encode([sample.clip for sample in samples])
    stacked = {name: torch.stack([getattr(sample, name) for sample in samples]) for name in ("context", "noise", "sigma")}
    return FlowBatch(x0=x0, gaussian=gaussian, **{name: on_device(tensor, device=device) for name, tensor in stacked.items()})


def empty_batch(config: TrainDitConfig, *, channels: int, text_dim: int) -> FlowBatch:
    """A batch of the configured size without contents, for the forecast of memory."""
    size, batch = ClipSize(num_frames=config.num_frames, height=config.height, width=config.width), config.batch_size
    latents, gaussian = (torch.empty(batch, c, *size.latent_shape) for c in (channels, 1))
    context = torch.empty(batch, config.max_sequence_length, text_dim)
    return FlowBatch(x0=latents, gaussian=gaussian, context=context, noise=torch.empty_like(latents), sigma=torch.empty(batch))
