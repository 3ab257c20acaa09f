"""Base models from files: each component alone, every tensor checked by name and shape, frozen and in eval mode.

The modules are diffusers' and transformers' own. Original files are recognised by their keys, and sizes are read from shapes.
"""

import json
from collections.abc import Mapping
from typing import TypeVar

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from torch import Tensor, nn
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerBase, UMT5Config, UMT5EncoderModel

from wan_alpha.checkpoints import vae_layout
from wan_alpha.checkpoints.files import read_many, read_metadata, require_shapes
from wan_alpha.checkpoints.originals import TIED_EMBEDDING, dit_to_original, text_from_original, text_to_original
from wan_alpha.checkpoints.sizes import dit_sizes, text_sizes, vae_sizes
from wan_alpha.errors import CheckpointError, UsageError
from wan_alpha.models.sources import BaseSource, Part, resolve_base

__all__ = ["BaseSource", "load_text_encoder", "load_transformer", "load_vae", "resolve_base"]

Model = TypeVar("Model", bound=nn.Module)
_WAN_BASE_DIM, _WAN_Z_DIM = 96, 16


def load_vae(source: BaseSource, *, dtype: torch.dtype, device: torch.device | str) -> AutoencoderKLWan:
    """The RGB VAE. Its config's latents_mean and latents_std are the model's own: from a diffusers config, from a config.json or
    the metadata beside an original file, or Wan's constants when the file has Wan's sizes; otherwise CheckpointError."""
    part = source.part("vae")
    tensors = _read(part)
    what = _what(part)
    if part.layout == "original" and any(key.startswith("decoder.up_blocks.") for key in tensors):
        config = _sidecar(part)
        if "base_dim" not in config:
            raise CheckpointError(
                what, got="a diffusers VAE without config.json", expected="config.json beside it", do="give its folder instead"
            )
    elif part.layout == "original":
        sizes = vae_sizes(tensors)
        config = {**sizes, **_statistics(part, sizes)}
    else:
        config = AutoencoderKLWan.load_config(part.where, local_files_only=True)
    with init_empty_weights():
        vae = AutoencoderKLWan.from_config(config)
    wrong = [name for name in ("latents_mean", "latents_std") if len(vae.config[name]) != vae.config.z_dim]
    if wrong:
        raise CheckpointError(
            f"{what}: {wrong[0]}", got=f"{len(vae.config[wrong[0]])} values", expected=f"{vae.config.z_dim}, one a channel"
        )
    if _is_original_vae(tensors):
        blocks = vae.config.num_res_blocks
        require_shapes(tensors, vae_layout.to_original(vae.state_dict(), num_res_blocks=blocks), what=what)
        tensors = vae_layout.from_original(tensors, diffusers_keys=vae.state_dict().keys(), num_res_blocks=blocks)
    return _fill(vae, tensors, dtype=dtype, device=device, what=what)


def load_transformer(source: BaseSource, *, dtype: torch.dtype, device: torch.device | str) -> WanTransformer3DModel:
    """The DiT. Below float32, the modules that diffusers keeps in float32 (norms, modulation, time embedding) stay there."""
    part = source.part("transformer")
    tensors, what = _read(part), _what(part)
    if part.layout == "diffusers":
        with init_empty_weights():
            transformer = WanTransformer3DModel.from_config(WanTransformer3DModel.load_config(part.where, local_files_only=True))
        return _fill(transformer, tensors, dtype=dtype, device=device, what=what)
    tensors = {key.removeprefix("model.diffusion_model."): tensor for key, tensor in tensors.items()}
    config = {**_sidecar(part), **read_metadata(part.files()[0])}
    heads = config.get("num_heads", config.get("num_attention_heads"))
    sizes = dit_sizes(tensors, num_heads=None if heads is None else int(str(heads)), eps=float(str(config.get("eps", 1e-6))))
    with init_empty_weights():
        transformer = WanTransformer3DModel(**sizes)
    require_shapes(tensors, dit_to_original(transformer.state_dict()), what=what)
    return _fill(transformer, convert_wan_transformer_to_diffusers(dict(tensors)), dtype=dtype, device=device, what=what)


def load_text_encoder(
    source: BaseSource, *, dtype: torch.dtype, device: torch.device | str
) -> tuple[UMT5EncoderModel, PreTrainedTokenizerBase]:
    """The text encoder and its tokenizer."""
    tokenizer = load_tokenizer(source)
    part = source.part("text_encoder")
    tensors, what = _read(part), _what(part)
    if part.layout == "original":
        config = UMT5Config(**text_sizes(tensors))
    else:
        config = UMT5Config.from_pretrained(part.where, local_files_only=True)
    with init_empty_weights():
        encoder = UMT5EncoderModel(config)
    if part.layout == "original":
        require_shapes(tensors, text_to_original(encoder.state_dict()), what=what)
        tensors = text_from_original(tensors)
    else:  # the tied embedding is stored under either of its names
        for name, twin in (("shared.weight", TIED_EMBEDDING), (TIED_EMBEDDING, "shared.weight")):
            if name in tensors:
                tensors.setdefault(twin, tensors[name])
    encoder = _fill(encoder, tensors, dtype=dtype, device=device, what=what)
    encoder.tie_weights()
    return encoder, tokenizer


def load_tokenizer(source: BaseSource) -> PreTrainedTokenizerBase:
    """The tokenizer, of the class that its tokenizer_config.json names."""
    folder = source.part("tokenizer").where
    if not folder.is_dir():
        raise UsageError(f"tokenizer {folder}", got="no such folder", expected="Wan's google/umt5-xxl folder, or tokenizer/")
    path = folder / "tokenizer_config.json"
    name = json.loads(path.read_text()).get("tokenizer_class", "") if path.is_file() else ""
    cls = ByT5Tokenizer if name.startswith("ByT5") else AutoTokenizer
    return cls.from_pretrained(folder, local_files_only=True)


def _is_original_vae(tensors: Mapping[str, Tensor]) -> bool:
    return any(key.startswith("decoder.upsamples.") for key in tensors)


def _read(part: Part) -> dict[str, Tensor]:
    files = part.files()
    if not files:
        raise CheckpointError(_what(part), got="no weight file", expected=".safetensors" if part.layout == "diffusers" else part.path)
    return read_many(files)


def _what(part: Part) -> str:
    return str(part.where)


def _fill(model: Model, tensors: Mapping[str, Tensor], *, dtype: torch.dtype, device: torch.device | str, what: str) -> Model:
    """Give an empty model exactly these tensors, then freeze it."""
    require_shapes(tensors, model.state_dict(), what=what)
    keep = set(model._keep_in_fp32_modules or ()) if isinstance(model, WanTransformer3DModel) else set()
    ready = {key: tensor.to(device, torch.float32 if keep & set(key.split(".")) else dtype) for key, tensor in tensors.items()}
    model.load_state_dict(ready, strict=True, assign=True)
    return model.to(device).eval().requires_grad_(False)


def _sidecar(part: Part) -> dict[str, object]:
    """config.json in the folder of an original file: Wan's own (num_heads, eps) or diffusers'."""
    path = part.where.parent / "config.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def _statistics(part: Part, sizes: Mapping[str, object]) -> dict[str, object]:
    """latents_mean and latents_std of an original VAE file."""
    names = ("latents_mean", "latents_std")
    metadata = read_metadata(part.files()[0])
    stored = {name: json.loads(metadata[name]) for name in names if name in metadata}
    sidecar = _sidecar(part)
    for found in (stored, sidecar):
        if all(name in found for name in names):
            return {name: found[name] for name in names}
    if (sizes["base_dim"], sizes["z_dim"]) == (_WAN_BASE_DIM, _WAN_Z_DIM):
        return {}  # AutoencoderKLWan's defaults are Wan2.1's sixteen constants
    raise CheckpointError(
        _what(part),
        got=f"a VAE of base_dim {sizes['base_dim']} and z_dim {sizes['z_dim']}, not Wan2.1's",
        expected="the mean and deviation of its latents",
        do=f"put a config.json with latents_mean and latents_std in {part.where.parent}",
    )
