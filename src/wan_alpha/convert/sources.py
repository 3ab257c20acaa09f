"""What the sources of a conversion hold, recognised by keys and file names, never by a flag."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path

from wan_alpha.checkpoints import vae_layout
from wan_alpha.checkpoints.adapter import BASE_NORM, Adapter, parse_adapter
from wan_alpha.checkpoints.files import read_metadata
from wan_alpha.checkpoints.folders import COMFYUI_LORA, COMFYUI_VAES, DIFFUSERS_ADAPTER, PEFT_ADAPTER, STAGE1_FILE, read_diffusers_adapter
from wan_alpha.checkpoints.kinds import describe, kind_of
from wan_alpha.checkpoints.stage1 import Stage1Tensors, split_stage1
from wan_alpha.checkpoints.streams import TensorFiles
from wan_alpha.errors import CheckpointError, UsageError
from wan_alpha.models.originals import open_transformer_files, transformer_files

_STAGE1_KINDS = ("a full Stage-1 checkpoint", "a decoder LoRA", "a merge block, feature layout", "a merge block, latent layout")


@dataclass(frozen=True, kw_only=True)
class Material:
    """The parts that the sources hold together; a part that they lack is None. `unused`: keys that belong to no part."""

    merge_block: Stage1Tensors | None = None
    decoder_lora: Stage1Tensors | None = None
    vae_pair: dict[str, TensorFiles] | None = None
    adapter: Adapter | None = None
    transformer: TensorFiles | None = None
    vae_metadata: dict[str, str] = field(default_factory=dict)
    dit_metadata: dict[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()

    def parts(self) -> dict[str, int]:
        """Name of each part that is there -> its number of tensors."""
        counts = {
            "merge block": self.merge_block and len(self.merge_block.merge),
            "decoder LoRA": self.decoder_lora and len(self.decoder_lora.rgb_lora) + len(self.decoder_lora.alpha_lora),
            "VAE pair": self.vae_pair and sum(map(len, self.vae_pair.values())),
            "adapter": self.adapter and sum(2 + (layer.magnitude is not None) for layer in self.adapter.layers.values()),
            "transformer": self.transformer and len(self.transformer),
        }
        return {name: count for name, count in counts.items() if count}


def read_sources(paths: Sequence[Path]) -> Material:
    """All sources together. Raises UsageError for a part that two of them have, CheckpointError for a file of anything else."""
    if not paths:
        raise UsageError("convert", got="no source", expected="files or folders of weights", do="wan-alpha convert FILE --to LAYOUT")
    together = Material()
    for path in paths:
        found = [_read_file(path)] if not path.is_dir() else _read_folder(path)
        for material in found:
            if twice := together.parts().keys() & material.parts().keys():
                raise UsageError(path, got=f"a second {min(twice)}", expected="one of each part")
            together = _joined(together, material)
    return together


def _joined(left: Material, right: Material) -> Material:
    """Both; where both have text or unused keys, one after the other."""
    changes: dict[str, object] = {f.name: value for f in fields(right) if (value := getattr(right, f.name))}
    for name in ("vae_metadata", "dit_metadata"):
        changes[name] = {**getattr(left, name), **getattr(right, name)}
    return replace(left, **{**changes, "unused": (*left.unused, *right.unused)})  # type: ignore[arg-type]


def _read_folder(folder: Path) -> list[Material]:
    """Everything that a folder of diffusers, PEFT, ComfyUI or Wan holds."""
    found = []
    if (folder / STAGE1_FILE).is_file():
        found.append(_read_file(folder / STAGE1_FILE))
    if (folder / DIFFUSERS_ADAPTER).is_file() or (folder / PEFT_ADAPTER).is_file():
        adapter = read_diffusers_adapter(folder)
        found.append(Material(adapter=adapter, dit_metadata=_told(adapter.metadata)))
    for lora in (folder / COMFYUI_LORA, folder / COMFYUI_LORA.name):
        found += [_read_file(lora)] if lora.is_file() else []
    for places in (COMFYUI_VAES, {which: Path(path.name) for which, path in COMFYUI_VAES.items()}):
        if all((folder / path).is_file() for path in places.values()):
            pair = {which: TensorFiles([folder / path]) for which, path in places.items()}
            found.append(Material(vae_pair=pair, vae_metadata=_told(pair["rgb"].metadata)))
    if not found and (shards := transformer_files(folder)):
        found.append(_read_file(shards[0]) if len(shards) == 1 else _transformer(shards, what=folder))
    if not found:
        known = (STAGE1_FILE, DIFFUSERS_ADAPTER, PEFT_ADAPTER, COMFYUI_LORA, *COMFYUI_VAES.values(), "diffusion_pytorch_model*.safetensors")
        raise CheckpointError(folder, got="a folder of none of the layouts", expected=", ".join(map(str, known)), do="name a file instead")
    return found


def _read_file(path: Path) -> Material:
    tensors = TensorFiles([path])
    kind, metadata = kind_of(tensors.keys()), _told(tensors.metadata)
    if kind in _STAGE1_KINDS:
        parts = split_stage1(dict(tensors), source=str(path))
        merge, lora = (parts if parts.merge else None), (parts if parts.rgb_lora and parts.alpha_lora else None)
        if lora is None and (parts.rgb_lora or parts.alpha_lora):
            raise CheckpointError(path, got="the LoRA of one decoder", expected="the LoRA of both decoders")
        used = len(parts.merge) + len(parts.rgb_lora) + len(parts.alpha_lora)
        unused = (f"{len(tensors) - used} frozen tensors of a training run in {path.name}",) if used < len(tensors) else ()
        return Material(merge_block=merge, decoder_lora=lora, vae_metadata=metadata, unused=unused)
    if kind == "a DiT adapter":
        return Material(adapter=parse_adapter(dict(tensors), source=str(path), metadata=read_metadata(path)), dit_metadata=metadata)
    if kind == "a DiT":
        return _transformer([path], what=path)
    if kind == "an RGBA VAE, decoders merged":
        return _rgba_vae(tensors)
    do = "give it as --acceleration_lora" if kind == "an acceleration LoRA" else "give a base model as --model or --base_vae_path"
    expected = "a Stage-1 file, an adapter, a transformer, or a folder of them"
    raise CheckpointError(path, got=describe(tensors.keys()), expected=expected, do=do if kind else f"wan-alpha inspect {path}")


def _transformer(files: Sequence[Path], *, what: Path) -> Material:
    transformer = open_transformer_files(files, what=str(what))
    return Material(transformer=transformer, dit_metadata=_told(transformer.metadata))


def _rgba_vae(tensors: TensorFiles) -> Material:
    """What RGBAlphaVAE.save_pretrained writes: the merge block, and both decoders with their LoRA merged, as ComfyUI's pair has them."""
    prefix, path = "merge_block.", tensors.paths[0]
    merge = {key.removeprefix(prefix): tensors[key] for key in tensors if key.startswith(prefix)}
    indices = [int(match[1]) for key in tensors if (match := re.match(r"rgb_decoder\.up_blocks\.0\.resnets\.(\d+)\.", key))]
    blocks = max(indices, default=0)  # the decoder has one more than the encoder
    pair = {
        which: TensorFiles([path], rename=partial(vae_layout.one_decoder_key, decoder=which, num_res_blocks=blocks))
        for which in COMFYUI_VAES
    }
    parts = Stage1Tensors(source=str(path), merge=merge) if merge else None
    return Material(merge_block=parts, vae_pair=pair, vae_metadata=_told(tensors.metadata))


def _told(metadata: dict[str, str]) -> dict[str, str]:
    """What a file says of its training; not what belongs to its layout."""
    layout = ("format", "converted_from", BASE_NORM, "latents_mean", "latents_std", "num_heads", "eps", "residual", "order", "kind", "rank")
    return {key: text for key, text in metadata.items() if key not in layout}
