"""From files to the RGBA VAE, and from clips to cached latents: what several stages share."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from wan_alpha.checkpoints.files import sha256
from wan_alpha.checkpoints.stage1 import Stage1Tensors, read_decoder_lora, read_merge
from wan_alpha.config import BaseModelConfig, CacheConfig
from wan_alpha.data.clips import ClipDataset, usable_entries
from wan_alpha.data.draws import generator_at
from wan_alpha.data.latents import CacheIndex, clip_fingerprint, drop_index, fingerprint, write_clip, write_index, write_prompts
from wan_alpha.data.manifest import ClipEntry, read_manifest
from wan_alpha.device import choose_device, frozen_dtype
from wan_alpha.errors import UsageError
from wan_alpha.geometry import ClipSize
from wan_alpha.models.load import load_text_encoder, load_vae, resolve_base
from wan_alpha.models.rgba_vae import RGBAlphaVAE, build_rgba_vae
from wan_alpha.models.sources import PartName
from wan_alpha.models.text import encode_prompts
from wan_alpha.objectives.transparency import gaussian_ellipse
from wan_alpha.progress import progress
from wan_alpha.rgba import RENDER_COLOURS, hard_render, to_signed

log = logging.getLogger(__name__)

NO_MERGE_BLOCK = fingerprint({}, {})
"""What merge_fingerprint says of files without a merge block, such as decoder.bin."""
Stage1Part = Literal["merge block", "decoders"]


def stage1_parts(config: BaseModelConfig) -> tuple[Stage1Tensors | None, Stage1Tensors | None]:
    """(merge block, decoder LoRA) of the files in the config; a full Stage-1 checkpoint given once serves for both."""
    merge_path, lora_path = config.feature_merge_checkpoint, config.vae_lora_path
    merge = read_merge(merge_path) if merge_path else None
    lora = read_decoder_lora(lora_path) if lora_path else None
    if merge is None and lora is not None and lora.merge:
        merge = lora
    if lora is None and merge is not None and merge.rgb_lora:
        lora = merge
    return merge, lora


def load_rgba_vae(config: BaseModelConfig, *, device: torch.device, needs: tuple[Stage1Part, ...]) -> RGBAlphaVAE:
    """The trained RGBA VAE for inference, float32, frozen. Raises UsageError when a part that the caller needs is in no file.

    needs: "merge block" to encode clips, "decoders" to decode them; without its LoRA a decoder would be Wan's own RGB decoder.
    """
    merge, lora = stage1_parts(config)
    have = {"merge block": merge, "decoders": lora}
    missing = [part for part in needs if have[part] is None]
    if missing:
        flag = "--feature_merge_checkpoint" if missing[0] == "merge block" else "--vae_lora_path"
        do = f"give a Stage-1 checkpoint, or a file with the {missing[0]}, as {flag}"
        raise UsageError("RGBA VAE", got=f"no file with the {missing[0]}", expected=" and ".join(needs), do=do)
    vae = load_vae(resolve_base(config), dtype=torch.float32, device=device)
    model = build_rgba_vae(vae, merge=merge, decoder_lora=lora).to(device).eval().requires_grad_(False)
    model.passes = config.vae_passes
    return model


def loaded_weights(config: BaseModelConfig, *parts: PartName) -> dict[str, Path]:
    """Role -> file of everything that a config loads: the named parts of the base, and the files of both stages. For run.json."""
    source = resolve_base(config)
    named = {f"{part} {file.name}": file for part in parts for file in source.part(part).files()}
    fields = ("feature_merge_checkpoint", "vae_lora_path", "adapter_path", "acceleration_lora")
    given = {field: getattr(config, field, None) for field in fields}
    return {**named, **{field: path for field, path in given.items() if path is not None}}


@torch.no_grad()
def encode_clip(
    rgba_vae: RGBAlphaVAE,
    rgb: Float[Tensor, "B 3 T H W"],
    alpha: Float[Tensor, "B 1 T H W"],
    *,
    colour: Float[Tensor, "B 3"],
    hard_threshold: float,
) -> Float[Tensor, "B z t h w"]:
    """Normalised latents of straight clips in [0, 1], hard-rendered on one background colour per clip (Eq. 2-4)."""
    rendered = hard_render(rgb, alpha, colour, threshold=hard_threshold)
    return rgba_vae.normalise(rgba_vae.encode(to_signed(rendered), to_signed(alpha)))


def build_cache(config: CacheConfig, *, key: str = "video") -> CacheIndex:
    """Encode every clip of the dataset into config.output_path; clips that an interrupted run finished are kept.

    key: the table's column that names the clip. A clip is made anew when its files, the VAE or a setting changed.
    """
    device, folder = choose_device(config.device), config.output_path
    size = ClipSize(num_frames=config.num_frames, height=config.height, width=config.width)
    entries, skipped = usable_entries(
        read_manifest(config.dataset_base_path, config.dataset_metadata_path, key=key), on_bad_sample=config.on_bad_sample
    )
    for line in skipped:
        log.warning("left out of the cache: %s", line)
    embeddings = _embed({entry.prompt for entry in entries} | {""}, config, device)
    rgba_vae = load_rgba_vae(config, device=device, needs=("merge block",))
    settings = {"size": asdict(size), "draws": config.draws, "seed": config.seed, "hard_threshold": config.hard_threshold}
    common = fingerprint(_encoder_tensors(rgba_vae), settings)
    marks = [fingerprint({}, {"encoder": common, "number": i, "files": _hashes(entry)}) for i, entry in enumerate(entries)]
    drop_index(folder)
    write_prompts(folder, embeddings)
    with progress("caching", total=len(entries)) as advance:
        for i, (entry, mark) in enumerate(zip(entries, marks, strict=True)):
            if clip_fingerprint(folder, i) != mark:
                latents, gaussian = _encode_draws(rgba_vae, _dataset(config, entry, i, size), config, device)
                write_clip(folder, i, latents=latents, gaussian=gaussian, fingerprint=mark)
            advance()
    index = CacheIndex(
        fingerprint=fingerprint({}, {"clips": marks, "prompts": [entry.prompt for entry in entries]}),
        names=tuple(entry.name for entry in entries),
        prompts=tuple(entry.prompt for entry in entries),
        clips=tuple(marks),
        num_frames=size.num_frames,
        height=size.height,
        width=size.width,
        draws=config.draws,
        max_sequence_length=config.max_sequence_length,
        merge_block=merge_fingerprint(config),
        weights={role: sha256(path) for role, path in loaded_weights(config, "vae", "text_encoder").items()},
    )
    write_index(folder, index)
    return index


def merge_fingerprint(config: BaseModelConfig) -> str:
    """A hash of the merge block's tensors, whichever file of the config holds them."""
    merge, _ = stage1_parts(config)
    return fingerprint(merge.merge if merge else {}, {})


def _hashes(entry: ClipEntry) -> list[str]:
    """Hashes of a clip's files, of folders frame by frame."""
    paths = [path for path in (entry.rgba, entry.rgb, entry.alpha) if path is not None]
    return [sha256(file) for path in paths for file in (sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path])]


def _dataset(config: CacheConfig, entry: ClipEntry, i: int, size: ClipSize) -> ClipDataset:
    """The draws of one clip, each with its own window and crop place; a clip of the target's size is taken as it is."""
    return ClipDataset([entry], size=size, seed=config.seed * 1_000_003 + i, crop="random", repeat=config.draws)


def _encode_draws(rgba_vae: RGBAlphaVAE, draws: ClipDataset, config: CacheConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    latents, gaussians = [], []
    for draw, sample in enumerate(draws):
        colour = _colour(draw, seed=draws.seed).to(device)
        rgb, alpha = sample.rgb[None].to(device), sample.alpha[None].to(device)
        latents.append(encode_clip(rgba_vae, rgb, alpha, colour=colour, hard_threshold=config.hard_threshold).float().cpu())
        gaussians.append(gaussian_ellipse(alpha).cpu())
    return torch.cat(latents), torch.cat(gaussians)


def _colour(draw: int, *, seed: int) -> Float[Tensor, "1 3"]:
    """Eight draws see the eight colours, in an order of the clip's own."""
    order = torch.randperm(len(RENDER_COLOURS), generator=generator_at(seed, draw // len(RENDER_COLOURS)))
    return RENDER_COLOURS[order[draw % len(RENDER_COLOURS)]][None]


def _encoder_tensors(rgba_vae: RGBAlphaVAE) -> dict[str, Tensor]:
    """Everything on the way from pixels to normalised latents."""
    kept = ("encoder.", "quant_conv.", "merge_block.")
    tensors = {name: tensor for name, tensor in rgba_vae.state_dict().items() if name.startswith(kept)}
    return {**tensors, "latents_mean": rgba_vae.latents_mean, "latents_std": rgba_vae.latents_std}


def _embed(prompts: set[str], config: CacheConfig, device: torch.device) -> dict[str, Tensor]:
    """Before the clips, so that a prompt that is too long is told at once, and both encoders are never in memory together."""
    dtype = frozen_dtype(config.precision, device=device)
    encoder, tokenizer = load_text_encoder(resolve_base(config), dtype=dtype, device=device)
    embed = {}
    for prompt in sorted(prompts):
        found = encode_prompts([prompt], encoder=encoder, tokenizer=tokenizer, max_sequence_length=config.max_sequence_length)
        embed[prompt] = found[0].to(dtype)
    return embed
