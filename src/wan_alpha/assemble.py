"""From a GenerateConfig to what the pipeline takes: the models with everything merged, the sampling settings, the ellipse."""

import hashlib
import json
from dataclasses import fields
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import WanTransformer3DModel
from jaxtyping import Float
from torch import Tensor

from wan_alpha.checkpoints.adapter import Adapter, read_adapter
from wan_alpha.checkpoints.files import read_tensors
from wan_alpha.config import GenerateConfig
from wan_alpha.data.clips import back_and_forth
from wan_alpha.device import choose_device, frozen_dtype
from wan_alpha.encoding import load_rgba_vae, loaded_weights
from wan_alpha.errors import MediaError, UsageError
from wan_alpha.geometry import ClipSize
from wan_alpha.media.read import read_matte, read_rgba
from wan_alpha.models.load import load_text_encoder, load_transformer, resolve_base
from wan_alpha.models.merge import merge_acceleration_lora, merge_adapter
from wan_alpha.models.quantise import where_to_load
from wan_alpha.objectives.transparency import gaussian_ellipse, gaussian_from_ellipse
from wan_alpha.pipeline import SamplingSettings, WanAlphaPipeline


def load_pipeline(config: GenerateConfig) -> WanAlphaPipeline:
    """The models of a config on their device: from one folder that `save_pretrained` wrote, or from their published files.

    Files: the base, then the adapter and the acceleration LoRA merged in float32 in the config's order, and both decoders with
    their LoRA merged. With offload "model", each model waits in the CPU's memory until it is needed. A transformer that is to be
    quantised waits there too: `quantise` brings it to `home_of_models`.
    """
    device = choose_device(config.device)
    start = home_of_models(config, device=device)
    if config.offload == "model" and device.type == "cpu":
        raise UsageError("--offload model", got="a CPU", expected="an accelerator to offload from", do="leave --offload out")
    dtype = frozen_dtype(config.precision, device=device)
    folder = pipeline_folder(config)
    pipeline = _from_files(config, dtype=dtype, device=start) if folder is None else _from_folder(config, folder, dtype=dtype, device=start)
    if config.offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    return pipeline


def home_of_models(config: GenerateConfig, *, device: torch.device) -> torch.device:
    """Where models are while they do not work: on the DEVICE that they work on, or with offload "model" in the CPU's memory."""
    return torch.device("cpu") if config.offload == "model" else device


def pipeline_folder(config: GenerateConfig) -> Path | None:
    """config.model as the folder of a whole pipeline; None when it is a base model."""
    folders = (Path(config.model).expanduser(), config.models_folder / config.model)
    return next((folder for folder in folders if _names_pipeline(folder / "model_index.json")), None)


def _names_pipeline(index: Path) -> bool:
    """Whether this model_index.json is one of `WanAlphaPipeline.save_pretrained`; `convert --to diffusers` writes one of a base."""
    try:
        found = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("_class_name") == WanAlphaPipeline.__name__


def weight_files(config: GenerateConfig) -> dict[str, Path]:
    """Role -> file of everything that `load_pipeline` reads weights from."""
    folder = pipeline_folder(config)
    if folder is None:
        return loaded_weights(config, "transformer", "text_encoder", "vae")
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*.safetensors"))}
    return {**files, **({"acceleration_lora": config.acceleration_lora} if config.acceleration_lora else {})}


def sampling_settings(config: GenerateConfig, pipeline: WanAlphaPipeline) -> SamplingSettings:
    """The config's sampling fields; noise shift and text length that it leaves open are those of the adapter's training."""
    return pipeline.complete(SamplingSettings(**{field.name: getattr(config, field.name) for field in fields(SamplingSettings)}))


def ellipse(config: GenerateConfig) -> Float[Tensor, "t h w"]:
    """Where the subject should be: the ellipses of a clip's alpha, or one by centre, axes, angle and path."""
    size = ClipSize(num_frames=config.num_frames, height=config.height, width=config.width)
    if config.ellipse_from is not None:
        return gaussian_ellipse(_alpha(config.ellipse_from, size))[0]
    return gaussian_from_ellipse(
        centre=config.ellipse_centre,
        axes=config.ellipse_axes,
        angle=config.ellipse_angle,
        path=config.ellipse_path,
        shape=size.latent_shape,
    )


def ellipse_settings(config: GenerateConfig) -> dict[str, object]:
    """What shaped the ellipse, for the record: numbers, or the clip's hash."""
    if config.ellipse_from is None:
        return {name: getattr(config, f"ellipse_{name}") for name in ("centre", "axes", "angle", "path")}
    matte = read_matte_clip(config.ellipse_from)
    return {"from": config.ellipse_from.name, "sha256": hashlib.sha256(matte.numpy().tobytes()).hexdigest()}


def read_matte_clip(path: Path) -> Float[Tensor, "T H W"]:
    """Alpha in [0, 1] of an RGBA clip; a file without alpha counts as a matte."""
    try:
        alpha = read_rgba(path).alpha
    except MediaError as error:
        if "no alpha channel" not in str(error):
            raise
        alpha, _ = read_matte(path)
    return torch.from_numpy(alpha).float() / 255


def _alpha(path: Path, size: ClipSize) -> Float[Tensor, "1 1 T H W"]:
    """The matte stretched to the frame, its first frames; a shorter one plays forth and back."""
    matte = read_matte_clip(path)
    stretched = F.interpolate(matte[:, None], size=(size.height, size.width), mode="bilinear", align_corners=False, antialias=True)
    order = back_and_forth(min(len(matte), size.num_frames), num_frames=size.num_frames)
    return stretched[order, 0].clamp(0, 1)[None, None]


def _from_files(config: GenerateConfig, *, dtype: torch.dtype, device: torch.device) -> WanAlphaPipeline:
    source = resolve_base(config)
    adapter = read_adapter(config.adapter_path) if config.adapter_path else None
    rgba_vae = load_rgba_vae(config, device=device, needs=("decoders",))
    rgba_vae.merge_decoder_lora()
    transformer = load_transformer(source, dtype=dtype, device=where_to_load(device, to=config.base_quantization))
    _merge(config, transformer, adapter)
    encoder, tokenizer = load_text_encoder(source, dtype=dtype, device=device)
    return WanAlphaPipeline(
        transformer=transformer,
        text_encoder=encoder,
        tokenizer=tokenizer,
        rgba_vae=rgba_vae,
        noise_shift=adapter.noise_shift if adapter else None,
        max_sequence_length=adapter.max_sequence_length if adapter else None,
        acceleration_lora=config.acceleration_lora.name if config.acceleration_lora else None,
    )


def _merge(config: GenerateConfig, transformer: WanTransformer3DModel, adapter: Adapter | None) -> None:
    """Both merges in the config's order; they do not commute, since a DoRA's norms are those of what it is merged into."""

    def accelerate() -> None:
        if config.acceleration_lora is not None:
            merge_acceleration_lora(transformer, read_tensors(config.acceleration_lora), source=str(config.acceleration_lora))

    if config.merge_order == "acceleration_first":
        accelerate()
    if adapter is not None:
        merge_adapter(transformer, adapter, strength=config.adapter_strength)
    if config.merge_order == "adapter_first":
        accelerate()


def _from_folder(config: GenerateConfig, folder: Path, *, dtype: torch.dtype, device: torch.device) -> WanAlphaPipeline:
    parts = ("adapter_path", "vae_lora_path", "feature_merge_checkpoint", "base_vae_path")
    given = [name for name in parts if getattr(config, name) is not None]
    if given:
        raise UsageError(
            f"--{given[0]}", got=f"{folder}, a folder of a whole pipeline, beside it", do=f"leave out --{' and --'.join(given)}"
        )
    if config.adapter_strength != 1 or config.merge_order != "adapter_first":
        raise UsageError(
            "--adapter_strength and --merge_order",
            got=f"{folder}, whose adapter is merged already",
            expected="1 and adapter_first",
            do="give the base and --adapter_path instead of the folder",
        )
    dtypes = {"default": dtype, "rgba_vae": torch.float32}
    pipeline = WanAlphaPipeline.from_pretrained(folder, dtype=dtypes, local_files_only=True)
    pipeline.rgba_vae.to(device).passes = config.vae_passes
    places = {pipeline.text_encoder: device, pipeline.transformer: where_to_load(device, to=config.base_quantization)}
    for model, place in places.items():
        model.to(place).eval().requires_grad_(False)
    merged = pipeline.config.acceleration_lora
    if merged and config.acceleration_lora:
        raise UsageError("--acceleration_lora", got=f"{folder}, into which {merged} is merged already", do="leave it out")
    if config.acceleration_lora:
        _merge(config, pipeline.transformer, None)
        pipeline.register_to_config(acceleration_lora=config.acceleration_lora.name)
    return pipeline
