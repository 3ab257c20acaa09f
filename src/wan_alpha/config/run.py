"""Settings of the stages that use trained models."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wan_alpha.config.common import BaseModelConfig, BaseQuantization, DatasetConfig, RunConfig


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(RunConfig, BaseModelConfig):
    """generate: prompts to RGBA clips."""

    prompt: tuple[str, ...] = ()
    """One or more prompts."""
    prompt_file: Path | None = None
    """More prompts: .txt with one a line; .csv or .jsonl with prompt and, where wanted, seed and negative_prompt of their own."""
    negative_prompt: str = ""
    """Used when guidance is above 1."""
    on_existing: Literal["keep", "replace"] = "keep"
    """A finished clip of the same prompt, seed, settings and weights in OUTPUT_PATH: keep it, or make it again."""
    adapter_path: Path | None = None
    """epoch-N.safetensors of Stage 2, or the published t2v.safetensors."""
    adapter_strength: float = 1.0
    """0 is the base model, 1 the adapter."""
    acceleration_lora: Path | None = None
    """Few-step LoRA (LightX2V), merged beside the adapter."""
    merge_order: Literal["adapter_first", "acceleration_first"] = "adapter_first"
    """Adapter, then acceleration LoRA (the Python reference); or the other way (ComfyUI's published workflow): other weights."""
    save_pipeline: Path | None = None
    """Also write the assembled models into this folder, which --model takes in place of all their files."""
    offload: Literal["none", "model"] = "none"
    """model: each model comes to the accelerator only while it works; less memory, more time."""
    base_quantization: BaseQuantization = "none"
    """Block weights in 8 bits (int8, fp8: torchao) or 4 (nf4: bitsandbytes), once everything is merged into them."""
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
    ellipse_path: tuple[tuple[float, float], ...] = ()
    """More centres (x, y): the ellipse moves from --ellipse_centre through them in the course of the clip."""
    ellipse_from: Path | None = None
    """Ellipses of an RGBA clip or a matte, frame by frame, in place of the one above."""
    max_sequence_length: int | None = None
    """Text tokens; default: the value stored in the adapter, else 512."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(RunConfig, BaseModelConfig, DatasetConfig):
    """evaluate: reconstruct clips with the RGBA VAE and measure colour and alpha, or measure given predictions."""

    predictions: Path | None = None
    """Folder of RGBA clips, or colour + matte pairs, to measure against the dataset's clips of the same names; no model is loaded."""
    test_rgb_video: Path | None = None
    """Evaluate one pair instead of the dataset: its colour video."""
    test_alpha_video: Path | None = None
    """Matte of --test_rgb_video."""
    output_prefix: str = "evaluation"
    """Prefix of the written files."""
    max_clips: int | None = None
    """Only the first N clips."""
    lpips_weights: Path | None = None
    """Also LPIPS 0.1 on VGG16: its heads, lpips' weights/v0.1/vgg.pth (lin0.model.1.weight to lin4.model.1.weight)."""
    fid_weights: Path | None = None
    """Also fid_vgg16 of the set: torchvision's vgg16-397923af.pth. Not comparable with published rFID, which uses Inception."""
    perceptual_weights: Path | None = None
    """VGG16 below the heads of --lpips_weights: vgg16-397923af.pth; default: --fid_weights, else torch.hub's, downloaded when missing."""
