"""Adapter of Stage 2 (epoch-N.safetensors), in the published layout: raw PEFT keys under Wan's original module names.

    blocks.{i}.{self_attn|cross_attn}.{q|k|v|o}.lora_A.default.weight      (r, in)
    blocks.{i}.ffn.{0|2}.lora_B.default.weight                             (out, r)
    <module>.lora_magnitude_vector.default.weight                          (out,), absent in a plain LoRA

The scale is 1: alpha equals r. Read are also files with a prefix (`pipe.dit.`, `diffusion_model.`, `transformer.`), without
`.default`, with lora_down / lora_up, with `alpha` tensors (folded into lora_B), with diffusers' module names, and with
ComfyUI's `dora_scale` (out, 1). Metadata of ours are strings: noise_shift, max_sequence_length, kind, rank, base hashes.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from torch import Tensor

from wan_alpha.checkpoints.files import read_metadata, read_tensors, write_tensors
from wan_alpha.checkpoints.kinds import describe
from wan_alpha.checkpoints.originals import dit_any_name_to_original, dit_diffusers_name
from wan_alpha.errors import CheckpointError

AdapterNames = Literal["published", "diffusers", "peft", "comfyui"]
BASE_NORM = "comfyui_norm"
"""Metadata of a ComfyUI file: "adapted" (dora_scale is m) or "base" (it is m ||W|| / ||W + BA||, for versions that divide by ||W||)."""
LORA_A, LORA_B, MAGNITUDE = "lora_A", "lora_B", "lora_magnitude_vector"
_PARTS = {
    LORA_A: LORA_A,
    LORA_B: LORA_B,
    "lora_down": LORA_A,
    "lora_up": LORA_B,
    MAGNITUDE: MAGNITUDE,
    "dora_scale": MAGNITUDE,
    "alpha": "alpha",
}
_KEY = re.compile(
    r"(?P<prefix>(?:(?:base_model\.model|pipe\.dit|diffusion_model|transformer)\.)*)"
    rf"(?P<module>.+?)\.(?P<part>{'|'.join(_PARTS)})(?:\.(?!weight$)[^.]+)?(?:\.weight)?"
)


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """Adapter of one linear layer: delta = lora_B @ lora_A; a DoRA has the row norms of the adapted weight as well."""

    lora_A: Tensor
    """(r, in)"""
    lora_B: Tensor
    """(out, r)"""
    magnitude: Tensor | None
    """(out,), or None for a plain LoRA"""


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A Stage-2 file: `layers` by original module name, `metadata` as stored."""

    source: str
    layers: dict[str, LowRank]
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """'dora' or 'lora'."""
        return "lora" if next(iter(self.layers.values())).magnitude is None else "dora"

    @property
    def rank(self) -> int:
        """The rank that all layers share; raises CheckpointError when they do not."""
        ranks = {layer.lora_A.shape[0] for layer in self.layers.values()}
        if len(ranks) != 1:
            raise CheckpointError(
                self.source, got=f"layers of ranks {sorted(ranks)}", expected="one rank", do="merge it instead of training on"
            )
        return ranks.pop()

    @property
    def noise_shift(self) -> float | None:
        """Mean shift of the noise that the adapter was trained with; None when the file does not say."""
        return float(self.metadata["noise_shift"]) if "noise_shift" in self.metadata else None

    @property
    def max_sequence_length(self) -> int | None:
        return int(self.metadata["max_sequence_length"]) if "max_sequence_length" in self.metadata else None


def read_adapter(path: Path) -> Adapter:
    """A DoRA or LoRA of the DiT. Raises CheckpointError for any other file, saying what it looks like."""
    metadata = read_metadata(path)
    if metadata.get(BASE_NORM) == "base":
        raise CheckpointError(
            path,
            got="magnitudes for ComfyUI versions that divide by ||W||",
            do=f"wan-alpha convert {path} --to adapter --model BASE",
        )
    return parse_adapter(read_tensors(path), source=str(path), metadata=metadata)


def write_adapter(path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str]) -> None:
    """Write the published layout (keys as models.dora.adapter_state gives them); anything else raises CheckpointError."""
    adapter = parse_adapter(tensors, source=str(path))
    if layer_tensors(adapter).keys() != tensors.keys():
        raise CheckpointError(
            path, got=f"keys such as {next(iter(tensors))}", expected="keys such as blocks.0.self_attn.q.lora_A.default.weight"
        )
    write_tensors(path, tensors, metadata={"kind": adapter.kind, **metadata})


def layer_tensors(adapter: Adapter, *, names: AdapterNames = "published") -> dict[str, Tensor]:
    """The adapter's tensors under the keys of one of its layouts; ComfyUI's magnitude is a column (out, 1)."""
    tensors = {}
    for module, layer in adapter.layers.items():
        for part, tensor in ((LORA_A, layer.lora_A), (LORA_B, layer.lora_B), (MAGNITUDE, layer.magnitude)):
            if tensor is not None:
                as_column = names == "comfyui" and part == MAGNITUDE
                tensors[_key(module, part, names=names)] = tensor[:, None] if as_column else tensor
    return tensors


def published_key(module: str, part: str) -> str:
    return f"{module}.{part}.default.weight"


def _key(module: str, part: str, *, names: AdapterNames) -> str:
    if names == "published":
        return published_key(module, part)
    if names == "comfyui":
        return f"diffusion_model.{module}." + ("dora_scale" if part == MAGNITUDE else f"{part}.weight")
    prefix = {"diffusers": "transformer", "peft": "base_model.model"}[names]
    return f"{prefix}.{dit_diffusers_name(module)}.{part}" + ("" if part == MAGNITUDE else ".weight")


def split_key(key: str) -> tuple[str, str, str] | None:
    """(prefix, original module, part) of an adapter's key, the part by its published name; None for any other key.

    >>> split_key("diffusion_model.blocks.0.ffn.0.dora_scale")
    ('diffusion_model.', 'blocks.0.ffn.0', 'lora_magnitude_vector')
    """
    match = _KEY.fullmatch(key)
    if match is None or "vae_" in key:
        return None
    return match["prefix"], dit_any_name_to_original(match["module"]), _PARTS[match["part"]]


def parse_adapter(tensors: Mapping[str, Tensor], *, source: str, metadata: Mapping[str, str] | None = None) -> Adapter:
    """Group tensors by layer and check that each layer is complete and consistent."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        split = split_key(key)
        if split is None:
            raise _refusal(tensors, source=source, key=key)
        _, module, part = split
        if part in parts.setdefault(module, {}):
            raise CheckpointError(source, got=f"{part} of {module} twice, the second as {key}", expected="each tensor once")
        parts[module][part] = tensor
    if not parts:
        raise CheckpointError(source, got="an empty file", expected="an adapter of the DiT")
    layers = {module: _layer(found, source=source, module=module) for module, found in parts.items()}
    bare = [module for module, layer in layers.items() if layer.magnitude is None]
    if bare and len(bare) != len(layers):
        raise CheckpointError(
            source, got=f"{len(bare)} of {len(layers)} layers without magnitude, first {bare[0]}", expected="all (DoRA) or none (LoRA)"
        )
    return Adapter(source=source, layers=layers, metadata=dict(metadata or {}))


def _layer(found: Mapping[str, Tensor], *, source: str, module: str) -> LowRank:
    missing = [part for part in (LORA_A, LORA_B) if part not in found]
    if missing:
        raise CheckpointError(
            source, got=f"{module} without {missing[0]}", expected="lora_A and lora_B for each layer", do="copy the file again"
        )
    down, up, magnitude = found[LORA_A], found[LORA_B], found.get(MAGNITUDE)
    if down.ndim != 2 or up.ndim != 2 or down.shape[0] != up.shape[1]:
        raise CheckpointError(
            source, got=f"{module}: lora_A {tuple(down.shape)}, lora_B {tuple(up.shape)}", expected="(r, in) and (out, r)"
        )
    if magnitude is not None:
        if magnitude.numel() != up.shape[0]:
            raise CheckpointError(source, got=f"{module}: magnitude {tuple(magnitude.shape)}", expected=f"({up.shape[0]},)")
        magnitude = magnitude.reshape(-1)
    if "alpha" in found:
        up = up * (found["alpha"].reshape(()) / down.shape[0])
    return LowRank(lora_A=down, lora_B=up, magnitude=magnitude)


def _refusal(tensors: Mapping[str, Tensor], *, source: str, key: str) -> CheckpointError:
    if any(name.endswith((".diff", ".diff_b", ".diff_m")) for name in tensors):
        return CheckpointError(
            source, got=f"an acceleration LoRA ({len(tensors)} tensors)", expected="an adapter of Stage 2", do="use --acceleration_lora"
        )
    found = describe(tensors.keys())
    do = (
        "use --feature_merge_checkpoint or --vae_lora_path"
        if any(word in found for word in ("Stage-1", "decoder LoRA", "merge block"))
        else ""
    )
    return CheckpointError(source, got=f"{found}, with {key}", expected="an adapter of the DiT, <module>.lora_A.default.weight", do=do)
