"""Settings of the stages that train and of the cache between them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wan_alpha.config.common import BaseModelConfig, BaseQuantization, DatasetConfig, RunConfig
from wan_alpha.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig, BaseModelConfig, DatasetConfig):
    """What both training stages share."""

    optimiser: Literal["adamw", "adamw_8bit", "adafactor", "prodigy", "schedule_free"] = "adamw"
    """adamw_8bit, prodigy and schedule_free need pip install 'wan-alpha[optimisers]'."""
    learning_rate: float = 1e-4
    """Peak learning rate; with prodigy a multiple of the rate that it finds, so 1."""
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
    memory_forecast: Literal["log", "none"] = "log"
    """Before training: log what a step will need (a few seconds), warn when the device has less, and on a CPU give freed tensors back
    to the system at once; or none of these."""
    gradient_accumulation_steps: int = 1
    """Forward passes per optimiser step."""
    gradient_checkpointing: bool = False
    """Recompute the activations of each block in the backward pass: less memory, more time. In Stage 1 with whole VAE passes only."""
    warmup_steps: int = 50
    """Steps over which the learning rate rises linearly; constant after."""
    decay: Literal["constant", "cosine"] = "constant"
    """Learning rate after the warm-up."""
    max_grad_norm: float = 1.0
    """Gradient clipping."""
    weight_decay: float = 0.01
    """Weight decay of the optimiser."""
    ema_decay: float | None = None
    """Publish and validate an exponential moving average of the weights with this decay (0.999); None: the weights themselves."""
    save_every_epochs: int = 1
    """Write the stage's own files every N epochs; they are always written at the end."""
    save_every_steps: int = 500
    """Write a resumable state every N steps; one is always written at the end."""
    keep_states: int = 2
    """How many of the last states are kept."""
    tracker: str = "tensorboard"
    """Where numbers go beside metrics.jsonl: tensorboard (OUTPUT_PATH/logs), wandb, trackio or another of accelerate's, or none."""
    log_every_steps: int = 10
    """Fetch the numbers of every step from the device, log them and check the gradients, every N steps."""
    validate_every_steps: int | None = None
    """Measure the loss on fixed samples every N steps and at the end, and keep the best files; None: never."""
    resume: str | None = None
    """'latest', or a state folder of an earlier run with the same settings."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise UsageError("--ema_decay", got=self.ema_decay, expected="above 0 and below 1")


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
    feature_draws: int | None = None
    """Keep the encoder's features of this many draws (window, crop, background) of every clip in OUTPUT_PATH/features, so that the
    encoder runs in the first epochs only; None: a new draw in every epoch, always encoded."""
    buckets: Literal["none", "aspect", "aspect+length"] = "none"
    """Every clip at the configured size, or at the legal shape nearest its own within that area (and length); batches never mix."""
    validation_base_path: Path | None = None
    """Prepared dataset to validate on, every --validate_every_steps, always with the same crops and colours."""
    validation_clips: int | None = None
    """Only the first N clips of it; without --validation_base_path the dataset's first N clips, which are then held out of training."""
    bidirectional: Literal["none", "ours", "reference"] = "none"
    """v2's loss through a frozen transformer that judges the latents; reference is the released form, whose negative half is dead."""
    bidirectional_weight: float = 0.1
    """Weight of the bidirectional loss in the total."""
    judge_model: str | None = None
    """Base model whose transformer judges: 'tiny', a folder, or a hub id, as --model; default: the base itself."""
    max_sequence_length: int = 512
    """Text tokens of the judge's empty prompt."""
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

    @property
    def piecewise(self) -> bool:
        """Whether the VAE runs a latent frame at a time, in training only where that is asked for."""
        return self.vae_passes in ("chunked", "tiled")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.feature_draws is not None and self.feature_draws < 1:
            raise UsageError("--feature_draws", got=self.feature_draws, expected="1 or more, or none given")
        if self.gradient_checkpointing and self.piecewise:
            raise UsageError(
                "--gradient_checkpointing",
                got=f"--vae_passes {self.vae_passes}, whose blocks cannot be recomputed",
                expected="--vae_passes whole (auto, in training)",
                do="take --vae_passes whole, or leave --gradient_checkpointing off",
            )


@dataclass(frozen=True, kw_only=True)
class CacheConfig(RunConfig, BaseModelConfig, DatasetConfig):
    """cache: normalised RGBA latents, masks and text embeddings of a dataset, with a fingerprint."""

    draws: int = 4
    """Background colours drawn per clip; each gives one latent."""
    buckets: Literal["none", "aspect", "aspect+length"] = "none"
    """Sizes: all clips at HEIGHT x WIDTH x NUM_FRAMES, or each near its own aspect (and length) within that area and length."""
    clips_per_shard: int = 8
    """Clips in one file; an interrupted run goes on with the first unfinished file."""
    max_sequence_length: int = 512
    """Text tokens; stored, and used by every later stage."""
    data_file_keys: str = "video"
    """Column of the table that names the clip (the seed's flag)."""


@dataclass(frozen=True, kw_only=True)
class TrainDitConfig(TrainConfig):
    """train-dit, Stage 2: an adapter on the frozen diffusion transformer, rectified flow."""

    cache_path: Path | None = None
    """Folder that `wan-alpha cache` wrote; None: OUTPUT_PATH/cache, made from the dataset."""
    draws: int = 4
    """Background colours per clip when the cache is made here; another value than an older cache has is refused."""
    max_sequence_length: int = 512
    """Text tokens when the cache is made here, or with --on_the_fly; another value than an older cache has is refused."""
    adapter: Literal["dora", "lora"] = "dora"
    """DoRA (the paper) or plain LoRA."""
    dora_rank: int = 32
    """Rank of the adapter; its alpha equals it (scale 1)."""
    noise_shift: float = 0.05
    """Mean shift mu of the noise outside the subject's ellipse (v2); 0 is v1."""
    sigma_density: Literal["uniform", "logit_normal", "table", "reference"] = "uniform"
    """Density of noise levels before the shift; table is the published 1000-step table, reference the table with its bfloat16 rounding."""
    sigma_shift: float = 5.0
    """Shift s of the noise levels: s x / (1 + (s - 1) x)."""
    loss_weighting: Literal["none", "bsmntw"] = "none"
    """Weight of the loss per noise level; bsmntw is the published bell curve."""
    base_quantization: BaseQuantization = "none"
    """Frozen block weights in 8 bits (int8, fp8: torchao) or 4 (nf4: bitsandbytes), from pip install 'wan-alpha[quantized]'."""
    offload_activations: bool = False
    """Keep the inputs of checkpointed blocks in the machine's memory until the backward pass; with --gradient_checkpointing."""
    on_the_fly: bool = False
    """Train without a cache: clips are encoded at every step, each time with a new window and colour; needs the merge block."""
    buckets: Literal["none", "aspect", "aspect+length"] = "none"
    """Sizes of clips that are cached or encoded here: all at the configured size, or each near its own shape; batches never mix."""
    validation_cache_path: Path | None = None
    """Cache to validate on, every --validate_every_steps: the loss at fixed noise levels 0.1 ... 0.9 with fixed noise."""
    validation_clips: int | None = None
    """Without --validation_cache_path: hold the first N clips out of training and validate on them."""
    preview_clips: int | None = None
    """At each validation, generate the first N captions at fixed seeds; needs the decoders (--vae_lora_path or a Stage-1 file)."""
    num_inference_steps: int = 20
    """Sampling steps of previews."""
    guidance_scale: float = 1.0
    """Classifier-free guidance of previews; 1 skips the negative pass."""
    caption_dropout: float = 0.0
    """Share of samples trained with the empty prompt."""
    data_file_keys: str = "video"
    """Column of the table that names the clip (the seed's flag)."""
    remove_prefix_in_ckpt: str | None = "pipe.dit."
    """Prefix stripped from the adapter's keys; they have none here, so the seed's flag changes nothing."""
