"""Settings of the stages that use trained models."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wan_alpha.config.common import BaseModelConfig, DatasetConfig, RunConfig


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
