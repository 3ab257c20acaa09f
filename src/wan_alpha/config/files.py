"""Settings of the tools for files of weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wan_alpha.config.common import BaseSourceConfig, Device, VerbConfig

Layout = Literal["merge-block", "decoder-lora", "stage1", "adapter", "lora", "merged", "diffusers", "comfyui"]
LAYOUTS: dict[Layout, str] = {
    "merge-block": "feature_merge_epoch_N.safetensors: the merge block alone",
    "decoder-lora": "decoder.bin: the LoRA of both decoders alone",
    "stage1": "the full Stage-1 checkpoint: merge block and decoder LoRA",
    "adapter": "epoch-N.safetensors: the Stage-2 adapter in the published names",
    "lora": "a plain LoRA of rank R: the best one for what the adapter does to the weights, with its residual",
    "merged": "the whole transformer with the adapter in its weights, under Wan's original names",
    "diffusers": "a folder for diffusers and PEFT: adapter, or base VAE with what Stage 1 trained, or both",
    "comfyui": "a folder for ComfyUI: adapter, or two VAE files with the decoder LoRA merged, or both, and a workflow",
}


@dataclass(frozen=True, kw_only=True)
class ConvertConfig(VerbConfig, BaseSourceConfig):
    """convert: files of weights from one layout to another; what a layout has no place for is listed."""

    source: tuple[Path, ...] = ()
    """Files or folders in any layout; several are taken together (a merge block and decoder.bin make a Stage-1 checkpoint)."""
    to: str | None = None
    """merge-block, decoder-lora, stage1, adapter, lora, merged, diffusers or comfyui; docs/guide.md has the table."""
    output_path: Path = Path("outputs/converted")
    """A file (.safetensors, or .bin for a decoder LoRA), or a folder for files under their usual names."""
    dtype: Literal["keep", "float32", "bfloat16", "float16"] = "keep"
    """Type of the written numbers; keep: as they come, which for merged weights is the base's type."""
    rank: int | None = None
    """Of the low-rank factors; default: the source's. Smaller ones are the best of their rank, by singular values."""
    max_residual: float = 0.1
    """Refuse low-rank factors that miss more than this share of the change they stand for (Frobenius norm)."""
    adapter_strength: float = 1.0
    """Of the adapter in lora and merged: 0 is the base, 1 the adapter."""
    acceleration_lora: Path | None = None
    """Few-step LoRA to merge too (lora, merged), or to name in the workflow (comfyui)."""
    order: Literal["adapter-first", "acceleration-first"] = "adapter-first"
    """Which of the two is merged first; DoRA's norm makes it matter. ComfyUI's published workflow is acceleration-first."""
    comfyui_norm: Literal["adapted", "base"] = "adapted"
    """What your ComfyUI divides DoRA by: the adapted weight's norm, or (2025's versions) the base's, which needs --model."""
    max_shard_gib: float | None = None
    """Cut a merged transformer into shards of at most this size, with an index; default: one file."""
    device: Device = "auto"
    """Where large weights are merged and factorised; auto takes cuda, then mps, then cpu."""


@dataclass(frozen=True, kw_only=True)
class InspectConfig(VerbConfig):
    """inspect: what a file or folder of weights is, and what is wrong with it."""

    source: tuple[Path, ...] = ()
    """Files or folders of weights."""
    depth: Literal["auto", "headers", "full"] = "auto"
    """headers: names, shapes and types; full: also SHA-256 and a search for NaN; auto: full up to 2 GiB."""
