"""Stage 1: the merge block, and with it the LoRA of both decoders, learn to put a matte into Wan's latent and to read it back.

Start reading at `loss`: z = M(E(R^h(rgb, alpha, c0)), E(alpha)), decoded to rgb^ and alpha^, compared as hard render, soft render
and alpha (paper, Eq. 3-13).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from wan_alpha.checkpoints.stage1 import write_merge, write_stage1
from wan_alpha.config import TrainVaeConfig
from wan_alpha.data.clips import Augment, ClipDataset, Sample, collate, usable_entries
from wan_alpha.data.draws import generator_at, index_at
from wan_alpha.data.manifest import read_manifest
from wan_alpha.data.stream import PositionStream
from wan_alpha.device import autocast_dtype, choose_device
from wan_alpha.encoding import loaded_weights, stage1_parts
from wan_alpha.errors import UsageError
from wan_alpha.geometry import ClipSize
from wan_alpha.models.load import load_vae, resolve_base
from wan_alpha.models.perceptual import load_vgg16, vgg16_file
from wan_alpha.models.rgba_vae import RGBAlphaVAE, build_rgba_vae
from wan_alpha.objectives.reconstruction import ReconstructionSettings, rgba_reconstruction_loss
from wan_alpha.rgba import RENDER_COLOURS, from_signed, hard_render, to_signed
from wan_alpha.run_record import now, write_run_record
from wan_alpha.train.loop import Stage, fit


@dataclass(frozen=True, kw_only=True)
class RgbaBatch:
    """One batch on its device: straight clips in [0, 1], and per sample the background colours of encoder input, hard and soft loss."""

    rgb: Float[Tensor, "B 3 T H W"]
    alpha: Float[Tensor, "B 1 T H W"]
    input_colour: Float[Tensor, "B 3"]
    hard_colour: Float[Tensor, "B 3"]
    soft_colour: Float[Tensor, "B 3"]


def loss(
    model: RGBAlphaVAE,
    batch: RgbaBatch,
    *,
    perceptual_features: Callable[[Tensor], Tensor] | None,
    settings: ReconstructionSettings,
) -> dict[str, Float[Tensor, ""]]:
    """L_vae and its terms (Eq. 7-13) for one batch, compared in float32 whatever autocast makes of the networks."""
    rendered = hard_render(batch.rgb, batch.alpha, batch.input_colour, threshold=settings.hard_threshold)
    latents = model.encode(to_signed(rendered), to_signed(batch.alpha))
    rgb, alpha = model.decode_raw(latents)
    return rgba_reconstruction_loss(
        (from_signed(rgb.float()), from_signed(alpha.float())),
        (batch.rgb, batch.alpha),
        hard_colour=batch.hard_colour,
        soft_colour=batch.soft_colour,
        perceptual_features=perceptual_features,
        settings=settings,
    )


def sample_at(dataset: ClipDataset, position: int, *, seed: int) -> tuple[Sample, Float[Tensor, "3 3"]]:
    """The clip and the three background colours at a position; every epoch walks the clips in a new order, with new windows and crops."""
    count = len(dataset.entries)
    colours = RENDER_COLOURS[torch.randint(len(RENDER_COLOURS), (3,), generator=generator_at(seed, position))]
    return dataset[position // count * count + index_at(seed, position, count=count)], colours


def to_batch(samples: list[tuple[Sample, Tensor]], *, device: torch.device) -> RgbaBatch:
    clips = collate([sample for sample, _ in samples])
    on_input, hard, soft = torch.stack([colours for _, colours in samples]).to(device).unbind(dim=1)
    return RgbaBatch(rgb=clips.rgb.to(device), alpha=clips.alpha.to(device), input_colour=on_input, hard_colour=hard, soft_colour=soft)


def train(config: TrainVaeConfig) -> list[Path]:
    """Train and write OUTPUT/feature_merge_epoch_N.safetensors and OUTPUT/stage1_epoch_N.safetensors (N from 0).

    The first is the merge block alone (the seed's file), the second everything: merge block and decoder LoRA.
    """
    started, device = now(), choose_device(config.device)
    settings = ReconstructionSettings(
        hard_threshold=config.hard_threshold, edge_kernel=config.edge_kernel, edge_padding=config.edge_padding
    )
    features = load_vgg16(config.perceptual_weights).to(device) if config.perceptual == "vgg16" else None
    entries, _ = usable_entries(read_manifest(config.dataset_base_path, config.dataset_metadata_path), on_bad_sample=config.on_bad_sample)
    size = ClipSize(num_frames=config.num_frames, height=config.height, width=config.width)
    dataset = ClipDataset(entries, size=size, seed=config.seed, augment=Augment(flip=0.5, max_scale=config.max_scale))
    stream = PositionStream(partial(sample_at, dataset, seed=config.seed), num_workers=config.num_workers)
    model, arithmetic = build_model(config, device=device), autocast_dtype(config.precision, device=device)

    def step_loss(positions: list[int]) -> dict[str, Tensor]:
        batch = to_batch(stream.take(positions), device=device)
        with torch.autocast(device.type, arithmetic, enabled=arithmetic != torch.float32):
            return loss(model, batch, perceptual_features=features, settings=settings)

    def save(epoch: int) -> list[Path]:
        parts, metadata = model.stage1_tensors(), {"stage": "1", "layout": model.merge_block.layout, "epoch": str(epoch)}
        merge, full = (config.output_path / f"{kind}_epoch_{epoch}.safetensors" for kind in ("feature_merge", "stage1"))
        write_merge(merge, parts, metadata=metadata)
        write_stage1(full, parts, metadata=metadata)
        return [merge, full]

    decoder_factor = 1.0 if config.decoder_learning_rate is None else config.decoder_learning_rate / config.learning_rate
    stage = Stage(
        verb="train-vae",
        trainables=model.trainable_parameters(mode=config.mode),
        loss=step_loss,
        save=save,
        num_clips=len(entries),
        data_fingerprint=" ".join(entry.name for entry in entries),
        device=device,
        rate_factor=lambda name: decoder_factor if "lora_" in name else 1.0,
    )
    written = fit(config, stage=stage)
    perceptual = {"VGG16": vgg16_file(config.perceptual_weights)} if features is not None else {}
    weights = {**loaded_weights(config, "vae"), **perceptual}
    write_run_record(config.output_path, verb="train-vae", config=config, weights=weights, started=started)
    return written


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
    model.requires_grad_(False)
    for parameter in model.trainable_parameters(mode=config.mode).values():
        parameter.requires_grad_(True)
    return model
