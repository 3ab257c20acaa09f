"""Stage 2: an adapter on the frozen diffusion transformer learns to paint transparent clips, by rectified flow.

Start reading at `loss`. x_sigma = (1 - sigma) x0 + sigma n', v = n' - x0, L = w(sigma) |v^ - v|^2 (paper, Eq. 14-16), where the
noise n' = n + mu (1 - G) has mean mu outside the subject's Gaussian ellipse G (v3; mu = 0 is v1).
"""

import logging
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from diffusers import WanTransformer3DModel
from jaxtyping import Float
from torch import Tensor

from wan_alpha.caching import build_cache
from wan_alpha.checkpoints.adapter import write_adapter
from wan_alpha.config import CacheConfig, TrainDitConfig
from wan_alpha.data.draws import generator_at, index_at
from wan_alpha.data.latents import LatentCache
from wan_alpha.data.stream import PositionStream
from wan_alpha.device import choose_device, frozen_dtype
from wan_alpha.encoding import NO_MERGE_BLOCK, loaded_weights, merge_fingerprint
from wan_alpha.errors import CacheError
from wan_alpha.models.denoiser import predict_velocity
from wan_alpha.models.dora import adapter_state, inject_adapter
from wan_alpha.models.load import load_transformer, resolve_base
from wan_alpha.objectives.flow import bell_weight, flow_loss, noise_at, sample_sigmas, shift_noise, velocity
from wan_alpha.run_record import now, write_run_record
from wan_alpha.train.loop import Stage, fit

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FlowBatch:
    """One batch on its device: normalised latents, the subject's ellipse, text, standard normal noise and noise levels."""

    x0: Float[Tensor, "B c t h w"]
    gaussian: Float[Tensor, "B 1 t h w"]
    context: Float[Tensor, "B L D"]
    noise: Float[Tensor, "B c t h w"]
    sigma: Float[Tensor, " B"]


def loss(
    transformer: WanTransformer3DModel, batch: FlowBatch, *, noise_shift: float, weighting: Literal["none", "bsmntw"], sigma_shift: float
) -> dict[str, Float[Tensor, ""]]:
    """Mean over samples of w(sigma) |v^(x_sigma, sigma, text) - (n' - x0)|^2."""
    noise = shift_noise(batch.noise, batch.gaussian, mu=noise_shift)
    x_sigma = noise_at(batch.x0, noise, batch.sigma)
    prediction = predict_velocity(transformer, x_sigma, sigma=batch.sigma, context=batch.context)
    weight = bell_weight(batch.sigma, shift=sigma_shift) if weighting == "bsmntw" else torch.ones_like(batch.sigma)
    return {"total": flow_loss(prediction, velocity(batch.x0, noise), weight).mean()}


def sample_at(cache: LatentCache, position: int, *, config: TrainDitConfig) -> tuple[Tensor, ...]:
    """x0, gaussian, context, noise and sigma at a position: clip, draw, empty prompt or not, level and noise follow from the seed."""
    generator = generator_at(config.seed, position)
    clip = index_at(config.seed, position, count=len(cache))
    draw = int(torch.randint(cache.index.draws, (), generator=generator))
    dropped = float(torch.rand((), generator=generator)) < config.caption_dropout
    sigma = sample_sigmas(1, density=config.sigma_density, shift=config.sigma_shift, generator=generator)[0]
    latents, gaussian = cache.draw(clip, draw=draw)
    noise = torch.randn(latents.shape, generator=generator)
    context = cache.context("" if dropped else cache.index.prompts[clip])
    return latents, gaussian[None], context, noise, sigma


def to_batch(samples: list[tuple[Tensor, ...]], *, device: torch.device) -> FlowBatch:
    x0, gaussian, context, noise, sigma = (torch.stack(column).to(device) for column in zip(*samples, strict=True))
    return FlowBatch(x0=x0, gaussian=gaussian, context=context, noise=noise, sigma=sigma)


def train(config: TrainDitConfig) -> list[Path]:
    """Train and write OUTPUT/epoch-N.safetensors (N from 0), in the published key layout; returns the last files written."""
    started, device = now(), choose_device(config.device)
    source = resolve_base(config)
    cache = LatentCache(_cache_folder(config))
    _check_cache(cache, config)
    transformer = load_transformer(source, dtype=frozen_dtype(config.precision, device=device), device=device)
    if transformer.config.in_channels != (channels := cache.draw(0, draw=0)[0].shape[0]):
        raise CacheError(
            cache.folder, got=f"{channels} latent channels", expected=transformer.config.in_channels, do="cache with this base model"
        )
    inject_adapter(transformer, rank=config.dora_rank, kind=config.adapter, generator=torch.Generator().manual_seed(config.seed))
    trainables = {name: parameter for name, parameter in transformer.named_parameters() if parameter.requires_grad}
    if config.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()

    stream = PositionStream(partial(sample_at, cache, config=config), num_workers=config.num_workers)

    def step_loss(positions: list[int]) -> dict[str, Tensor]:
        batch = to_batch(stream.take(positions), device=device)
        return loss(transformer, batch, noise_shift=config.noise_shift, weighting=config.loss_weighting, sigma_shift=config.sigma_shift)

    def save(epoch: int) -> list[Path]:
        path = config.output_path / f"epoch-{epoch}.safetensors"
        tensors = {key.removeprefix(config.remove_prefix_in_ckpt or ""): tensor for key, tensor in adapter_state(transformer).items()}
        write_adapter(path, tensors, metadata=_metadata(config, cache))
        return [path]

    stage = Stage(
        verb="train-dit",
        trainables=trainables,
        loss=step_loss,
        save=save,
        num_clips=len(cache),
        data_fingerprint=cache.index.fingerprint,
        device=device,
    )
    written = fit(config, stage=stage)
    weights = {**loaded_weights(config, "transformer"), "cache": cache.folder / "index.json"}
    write_run_record(config.output_path, verb="train-dit", config=config, weights=weights, extra=asdict(cache.index), started=started)
    return written


def _cache_folder(config: TrainDitConfig) -> Path:
    """The cache to train on; without --cache_path it is made from the dataset under OUTPUT/cache."""
    if config.cache_path is not None:
        return config.cache_path
    folder = config.output_path / "cache"
    shared = {name: getattr(config, name) for name in CacheConfig.__dataclass_fields__ if hasattr(config, name)}
    build_cache(CacheConfig(**{**shared, "output_path": folder}), key=config.data_file_keys)
    return folder


def _check_cache(cache: LatentCache, config: TrainDitConfig) -> None:
    """Refuse a cache of another size, or of another merge block where the caller names the one to use."""
    size = f"--num_frames {cache.index.num_frames} --height {cache.index.height} --width {cache.index.width}"
    asked = f"--num_frames {config.num_frames} --height {config.height} --width {config.width}"
    if size != asked:
        raise CacheError(cache.folder, got=f"latents of {size}", expected=asked, do=f"say {size}, or cache again at the size you want")
    named = config.feature_merge_checkpoint or config.vae_lora_path
    if named is not None and merge_fingerprint(config) not in (cache.index.merge_block, NO_MERGE_BLOCK):
        raise CacheError(
            cache.folder,
            got="latents of another merge block",
            expected=named,
            do=f"rebuild: wan-alpha cache --feature_merge_checkpoint {named} --output_path {cache.folder}",
        )


def _metadata(config: TrainDitConfig, cache: LatentCache) -> dict[str, str]:
    """What inference must know: stored in the adapter's file."""
    return {
        "rank": str(config.dora_rank),
        "noise_shift": str(config.noise_shift),
        "max_sequence_length": str(cache.index.max_sequence_length),
        "cache_fingerprint": cache.index.fingerprint,
        "base_model": config.model_id_with_origin_paths or config.model,
    }
