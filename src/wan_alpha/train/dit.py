"""Stage 2: an adapter on the frozen diffusion transformer learns to paint transparent clips, by rectified flow.

Start reading at `loss`. x_sigma = (1 - sigma) x0 + sigma n', v = n' - x0, L = w(sigma) |v^ - v|^2 (paper, Eq. 14-16), where the
noise n' = n + mu (1 - G) has mean mu outside the subject's Gaussian ellipse G (v3; mu = 0 is v1).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from diffusers import WanTransformer3DModel
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu

from wan_alpha.checkpoints.adapter import write_adapter
from wan_alpha.config import TrainDitConfig
from wan_alpha.data.draws import BatchOrder
from wan_alpha.data.shares import this_share
from wan_alpha.device import choose_device, frozen_dtype
from wan_alpha.encoding import loaded_weights
from wan_alpha.errors import UsageError
from wan_alpha.malloc import give_back_freed_tensors
from wan_alpha.memory import out_of_memory_named
from wan_alpha.models.denoiser import predict_velocity
from wan_alpha.models.dora import adapter_state, inject_adapter
from wan_alpha.models.load import load_transformer, resolve_base
from wan_alpha.models.quantise import quantise, where_to_load
from wan_alpha.objectives.flow import bell_weight, flow_loss, noise_at, shift_noise, velocity
from wan_alpha.run_record import now, write_run_record
from wan_alpha.train.clip_data import position_stream
from wan_alpha.train.flow_data import FlowBatch, empty_batch, sample_at, to_batch
from wan_alpha.train.forecast import Forecast, forecast, log_forecast
from wan_alpha.train.imagined import shortened
from wan_alpha.train.latent_data import LatentData, latent_data
from wan_alpha.train.latent_source import LatentSource
from wan_alpha.train.loop import Stage, fit
from wan_alpha.train.previews import preview_path, sample_clip, write_samples
from wan_alpha.train.validation import validate_dit


def loss(
    transformer: WanTransformer3DModel, batch: FlowBatch, *, noise_shift: float, weighting: Literal["none", "bsmntw"], sigma_shift: float
) -> dict[str, Float[Tensor, ""]]:
    """Mean over samples of w(sigma) |v^(x_sigma, sigma, text) - (n' - x0)|^2."""
    noise = shift_noise(batch.noise, batch.gaussian, mu=noise_shift)
    x_sigma = noise_at(batch.x0, noise, batch.sigma)
    prediction = predict_velocity(transformer, x_sigma, sigma=batch.sigma, context=batch.context)
    weight = bell_weight(batch.sigma, shift=sigma_shift) if weighting == "bsmntw" else torch.ones_like(batch.sigma)
    return {"total": flow_loss(prediction, velocity(batch.x0, noise), weight).mean()}


def train(config: TrainDitConfig) -> list[Path]:
    """Train and write OUTPUT/epoch-N.safetensors (N from 0), in the published key layout; returns the last files written.

    Raises UsageError with the next setting to change when memory runs out.
    """
    with out_of_memory_named(config):
        return _train(config)


def _train(config: TrainDitConfig) -> list[Path]:
    started, device = now(), choose_device(config.device)
    if config.memory_forecast == "log":
        give_back_freed_tensors(device.type)
    with out_of_memory_named(config, during="loading"):
        transformer = build_transformer(config, device=device)
        data = latent_data(config, transformer, device=device)
    order = BatchOrder(data.training.sizes, batch_size=config.batch_size, seed=config.seed)
    stream = position_stream(partial(sample_at, data.training, order=order, config=config), config=config)

    def batch_loss(batch: FlowBatch) -> dict[str, Tensor]:
        with activations_on_cpu(config, device=device):
            return loss(transformer, batch, noise_shift=config.noise_shift, weighting=config.loss_weighting, sigma_shift=config.sigma_shift)

    def save(name: str) -> list[Path]:
        path = config.output_path / f"{name}.safetensors"
        tensors = {key.removeprefix(config.remove_prefix_in_ckpt or ""): tensor for key, tensor in adapter_state(transformer).items()}
        write_adapter(path, tensors, metadata=_metadata(config, data.training))
        return [path]

    stage = Stage(
        verb="train-dit",
        trainables=adapter_parameters(transformer),
        loss=lambda positions: batch_loss(to_batch(stream.take(positions), encode=data.encode, device=device)),
        save=lambda epoch: save(f"epoch-{epoch}"),
        validate=validation(config, transformer, data, loss=batch_loss, device=device),
        save_best=lambda: save("best"),
        num_clips=len(order),
        data_fingerprint=data.training.fingerprint,
        device=device,
        base=transformer,
    )
    log_forecast(config, lambda: forecast_memory(config, transformer, device=device), device=device)
    written = fit(config, stage=stage)
    weights = {**loaded_weights(config, "transformer"), **data.files}
    write_run_record(config.output_path, verb="train-dit", config=config, weights=weights, started=started)
    return written


def build_transformer(config: TrainDitConfig, *, device: torch.device) -> WanTransformer3DModel:
    """The frozen base with a new adapter, the only part with gradients."""
    if config.offload_activations and not config.gradient_checkpointing:
        raise UsageError(
            "--offload_activations",
            got="every activation, frozen weights among them",
            expected="only the inputs of blocks",
            do="add --gradient_checkpointing",
        )
    start, dtype = where_to_load(device, to=config.base_quantization), frozen_dtype(config.precision, device=device)
    return put_adapter(config, load_transformer(resolve_base(config), dtype=dtype, device=start), device=device)


def put_adapter(config: TrainDitConfig, transformer: WanTransformer3DModel, *, device: torch.device) -> WanTransformer3DModel:
    """Quantise the frozen base onto the device as configured and put a new adapter on it, in place."""
    quantise(transformer, to=config.base_quantization, device=device)
    inject_adapter(transformer, rank=config.dora_rank, kind=config.adapter, generator=torch.Generator().manual_seed(config.seed))
    if config.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    return transformer


def adapter_parameters(transformer: WanTransformer3DModel) -> dict[str, nn.Parameter]:
    """What is trained, by name."""
    return {name: parameter for name, parameter in transformer.named_parameters() if parameter.requires_grad}


def forecast_memory(config: TrainDitConfig, transformer: WanTransformer3DModel, *, device: torch.device) -> Forecast:
    """What a step will need on the device, at the configured size and batch; the transformer may lie on the meta device."""
    sizes = transformer.config

    def step(network: WanTransformer3DModel) -> Tensor:
        batch = empty_batch(config, channels=sizes.in_channels, text_dim=sizes.text_dim)
        terms = loss(network, batch, noise_shift=config.noise_shift, weighting=config.loss_weighting, sigma_shift=config.sigma_shift)
        return terms["total"]

    expected = forecast(
        config,
        networks=lambda depth: shortened(transformer, depth=depth),
        depth=len(transformer.blocks),
        trainables=adapter_parameters(transformer),
        loss=step,
        device=device,
    )
    return replace(expected, activations=0) if config.offload_activations and device.type != "cpu" else expected


def activations_on_cpu(config: TrainDitConfig, *, device: torch.device) -> AbstractContextManager:
    """With --offload_activations, what the backward pass needs waits in the machine's memory: the inputs of the checkpointed blocks."""
    return save_on_cpu(pin_memory=device.type == "cuda") if config.offload_activations else nullcontext()


def validation(
    config: TrainDitConfig,
    transformer: WanTransformer3DModel,
    data: LatentData,
    *,
    loss: Callable[[FlowBatch], dict[str, Tensor]],
    device: torch.device,
) -> Callable[[int], dict[str, float]] | None:
    """The loss at fixed noise levels, and previews of the first captions at fixed seeds with their transparency; None without both."""
    held_out, previewed = data.validation, data.previewed
    if config.validate_every_steps is not None and held_out is None and data.rgba_vae is None:
        do = "give --validation_cache_path, hold some clips out with --validation_clips, or ask for previews with --preview_clips"
        raise UsageError("--validate_every_steps", got="nothing to validate", expected="clips or previews", do=do)
    if held_out is None and data.rgba_vae is None:
        return None

    def validate(step: int) -> dict[str, float]:
        values = validate_dit(held_out, loss=loss, encode=data.encode_held_out, device=device) if held_out is not None else {}
        if data.rgba_vae is not None:
            clips = [sample_clip(transformer, data.rgba_vae, caption, config=config, device=device) for caption in previewed]
            if this_share().rank == 0:
                values |= write_samples(preview_path(config.output_path, step), clips, previewed)
        return values

    return validate


def _metadata(config: TrainDitConfig, source: LatentSource) -> dict[str, str]:
    """What inference must know: stored in the adapter's file."""
    return {
        "rank": str(config.dora_rank),
        "noise_shift": str(config.noise_shift),
        "max_sequence_length": str(source.max_sequence_length),
        "cache_fingerprint": source.fingerprint,
        "base_model": config.model_id_with_origin_paths or config.model,
    }
