"""Files of Stage 1, in the published key names.

    feature_merge_epoch_N.safetensors  merge block alone: `middle.block.*` (feature layout) or bare `conv_in.*`, ... (latent layout)
    full Stage-1 checkpoint            `middle.*` + `vae_{fgr,pha}.decoder.<path>[.conv3D].lora_{A,B}.default.weight`
    decoder.bin                        the decoder LoRA alone

`vae_fgr` is the colour decoder, `vae_pha` the matte's; `.conv3D` stands in the names of 3-D convolutions. Read are also files
without `.default`, with the frozen weights of a training run beside (ignored), and merge blocks with or without `middle.`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from wan_alpha.checkpoints.files import read_tensors, write_tensors
from wan_alpha.checkpoints.kinds import describe
from wan_alpha.errors import CheckpointError

MERGE_PREFIX = "middle."
_DECODERS = {"rgb": "vae_fgr.decoder.", "alpha": "vae_pha.decoder."}
_MERGE_ROOTS = ("block.", "conv_in.", "res_blocks.", "attn_blocks.", "conv_out.")
_LORA = re.compile(r"vae_(fgr|pha)\.decoder\.(.+?)(?:\.conv3D)?\.lora_([AB])(?:\.default)?\.weight")
_FROZEN = re.compile(r"(vae_(fgr|pha)\.(decoder|encoder|conv1|conv2)|perceptual_loss|sobel_edge_loss|pipe)\.")


@dataclass(frozen=True, kw_only=True)
class Stage1Tensors:
    """A Stage-1 file, taken apart. A part that the file does not have is empty.

    merge: names within the block (`block.conv1.weight`, ... or `conv_in.weight`, ...).
    rgb_lora, alpha_lora: `<original module path>.lora_A` (r, in, k...) and `.lora_B` (out, r, 1...).
    """

    source: str
    merge: dict[str, Tensor] = field(default_factory=dict)
    rgb_lora: dict[str, Tensor] = field(default_factory=dict)
    alpha_lora: dict[str, Tensor] = field(default_factory=dict)


def read_stage1(path: Path) -> Stage1Tensors:
    """Take a Stage-1 file apart. Raises CheckpointError for keys of anything else."""
    return split_stage1(read_tensors(path), source=str(path))


def read_merge(path: Path) -> Stage1Tensors:
    """A file that must hold a merge block (--feature_merge_checkpoint)."""
    parts = read_stage1(path)
    if not parts.merge:
        raise CheckpointError(
            path, got="a decoder LoRA without a merge block", expected="a merge block", do="give the file as --vae_lora_path"
        )
    return parts


def read_decoder_lora(path: Path) -> Stage1Tensors:
    """A file that must hold the LoRA of both decoders (--vae_lora_path)."""
    parts = read_stage1(path)
    if not parts.rgb_lora or not parts.alpha_lora:
        present = "a merge block" if parts.merge else "the LoRA of one decoder"
        raise CheckpointError(
            path, got=f"{present} only", expected="the LoRA of both decoders", do="give a merge block as --feature_merge_checkpoint"
        )
    return parts


def split_stage1(tensors: Mapping[str, Tensor], *, source: str) -> Stage1Tensors:
    parts = Stage1Tensors(source=source)
    unknown = []
    for key, tensor in tensors.items():
        bare = key.removeprefix(MERGE_PREFIX)
        if bare.startswith(_MERGE_ROOTS):
            parts.merge[bare] = tensor
        elif match := _LORA.fullmatch(key):
            lora = parts.rgb_lora if match[1] == "fgr" else parts.alpha_lora
            lora[f"{match[2]}.lora_{match[3]}"] = tensor
        elif not _FROZEN.match(key):
            unknown.append(key)
    if unknown or not (parts.merge or parts.rgb_lora or parts.alpha_lora):
        raise CheckpointError(
            source,
            got=f"what looks like {describe(tensors.keys())}"
            + (f", {len(unknown)} foreign keys (first {sorted(unknown)[0]})" if unknown else ""),
            expected="a Stage-1 file: merge block, decoder LoRA, or both",
            do="give feature_merge_epoch_N.safetensors, Wan-Alpha-VAE.bin, decoder.bin or a Stage-1 checkpoint",
        )
    return parts


def merge_keys(parts: Stage1Tensors) -> dict[str, Tensor]:
    """The merge block in its own file's names: the feature layout carries `middle.`, the latent layout no prefix."""
    prefix = MERGE_PREFIX if any(key.startswith("block.") for key in parts.merge) else ""
    return {prefix + key: tensor for key, tensor in parts.merge.items()}


def decoder_lora_keys(parts: Stage1Tensors) -> dict[str, Tensor]:
    """The decoder LoRA in the published names."""
    named = {}
    for decoder, lora in (("rgb", parts.rgb_lora), ("alpha", parts.alpha_lora)):
        for key, tensor in lora.items():
            path, _, part = key.rpartition(".")
            wrapper = ".conv3D" if tensor.ndim == 5 else ""
            named[f"{_DECODERS[decoder]}{path}{wrapper}.{part}.default.weight"] = tensor
    return named


def full_keys(parts: Stage1Tensors) -> dict[str, Tensor]:
    """Everything, in the names of the published full checkpoint."""
    return {**{MERGE_PREFIX + key: tensor for key, tensor in parts.merge.items()}, **decoder_lora_keys(parts)}


def write_merge(path: Path, parts: Stage1Tensors, *, metadata: Mapping[str, str]) -> None:
    """feature_merge_epoch_N.safetensors."""
    write_tensors(path, merge_keys(parts), metadata=metadata)


def write_decoder_lora(path: Path, parts: Stage1Tensors, *, metadata: Mapping[str, str]) -> None:
    """decoder.bin, or the same tensors as .safetensors."""
    write_tensors(path, decoder_lora_keys(parts), metadata=metadata)


def write_stage1(path: Path, parts: Stage1Tensors, *, metadata: Mapping[str, str]) -> None:
    """The full checkpoint: what `train-vae` writes and every later stage reads."""
    write_tensors(path, full_keys(parts), metadata=metadata)
