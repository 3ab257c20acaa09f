"""Stage 2's data from its configuration: a cache or clips to encode, what is held out, and what previews need."""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel

from wan_alpha.caching import build_cache
from wan_alpha.config import CacheConfig, TrainDitConfig
from wan_alpha.data.clips import ClipDataset
from wan_alpha.data.latents import LatentCache, fingerprint
from wan_alpha.data.manifest import read_manifest
from wan_alpha.data.survey import survey_clips
from wan_alpha.encoding import encoder_tensors, load_rgba_vae
from wan_alpha.errors import UsageError
from wan_alpha.geometry import ClipSize
from wan_alpha.hashing import sha256
from wan_alpha.models.load import resolve_base
from wan_alpha.models.rgba_vae import RGBAlphaVAE
from wan_alpha.train.cache_check import check_cache, check_settings, check_text_length
from wan_alpha.train.clip_data import clip_stream, write_clip_report
from wan_alpha.train.latent_source import (
    CachedLatents,
    ClipsToEncode,
    Encoder,
    LatentSource,
    clip_encoder,
    embed_prompts,
    hold_out,
    stack_latents,
)
from wan_alpha.train.previews import Prompted

PREVIEW_SEED = 0


@dataclass(frozen=True, kw_only=True)
class LatentData:
    """What is trained on and validated on, with the encoders of both; the captions to preview, and the decoders for them."""

    training: LatentSource
    encode: Encoder
    validation: LatentSource | None
    encode_held_out: Encoder
    previewed: list[Prompted]
    rgba_vae: RGBAlphaVAE | None
    """Decodes previews; None without them."""
    files: dict[str, Path]
    """Role -> file, for run.json."""


def latent_data(config: TrainDitConfig, transformer: WanTransformer3DModel, *, device: torch.device) -> LatentData:
    """Everything that Stage 2 draws from. CacheError for a cache of another size, VAE or merge block."""
    z_dim = transformer.config.in_channels
    source, encode, files = _to_encode(config, z_dim, device) if config.on_the_fly else _cached(config, z_dim, device)
    training, encode_held_out = source, encode
    validation: LatentSource | None = None
    if config.validation_cache_path is not None:
        cache = LatentCache(config.validation_cache_path)
        check_cache(cache, config, z_dim=z_dim)
        check_text_length(cache, source.max_sequence_length)
        validation, encode_held_out = CachedLatents(cache), stack_latents(device)
        files["validation cache"] = cache.folder / "index.json"
    elif config.validation_clips is not None:
        training, validation = hold_out(source, config.validation_clips)
    rgba_vae = load_rgba_vae(config, device=device, needs=("decoders",)) if config.preview_clips is not None else None
    shown = validation or training
    prompts = list(dict.fromkeys(shown.prompts))[: config.preview_clips or 0]
    previewed = [
        Prompted(prompt=prompt, seed=PREVIEW_SEED + i, context=shown.context(prompt), without=shown.context(""))
        for i, prompt in enumerate(prompts)
    ]
    return LatentData(
        training=training,
        encode=encode,
        validation=validation,
        encode_held_out=encode_held_out,
        previewed=previewed,
        rgba_vae=rgba_vae,
        files=files,
    )


def _cached(config: TrainDitConfig, z_dim: int, device: torch.device) -> tuple[LatentSource, Encoder, dict[str, Path]]:
    cache = LatentCache(_cache_folder(config))
    check_cache(cache, config, z_dim=z_dim)
    check_settings(cache, config)
    return CachedLatents(cache), stack_latents(device), {"cache": cache.folder / "index.json"}


def _to_encode(config: TrainDitConfig, z_dim: int, device: torch.device) -> tuple[LatentSource, Encoder, dict[str, Path]]:
    """The dataset's clips at their buckets, the texts embedded once, and the frozen RGBA VAE's encoder."""
    entries = read_manifest(config.dataset_base_path, config.dataset_metadata_path, key=config.data_file_keys)
    survey = survey_clips(entries, on_bad_sample=config.on_bad_sample)
    budget = ClipSize(num_frames=config.num_frames, height=config.height, width=config.width)
    stream = clip_stream(
        survey, budget=budget, by=config.buckets, stills="frames", augment=None, batch_size=config.batch_size, seed=config.seed
    )
    write_clip_report(config.output_path, survey, stream)
    contexts = embed_prompts(config, [entry.prompt for entry in survey.entries], device=device)
    rgba_vae = load_rgba_vae(config, device=device, needs=("merge block",))
    if rgba_vae.z_dim != z_dim:
        raise UsageError("--on_the_fly", got=f"a VAE of {rgba_vae.z_dim} latent channels", expected=f"{z_dim}, as the transformer has")
    source = ClipsToEncode(
        stream.dataset,
        contexts=contexts,
        z_dim=z_dim,
        max_sequence_length=config.max_sequence_length,
        fingerprint=_encoding_fingerprint(config, stream.dataset, rgba_vae),
    )
    named = {"merge block": config.feature_merge_checkpoint or config.vae_lora_path}
    return (
        source,
        clip_encoder(rgba_vae, hard_threshold=config.hard_threshold, device=device),
        {role: path for role, path in named.items() if path is not None},
    )


def _encoding_fingerprint(config: TrainDitConfig, dataset: ClipDataset, rgba_vae: RGBAlphaVAE) -> str:
    """What encoding gives at every position, as far as it is no plain setting of the run; a hash for each cause, so that a refused run
    can see which one changed."""
    text_encoder = resolve_base(config).part("text_encoder").files()
    causes = {
        "clips": fingerprint({}, {"names": dataset.fingerprint}),
        "captions": fingerprint({}, {"prompts": [entry.prompt for entry in dataset.entries]}),
        "VAE and merge block": fingerprint(encoder_tensors(rgba_vae), {}),
        "text encoder": fingerprint({}, {"files": [sha256(path) for path in text_encoder]}),
    }
    return ", ".join(f"{cause} {digest[:12]}" for cause, digest in causes.items())


def _cache_folder(config: TrainDitConfig) -> Path:
    """The cache to train on; without --cache_path it is made from the dataset under OUTPUT/cache."""
    if config.cache_path is not None:
        return config.cache_path
    folder = config.output_path / "cache"
    shared = {name: getattr(config, name) for name in CacheConfig.__dataclass_fields__ if hasattr(config, name)}
    build_cache(CacheConfig(**{**shared, "output_path": folder}))
    return folder
