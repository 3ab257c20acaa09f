"""Stage 1 in its layouts: merge block, decoder LoRA, both, diffusers' folder, ComfyUI's two VAE files; and back from those two."""

import json
import re
from collections.abc import Mapping

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from wan_alpha import __version__
from wan_alpha.checkpoints import stage1, vae_layout
from wan_alpha.checkpoints.files import require_shapes
from wan_alpha.checkpoints.folders import COMFYUI_VAES, STAGE1_FILE
from wan_alpha.checkpoints.stage1 import Stage1Tensors
from wan_alpha.checkpoints.streams import TensorFiles
from wan_alpha.convert.job import Job
from wan_alpha.errors import CheckpointError, UsageError
from wan_alpha.models.load import load_vae
from wan_alpha.models.low_rank import LORA_ALPHA
from wan_alpha.models.rewrite import Residual, best_factors
from wan_alpha.models.rgba_vae import build_rgba_vae
from wan_alpha.models.sources import BaseSource, resolve_base

_ROUNDING = 1e-2  # of what Stage 1 does not change, relative to its largest value: bfloat16's step


def write_merge_block(job: Job) -> list[str]:
    """feature_merge_epoch_N.safetensors, N from the source's name; without one, feature_merge_best.safetensors."""
    epoch = re.search(r"epoch[_-](\d+)", job.config.source[0].name)
    name = f"feature_merge_{f'epoch_{epoch[1]}' if epoch else 'best'}.safetensors"
    job.write(job.path(name), stage1.merge_keys(_parts(job)), metadata=job.material.vae_metadata)
    return []


def write_decoder_lora(job: Job) -> list[str]:
    parts, notes = _with_decoder_lora(job)
    job.write(job.path("decoder.bin"), stage1.decoder_lora_keys(parts), metadata=job.material.vae_metadata)
    return notes


def write_stage1(job: Job) -> list[str]:
    parts, notes = _with_decoder_lora(job)
    job.write(job.path("stage1.safetensors"), stage1.full_keys(parts), metadata=job.material.vae_metadata)
    return notes


def write_diffusers(job: Job) -> list[str]:
    """model_index.json, vae/ with the base VAE, rgba_vae/ with what Stage 1 trained in one file: for both Stage-1 flags, and with the
    base beside it for RGBAlphaVAE.from_pretrained."""
    parts, notes = _with_decoder_lora(job)
    source = resolve_base(job.config)
    load_vae(source, dtype=job.dtype(_stored_type(source)), device="cpu").save_pretrained(job.folder / "vae")
    job.write(job.folder / STAGE1_FILE, stage1.full_keys(parts), metadata=job.material.vae_metadata)
    config = {"_class_name": "RGBAlphaVAE", "_wan_alpha_version": __version__, "base": "../vae"}
    index = {"_class_name": "WanPipeline", "vae": ["diffusers", "AutoencoderKLWan"]}
    (job.folder / STAGE1_FILE.parent / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (job.folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return notes


def write_comfyui(job: Job) -> list[str]:
    """Each decoder, its LoRA merged, in a whole VAE with exactly the base's original keys."""
    vae, kept = _base_vae(job)
    statistics = {name: json.dumps(list(vae.config[name])) for name in ("latents_mean", "latents_std")}
    metadata = {**job.material.vae_metadata, **statistics}
    for which, state in _merged_pair(job, vae).items():
        job.write(job.folder / COMFYUI_VAES[which], {key: tensor.to(kept) for key, tensor in state.items()}, metadata=metadata)
    return []


def _merged_pair(job: Job, vae: AutoencoderKLWan) -> Mapping[str, Mapping[str, Tensor]]:
    """Of each decoder the whole VAE in the original names: the base with the LoRA merged, or what the sources have merged already."""
    pair, blocks = job.material.vae_pair, vae.config.num_res_blocks
    base = vae_layout.to_original(vae.state_dict(), num_res_blocks=blocks)
    if pair is not None and job.material.decoder_lora is None:
        for files in pair.values():
            require_shapes(files.shapes, base, what=files.paths[0])
        return pair
    rgba = build_rgba_vae(vae, decoder_lora=_parts(job))
    rgba.merge_decoder_lora()
    decoders = {which: getattr(rgba, f"{which}_decoder").state_dict() for which in COMFYUI_VAES}
    return {
        which: {**base, **vae_layout.to_original({f"decoder.{key}": tensor for key, tensor in state.items()}, num_res_blocks=blocks)}
        for which, state in decoders.items()
    }


def _parts(job: Job) -> Stage1Tensors:
    """Merge block and decoder LoRA of the sources as one, whichever they have."""
    merge, lora = job.material.merge_block, job.material.decoder_lora
    return Stage1Tensors(
        source=job.names,
        merge=merge.merge if merge else {},
        rgb_lora=lora.rgb_lora if lora else {},
        alpha_lora=lora.alpha_lora if lora else {},
    )


def _with_decoder_lora(job: Job) -> tuple[Stage1Tensors, list[str]]:
    """The sources' Stage-1 parts; where there is no decoder LoRA, it is factorised out of ComfyUI's two VAE files."""
    parts, pair = _parts(job), job.material.vae_pair
    if pair is None or parts.rgb_lora:
        return parts, []
    if job.config.rank is None:
        raise UsageError("--rank", got="none", expected="the decoder LoRA's rank: merged files do not show it", do="--rank 128")
    vae, _ = _base_vae(job)
    base = vae_layout.to_original(vae.state_dict(), num_res_blocks=vae.config.num_res_blocks)
    residual = Residual()
    rgb, alpha = (_factors(pair[which], base, rank=job.config.rank, residual=residual) for which in ("rgb", "alpha"))
    residual.require_at_most(job.config.max_residual, what=job.names)
    return Stage1Tensors(source=job.names, merge=parts.merge, rgb_lora=rgb, alpha_lora=alpha), [str(residual)]


def _factors(merged: TensorFiles, base: dict[str, Tensor], *, rank: int, residual: Residual) -> dict[str, Tensor]:
    """lora_A (r, in, k...) and lora_B (out, r, 1...) of every decoder convolution: W' = W + B A / r."""
    lora = {}
    for key, old in base.items():
        new = merged[key].float() if key in merged else None
        is_conv = key.startswith("decoder.") and key.endswith(".weight") and old.ndim >= 4
        if new is None or new.shape != old.shape or (not is_conv and (new - old).abs().max() > _ROUNDING * old.abs().max()):
            raise CheckpointError(merged.paths[0], got=f"another {key}", expected="the base VAE's", do="give its base as --base_vae_path")
        if is_conv:
            delta = (new - old.float()).flatten(1) * (rank / LORA_ALPHA)
            down, up = best_factors(delta, rank=rank)
            path = key.removeprefix("decoder.").removesuffix(".weight")
            residual.add(path, delta=delta, factors=(down, up))
            lora[f"{path}.lora_A"] = down.reshape(rank, *old.shape[1:])
            lora[f"{path}.lora_B"] = up.reshape(old.shape[0], rank, *[1] * (old.ndim - 2))
    return lora


def _base_vae(job: Job) -> tuple[AutoencoderKLWan, torch.dtype]:
    """The base VAE in float32, and the type that its files have."""
    source = resolve_base(job.config)
    return load_vae(source, dtype=torch.float32, device="cpu"), _stored_type(source)


def _stored_type(source: BaseSource) -> torch.dtype:
    return next(iter(TensorFiles(source.part("vae").files()).shapes.values())).dtype
