"""What several stages share: device and seed, the base model, the dataset, and bounds on numbers."""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from wan_alpha.errors import UsageError
from wan_alpha.limits import MAX_SIDE

Device = Literal["auto", "cuda", "mps", "cpu"]
Precision = Literal["auto", "float32", "bfloat16"]
BaseQuantization = Literal["none", "int8", "fp8", "nf4"]

MAX_SEED = 2**64 - 1
"""The largest that torch's generators take."""
ABOVE_ZERO, NO_END = 1e-12, math.inf
BOUNDS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("batch_size", "gradient_accumulation_steps", "save_every_steps", "save_every_epochs", "dataset_repeat"), (1, NO_END)),
    **dict.fromkeys(("validate_every_steps", "log_every_steps", "keep_states"), (1, NO_END)),
    **dict.fromkeys(("num_epochs", "max_steps", "draws", "dora_rank", "decoder_lora_rank"), (1, NO_END)),
    **dict.fromkeys(("max_clips", "clips_per_shard"), (1, NO_END)),
    "max_sequence_length": (1, 65_536),
    **dict.fromkeys(("validation_clips", "preview_every_steps", "preview_clips"), (1, NO_END)),
    "seed": (0, MAX_SEED),
    "warmup_steps": (0, NO_END),
    "num_workers": (0, 1024),
    "num_inference_steps": (0, 10_000),
    "synthetic": (0, 1_000_000),
    **dict.fromkeys(("weight_decay", "noise_shift", "hard_threshold", "caption_dropout", "bidirectional_weight"), (0.0, NO_END)),
    **dict.fromkeys(("learning_rate", "decoder_learning_rate", "max_grad_norm", "sigma_shift"), (ABOVE_ZERO, NO_END)),
    "caption_retries": (0, 1000),
    "caption_timeout_s": (ABOVE_ZERO, 100_000.0),
    **dict.fromkeys(("fps", "source_fps"), (0.01, 10_000.0)),
    "rank": (1, NO_END),
    "max_residual": (0.0, NO_END),
    "max_shard_gib": (ABOVE_ZERO, NO_END),
    "max_scale": (1.0, NO_END),
    **dict.fromkeys(("frames", "max_rows"), (1, 1000)),
    "max_side": (16, MAX_SIDE),
    "webp_quality": (0, 100),
}
"""Smallest and largest value of settings that a number can make meaningless, or too much for a machine; None is always allowed where the
type allows it."""


@dataclass(frozen=True, kw_only=True)
class VerbConfig:
    """What every verb's configuration is: finite numbers, within their bounds."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            numbers = value if isinstance(value, tuple) else (value,)
            if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
                raise UsageError(f"--{field.name}", got=value, expected="a finite number")
        for name, (least, most) in BOUNDS.items():
            value = getattr(self, name, None)
            if value is not None and not least <= value <= most:
                lower = "above 0" if least == ABOVE_ZERO else f"at least {least:g}"
                upper = f"at most {most:g}" if isinstance(most, float) else f"at most {most}"
                raise UsageError(f"--{name}", got=value, expected=lower if value < least else upper)


@dataclass(frozen=True, kw_only=True)
class RunConfig(VerbConfig):
    """What every stage has."""

    output_path: Path = Path("outputs")
    """Folder for what the stage writes; made when missing."""
    device: Device = "auto"
    """auto takes cuda, then mps, then cpu."""
    seed: int = 0
    """Every random draw follows from it."""


@dataclass(frozen=True, kw_only=True)
class ReadConfig:
    """How source clips are read."""

    source_alpha: Literal["file", "detect", "straight", "premultiplied"] = "file"
    """Colour of the source: what its file says (untagged: straight, EXR: premultiplied), judged by its pixels, or your word."""
    matrix: Literal["file", "bt601", "bt709", "bt2020nc"] = "file"
    """Matrix of YUV colour: what its file says (untagged: bt601), or your word for untagged files; a tagged file keeps its tag."""


@dataclass(frozen=True, kw_only=True)
class ClipConfig(ReadConfig):
    """How source clips become clips of one constant rate."""

    variable_rate: Literal["hold", "mean"] = "hold"
    """A source of variable frame rate: frames are held on a constant grid, or each is kept once at the mean rate."""


@dataclass(frozen=True, kw_only=True)
class BaseSourceConfig:
    """Which base model."""

    model: str = "tiny"
    """Base model: 'tiny' (ships with the package), a diffusers folder, a folder with Wan's original files, or a hub id."""
    model_id_with_origin_paths: str | None = None
    """Original files as 'ID:PATTERN,ID:PATTERN', looked up under --models_folder, then on the hub."""
    models_folder: Path = Path("models")
    """Where original files are looked up: MODELS_FOLDER/ID/PATTERN."""
    base_vae_path: Path | None = None
    """Base VAE in place of the model's own: Wan2.1_VAE.pth, safetensors, or a diffusers vae folder."""


@dataclass(frozen=True, kw_only=True)
class BaseModelConfig(BaseSourceConfig):
    """Which base model, and which published parts replace its own."""

    vae_lora_path: Path | None = None
    """Decoder LoRA: decoder.bin, Wan-Alpha-VAE.bin, or a Stage-1 checkpoint of ours."""
    feature_merge_checkpoint: Path | None = None
    """Merge block: feature_merge_epoch_N.safetensors, Wan-Alpha-VAE.bin, or a Stage-1 checkpoint of ours."""
    hard_threshold: float = 8 / 255
    """Alpha above it counts as opaque wherever clips are hard-rendered (Eq. 2); 0 is the published rule."""
    vae_passes: Literal["auto", "whole", "chunked", "tiled"] = "auto"
    """The VAE over the whole clip, a latent frame at a time, or decoding in tiles too: equal, each needs less memory. auto: by size."""
    precision: Precision = "auto"
    """Of the frozen transformer and text encoder, and of Stage 1's steps: auto is bfloat16 where it is fast, else float32."""


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """A prepared dataset and the size at which it is used."""

    dataset_base_path: Path = Path("data/rgba_videos")
    """Folder of the clips; every path in the table stays inside it."""
    dataset_metadata_path: Path | None = None
    """Table of clips (CSV or JSONL); default metadata.csv in the dataset's folder."""
    height: int = 272
    """Frame height in pixels, a multiple of 16."""
    width: int = 272
    """Frame width in pixels, a multiple of 16."""
    num_frames: int = 17
    """Frames per clip, 4n+1; shorter clips are played back and forth."""
    on_bad_sample: Literal["error", "skip"] = "error"
    """A clip that cannot be read: stop with its name, or skip it and list it. A row whose file is missing stops either way."""
