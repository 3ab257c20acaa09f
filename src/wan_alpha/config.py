"""Every knob, as frozen dataclasses without torch. Field comments are the command line's help.

The flag names of the seed's commands (--dataset_base_path, --base_vae_path, --vae_lora_path, ...) are field names here.
A complete configuration comes from a recipe (wan_alpha.recipes); a command line changes single fields of it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wan_alpha.errors import UsageError

Device = Literal["auto", "cuda", "mps", "cpu"]
Precision = Literal["auto", "float32", "bfloat16"]


AT_LEAST: dict[str, float] = {
    **dict.fromkeys(("batch_size", "gradient_accumulation_steps", "save_every_steps", "save_every_epochs", "dataset_repeat"), 1),
    **dict.fromkeys(("num_epochs", "max_steps", "draws", "dora_rank", "decoder_lora_rank", "max_clips", "max_sequence_length"), 1),
    **dict.fromkeys(("seed", "num_workers", "warmup_steps", "synthetic", "num_inference_steps"), 0),
    **dict.fromkeys(("weight_decay", "noise_shift", "hard_threshold", "caption_dropout"), 0.0),
    **dict.fromkeys(("learning_rate", "decoder_learning_rate", "max_grad_norm", "sigma_shift", "fps"), 1e-12),
    "max_scale": 1.0,
}
"""Smallest value of settings that a number can make meaningless; None is always allowed where the type allows it."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What every stage has."""

    output_path: Path = Path("outputs")
    """Folder for what the stage writes; made when missing."""
    device: Device = "auto"
    """auto takes cuda, then mps, then cpu."""
    seed: int = 0
    """Every random draw follows from it."""

    def __post_init__(self) -> None:
        for name, least in AT_LEAST.items():
            value = getattr(self, name, None)
            if value is not None and not value >= least:
                bound = "above 0" if least == 1e-12 else f"at least {least:g}"
                raise UsageError(f"--{name}", got=value, expected=bound)


@dataclass(frozen=True, kw_only=True)
class BaseModelConfig:
    """Which base model, and which published parts replace its own."""

    model: str = "tiny"
    """Base model: 'tiny' (ships with the package), a diffusers folder, a folder with Wan's original files, or a hub id."""
    model_id_with_origin_paths: str | None = None
    """Original files as 'ID:PATTERN,ID:PATTERN', looked up under --models_folder, then on the hub."""
    models_folder: Path = Path("models")
    """Where original files are looked up: MODELS_FOLDER/ID/PATTERN."""
    base_vae_path: Path | None = None
    """Base VAE in place of the model's own: Wan2.1_VAE.pth, safetensors, or a diffusers vae folder."""
    vae_lora_path: Path | None = None
    """Decoder LoRA: decoder.bin, Wan-Alpha-VAE.bin, or a Stage-1 checkpoint of ours."""
    feature_merge_checkpoint: Path | None = None
    """Merge block: feature_merge_epoch_N.safetensors, Wan-Alpha-VAE.bin, or a Stage-1 checkpoint of ours."""
    hard_threshold: float = 8 / 255
    """Alpha above it counts as opaque wherever clips are hard-rendered (Eq. 2); 0 is the published rule."""
    vae_passes: Literal["auto", "whole", "chunked"] = "auto"
    """The VAE over the whole clip at once, or a latent frame at a time: equal, less memory. auto: chunked above 8 million pixels."""
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
    """A clip that cannot be read: stop with its name, or skip it and list it."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig, BaseModelConfig, DatasetConfig):
    """What both training stages share."""

    learning_rate: float = 1e-4
    """Peak learning rate of AdamW."""
    num_epochs: int = 10
    """Passes over the dataset (each clip counts --dataset_repeat times)."""
    max_steps: int | None = None
    """Stop after this many optimiser steps, whatever --num_epochs says."""
    dataset_repeat: int = 1
    """How often each clip counts in one epoch."""
    batch_size: int = 1
    """Clips per forward pass."""
    num_workers: int = 0
    """Processes that make training samples ahead."""
    gradient_accumulation_steps: int = 1
    """Forward passes per optimiser step."""
    warmup_steps: int = 50
    """Steps over which the learning rate rises linearly; constant after."""
    decay: Literal["constant", "cosine"] = "constant"
    """Learning rate after the warm-up."""
    max_grad_norm: float = 1.0
    """Gradient clipping."""
    weight_decay: float = 0.01
    """AdamW's weight decay."""
    save_every_epochs: int = 1
    """Write the stage's own files every N epochs; they are always written at the end."""
    save_every_steps: int = 500
    """Write a resumable state every N steps; one is always written at the end."""
    resume: str | None = None
    """'latest', or a state folder of an earlier run with the same settings."""


@dataclass(frozen=True, kw_only=True)
class PrepareConfig(RunConfig):
    """prepare: any RGBA source to XXX_rgb.mp4 + XXX_alpha.mp4 + metadata.csv."""

    source: Path | None = None
    """Folder of RGBA clips or colour+matte pairs."""
    synthetic: int = 0
    """Make this many procedural clips with exact alpha, alone or beside those of --source."""
    height: int = 64
    """Frame height of procedural clips."""
    width: int = 64
    """Frame width of procedural clips."""
    num_frames: int = 17
    """Frames of procedural clips."""
    fps: float = 16.0
    """Frame rate of procedural clips and of image folders, which have none of their own."""
    split: str | None = None
    """With a manifest.json that has splits in the source folder: only this split (train, validation)."""
    on_bad_sample: Literal["error", "skip"] = "error"
    """A clip that cannot be read: stop with its name, or skip it and list it in the report."""


@dataclass(frozen=True, kw_only=True)
class TrainVaeConfig(TrainConfig):
    """train-vae, Stage 1: merge block and decoder LoRA of the RGBA VAE."""

    mode: Literal["merge", "merge+decoders"] = "merge"
    """What is trained: the merge block with frozen decoders (the seed), or both (the paper)."""
    merge_layout: Literal["feature", "latent"] = "feature"
    """Of a new merge block: on encoder features (released) or on normalised latents (paper v1, Figure 3). A loaded one keeps its own."""
    merge_init: Literal["encoder", "random"] = "encoder"
    """Start of a new merge block: the encoder's own head for colour (feature layout only), or random as published."""
    merge_width: int | None = None
    """Width of the merge block; default: feature width (feature layout), 12 x z (latent layout)."""
    max_scale: float = 2.0
    """Training clips are enlarged by a random factor up to this before the random crop."""
    decoder_lora_rank: int = 128
    """Rank of a new decoder LoRA; a loaded one keeps its own."""
    decoder_learning_rate: float | None = None
    """Peak learning rate of the decoder LoRA; default: --learning_rate. Its scale is 1/rank, so short runs want more."""
    perceptual: Literal["none", "vgg16"] = "vgg16"
    """Perceptual term of Eq. 8."""
    perceptual_weights: Path | None = None
    """vgg16-397923af.pth; default: torch.hub's copy, downloaded when missing."""
    edge_kernel: Literal["central", "sobel"] = "central"
    """Gradient of the edge loss: central differences (published) or Sobel kernels (the paper's wording)."""
    edge_padding: Literal["replicate", "zeros"] = "replicate"
    """Border of the edge loss; zeros is the published rule and makes the border an edge."""


@dataclass(frozen=True, kw_only=True)
class CacheConfig(RunConfig, BaseModelConfig, DatasetConfig):
    """cache: normalised RGBA latents, masks and text embeddings of a dataset, with a fingerprint."""

    draws: int = 4
    """Background colours drawn per clip; each gives one latent."""
    max_sequence_length: int = 512
    """Text tokens; stored, and used by every later stage."""


@dataclass(frozen=True, kw_only=True)
class TrainDitConfig(TrainConfig):
    """train-dit, Stage 2: an adapter on the frozen diffusion transformer, rectified flow."""

    cache_path: Path | None = None
    """Folder that `wan-alpha cache` wrote; None: OUTPUT_PATH/cache, made from the dataset."""
    draws: int = 4
    """Background colours per clip when the cache is made here."""
    max_sequence_length: int = 512
    """Text tokens when the cache is made here."""
    adapter: Literal["dora", "lora"] = "dora"
    """DoRA (the paper) or plain LoRA."""
    dora_rank: int = 32
    """Rank of the adapter; its alpha equals it (scale 1)."""
    noise_shift: float = 0.05
    """Mean shift mu of the noise outside the subject's ellipse (v2); 0 is v1."""
    sigma_density: Literal["uniform", "logit_normal", "table"] = "uniform"
    """Density of noise levels before the shift; table is the published 1000-step table."""
    sigma_shift: float = 5.0
    """Shift s of the noise levels: s x / (1 + (s - 1) x)."""
    loss_weighting: Literal["none", "bsmntw"] = "none"
    """Weight of the loss per noise level; bsmntw is the published bell curve."""
    gradient_checkpointing: bool = False
    """Recompute the transformer's activations in the backward pass: less memory, more time."""
    caption_dropout: float = 0.0
    """Share of samples trained with the empty prompt."""
    data_file_keys: str = "video"
    """Column of the table that names the clip (the seed's flag)."""
    remove_prefix_in_ckpt: str | None = "pipe.dit."
    """Prefix stripped from the adapter's keys; they have none here, so the seed's flag changes nothing."""


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(RunConfig, BaseModelConfig):
    """generate: prompts to RGBA clips."""

    prompt: tuple[str, ...] = ()
    """One or more prompts."""
    prompt_file: Path | None = None
    """Text file with one prompt per line."""
    negative_prompt: str = ""
    """Used when guidance is above 1."""
    adapter_path: Path | None = None
    """epoch-N.safetensors of Stage 2, or the published t2v.safetensors."""
    adapter_strength: float = 1.0
    """0 is the base model, 1 the adapter."""
    acceleration_lora: Path | None = None
    """Few-step LoRA (LightX2V), merged after the adapter."""
    height: int = 480
    """Frame height, a multiple of 16."""
    width: int = 832
    """Frame width, a multiple of 16."""
    num_frames: int = 81
    """Frames, 4n+1."""
    fps: float = 16.0
    """Frame rate of the written files."""
    num_inference_steps: int = 4
    """Sampling steps: 4 with an acceleration LoRA, 20 to 50 without."""
    guidance_scale: float = 1.0
    """Classifier-free guidance; 1 skips the negative pass."""
    sampler: Literal["unipc", "euler"] = "unipc"
    """Solver of the flow."""
    sigmas: Literal["shifted", "reference"] = "shifted"
    """Noise levels: exact, or the published ones with truncated timesteps."""
    sigma_shift: float = 5.0
    """Shift of the sampling noise levels."""
    noise_shift: float | None = None
    """Mean shift of the noise outside the ellipse; default: the value stored in the adapter, else 0."""
    ellipse_centre: tuple[float, float] = (0.5, 0.5)
    """Centre (x, y) of the Gaussian ellipse as fractions of width and height."""
    ellipse_axes: tuple[float, float] = (0.5, 0.5)
    """Full axes of the ellipse as fractions of width and height."""
    ellipse_angle: float = 0.0
    """Angle of the ellipse in degrees."""
    max_sequence_length: int | None = None
    """Text tokens; default: the value stored in the adapter, else 512."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig(RunConfig):
    """export: an RGBA clip to files that keep its alpha, each read back and verified."""

    source: Path = Path("outputs/generated")
    """RGBA clip: a PNG folder, .webp, .mov, .webm; or a folder of such clips."""
    formats: tuple[Literal["png", "webp", "preview", "pair"], ...] = ("png", "webp", "preview", "pair")
    """png: straight RGBA frames; webp: lossless animation; preview: checkerboard mp4; pair: rgb.mp4 + alpha.mp4."""
    fps: float = 16.0
    """Frame rate for sources that have none of their own."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(RunConfig, BaseModelConfig, DatasetConfig):
    """evaluate: reconstruct clips with the RGBA VAE and measure colour and alpha."""

    test_rgb_video: Path | None = None
    """Evaluate one pair instead of the dataset: its colour video."""
    test_alpha_video: Path | None = None
    """Matte of --test_rgb_video."""
    output_prefix: str = "evaluation"
    """Prefix of the written files."""
    max_clips: int | None = None
    """Only the first N clips."""
