"""Stage 1: the merge block, and with it the LoRA of both decoders, learn to put a matte into Wan's latent and to read it back.

Start reading at `loss`: z = M(E(R^h(rgb, alpha, c0)), E(alpha)), decoded to rgb^ and alpha^, compared as hard render, soft render
and alpha (paper, Eq. 3-13), and judged by a frozen diffusion transformer (v3).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from wan_alpha.checkpoints.stage1 import write_merge, write_stage1
from wan_alpha.config import TrainVaeConfig
from wan_alpha.data.latents import fingerprint
from wan_alpha.device import autocast_dtype, choose_device
from wan_alpha.encoding import loaded_weights, stage1_parts
from wan_alpha.errors import UsageError
from wan_alpha.malloc import give_back_freed_tensors
from wan_alpha.memory import out_of_memory_named
from wan_alpha.models.load import load_vae, resolve_base
from wan_alpha.models.perceptual import load_vgg16, vgg16_file
from wan_alpha.models.rgba_vae import RGBAlphaVAE, build_rgba_vae
from wan_alpha.objectives.reconstruction import ReconstructionSettings, rgba_reconstruction_loss
from wan_alpha.rgba import from_signed
from wan_alpha.run_record import now, write_run_record
from wan_alpha.train.clip_data import position_stream
from wan_alpha.train.feature_cache import Features, feature_cache
from wan_alpha.train.forecast import Forecast, forecast, log_forecast
from wan_alpha.train.imagined import shortened
from wan_alpha.train.judge import Judge, bidirectional_term, judge_weights, load_judge
from wan_alpha.train.loop import Stage, fit
from wan_alpha.train.rgba_data import RgbaBatch, empty_batch, rgba_clips, sample_at, to_batch
from wan_alpha.train.validation import validate_vae


@dataclass(frozen=True, kw_only=True)
class VaeObjective:
    """What a batch is measured by: the reconstruction terms, with VGG16 or without, and the judge or none."""

    reconstruction: ReconstructionSettings
    perceptual_features: Callable[[Tensor], Tensor] | None
    judge: Judge | None


def loss(
    model: RGBAlphaVAE, batch: RgbaBatch, *, objective: VaeObjective, features: Features | None = None
) -> dict[str, Float[Tensor, ""]]:
    """L_vae and its terms (Eq. 7-13 and v3) for one batch, compared in float32 whatever autocast makes of the networks.

    features: the encoder's of this batch, where they are known.
    """
    settings, judge = objective.reconstruction, objective.judge
    latents = model.merge(*features) if features else model.encode(*batch.encoder_input(hard_threshold=settings.hard_threshold))
    rgb, alpha = model.decode_raw(latents)
    terms = rgba_reconstruction_loss(
        (from_signed(rgb.float()), from_signed(alpha.float())),
        (batch.rgb, batch.alpha),
        hard_colour=batch.hard_colour,
        soft_colour=batch.soft_colour,
        perceptual_features=objective.perceptual_features,
        settings=settings,
    )
    if judge is None:
        return terms
    judged = bidirectional_term(judge, model, latents, alpha=batch.alpha, noise=batch.judge_noise, sigma=batch.judge_sigma)
    return {**terms, "bidirectional": judged, "total": terms["total"] + judge.weight * judged}


def train(config: TrainVaeConfig) -> list[Path]:
    """Train and write OUTPUT/feature_merge_epoch_N.safetensors and OUTPUT/stage1_epoch_N.safetensors (N from 0).

    The first is the merge block alone (the seed's file), the second everything: merge block and decoder LoRA.
    Raises UsageError with the next setting to change when memory runs out.
    """
    with out_of_memory_named(config):
        return _train(config)


def _train(config: TrainVaeConfig) -> list[Path]:
    started, device = now(), choose_device(config.device)
    if config.memory_forecast == "log":
        give_back_freed_tensors(device.type)
    clips, held_out = rgba_clips(config)
    arithmetic = autocast_dtype(config.precision, device=device)
    with out_of_memory_named(config, during="loading"):
        model = build_model(config, device=device)
        objective = build_objective(config, z_dim=model.z_dim, device=device)
    stream = position_stream(partial(sample_at, clips, config=config, z_dim=model.z_dim), config=config)

    cache = feature_cache(config, model, clips, dtype=arithmetic)

    def batch_loss(batch: RgbaBatch, positions: list[int] | None = None) -> dict[str, Tensor]:
        def encode() -> Features:
            return model.features(*batch.encoder_input(hard_threshold=config.hard_threshold))

        with torch.autocast(device.type, arithmetic, enabled=arithmetic != torch.float32):
            features = cache.features(positions, encode=encode, device=device) if cache and positions else None
            return loss(model, batch, objective=objective, features=features)

    def save(name: str, metadata: dict[str, str]) -> list[Path]:
        parts = model.stage1_tensors()
        merge, full = (config.output_path / f"{kind}_{name}.safetensors" for kind in ("feature_merge", "stage1"))
        for path, write in ((merge, write_merge), (full, write_stage1)):
            write(path, parts, metadata={"stage": "1", "layout": model.merge_block.layout, **metadata})
        return [merge, full]

    decoder_factor = 1.0 if config.decoder_learning_rate is None else config.decoder_learning_rate / config.learning_rate
    stage = Stage(
        verb="train-vae",
        trainables=model.trainable_parameters(mode=config.mode),
        loss=lambda positions: batch_loss(to_batch(stream.take(positions), device=device), positions),
        save=lambda epoch: save(f"epoch_{epoch}", {"epoch": str(epoch)}),
        validate=validate_vae(config, model, held_out, loss=batch_loss, device=device),
        save_best=lambda: save("best", {"epoch": "best"}),
        num_clips=len(clips.order),
        data_fingerprint=clips.dataset.fingerprint,
        frozen={"decoders": fingerprint(model.decoder_tensors(), {})} if config.mode == "merge" else {},
        device=device,
        rate_factor=lambda name: decoder_factor if "lora_" in name else 1.0,
    )
    log_forecast(config, lambda: forecast_memory(config, model, objective=objective, device=device), device=device)
    written = fit(config, stage=stage)
    perceptual = {"VGG16": vgg16_file(config.perceptual_weights)} if config.perceptual == "vgg16" else {}
    weights = {**loaded_weights(config, "vae"), **perceptual, **judge_weights(config)}
    write_run_record(config.output_path, verb="train-vae", config=config, weights=weights, started=started)
    return written


def forecast_memory(config: TrainVaeConfig, model: RGBAlphaVAE, *, objective: VaeObjective, device: torch.device) -> Forecast:
    """What a step on this device will need, at the configured size and batch."""
    arithmetic = autocast_dtype(config.precision, device=device)

    def step(networks: tuple[RGBAlphaVAE, VaeObjective]) -> Tensor:
        batch = empty_batch(config, z_dim=model.z_dim)
        with torch.autocast("cpu", arithmetic, enabled=arithmetic != torch.float32):
            return loss(networks[0], batch, objective=networks[1])["total"]

    trainables, judge = model.trainable_parameters(mode=config.mode), objective.judge
    if judge is None:
        return forecast(config, networks=lambda _: (model, objective), depth=0, trainables=trainables, loss=step, device=device)

    def networks(depth: int) -> tuple[RGBAlphaVAE, VaeObjective]:
        return model, replace(objective, judge=replace(judge, transformer=shortened(judge.transformer, depth=depth)))

    return forecast(config, networks=networks, depth=len(judge.transformer.blocks), trainables=trainables, loss=step, device=device)


def build_objective(config: TrainVaeConfig, *, z_dim: int, device: torch.device) -> VaeObjective:
    """The configured terms, with their networks on the device."""
    settings = ReconstructionSettings(
        hard_threshold=config.hard_threshold, edge_kernel=config.edge_kernel, edge_padding=config.edge_padding
    )
    features = load_vgg16(config.perceptual_weights).to(device) if config.perceptual == "vgg16" else None
    judge = load_judge(config, z_dim=z_dim, device=device)
    return VaeObjective(reconstruction=settings, perceptual_features=features, judge=judge)


def build_model(config: TrainVaeConfig, *, device: torch.device) -> RGBAlphaVAE:
    """The RGBA VAE to train: loaded parts where given, new ones where not; only the mode's parameters have gradients."""
    merge, lora = stage1_parts(config)
    if config.mode == "merge" and lora is None:
        raise UsageError(
            "mode merge", got="plain decoders", expected="--vae_lora_path", do="give decoder.bin, or train both with --mode merge+decoders"
        )
    model = build_rgba_vae(
        load_vae(resolve_base(config), dtype=torch.float32, device=device),
        merge=merge,
        decoder_lora=lora,
        layout=config.merge_layout,
        merge_init=config.merge_init,
        width=config.merge_width,
        rank=config.decoder_lora_rank,
        generator=torch.Generator().manual_seed(config.seed),
    ).to(device)
    model.passes = "whole" if config.vae_passes == "auto" else config.vae_passes
    model.gradient_checkpointing = config.gradient_checkpointing
    model.requires_grad_(False)
    for parameter in model.trainable_parameters(mode=config.mode).values():
        parameter.requires_grad_(True)
    return model
