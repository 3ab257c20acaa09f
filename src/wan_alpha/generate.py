"""generate: prompts to RGBA clips, as straight PNG frames with a preview and a record of everything that made them."""

import json
import logging
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from wan_alpha.checkpoints.adapter import Adapter, read_adapter
from wan_alpha.checkpoints.files import read_tensors, sha256
from wan_alpha.config import GenerateConfig
from wan_alpha.device import choose_device, frozen_dtype
from wan_alpha.encoding import load_rgba_vae, loaded_weights
from wan_alpha.errors import UsageError
from wan_alpha.geometry import ClipSize
from wan_alpha.media.atomic import beside
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.write import write_png, write_png_sequence
from wan_alpha.metrics.transparency import transparency_statistics
from wan_alpha.models.load import load_text_encoder, load_transformer, resolve_base
from wan_alpha.models.merge import merge_acceleration_lora, merge_adapter
from wan_alpha.objectives.transparency import gaussian_from_ellipse
from wan_alpha.pipeline import RgbaClips, SamplingSettings, WanAlphaPipeline
from wan_alpha.preview import contact_sheet
from wan_alpha.progress import progress
from wan_alpha.prompts import prompt_problems, suggested_prompt
from wan_alpha.rgba import to_uint8
from wan_alpha.run_record import now, write_run_record

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class GeneratedClip:
    """One clip on disk, and what its alpha looks like."""

    frames: Path
    preview: Path
    prompt: str
    seed: int
    transparency: dict[str, float]

    def summary(self) -> str:
        numbers = ", ".join(f"{name} {value:.3f}" for name, value in self.transparency.items())
        return f"{self.frames}  ({numbers})  preview: {self.preview}"


def generate(config: GenerateConfig) -> list[GeneratedClip]:
    """Generate one clip per prompt, with seeds config.seed, config.seed + 1, ...

    Writes OUTPUT/NNN_words/ (PNG frames), NNN_words_preview.png (checkerboard, black, white, alpha), NNN_words.json and run.json.
    """
    prompts, started = read_prompts(config), now()
    size = ClipSize(num_frames=config.num_frames, height=config.height, width=config.width)
    adapter = read_adapter(config.adapter_path) if config.adapter_path else None
    settings = sampling_settings(config, adapter)
    pipeline = load_pipeline(config, adapter=adapter)
    ellipse = gaussian_from_ellipse(
        centre=config.ellipse_centre, axes=config.ellipse_axes, angle=config.ellipse_angle, shape=size.latent_shape
    )
    weights = loaded_weights(config, "transformer", "text_encoder", "vae")
    hashes = {role: sha256(path) for role, path in weights.items()}
    clips = []
    with progress("generating", total=len(prompts) * config.num_inference_steps) as advance:
        for i, prompt in enumerate(prompts):
            seed = config.seed + i
            result = pipeline(
                [prompt],
                seeds=[seed],
                size=size,
                settings=settings,
                negative_prompt=config.negative_prompt,
                gaussian=ellipse,
                on_step=lambda step, latents: advance(),
            )
            clips.append(_write(config, result, prompt=prompt, seed=seed, index=i, settings=settings, hashes=hashes))
    write_run_record(config.output_path, verb="generate", config=config, weights=weights, started=started)
    return clips


def read_prompts(config: GenerateConfig) -> list[str]:
    """Prompts of the command line, then those of the file, one per line; blank lines are skipped."""
    prompts = list(config.prompt)
    if config.prompt_file is not None:
        if not config.prompt_file.is_file():
            raise UsageError(f"--prompt_file {config.prompt_file}", got="no such file", expected="a text file, one prompt per line")
        prompts += [line.strip() for line in config.prompt_file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not prompts:
        raise UsageError(
            "generate", got="no prompt", expected="one or more", do="add --prompt 'A red disc. The background is transparent.'"
        )
    for prompt in prompts:
        if problems := prompt_problems(prompt):
            log.warning("prompt %r %s; try: %s", prompt, " and ".join(problems), suggested_prompt(prompt))
    return prompts


def sampling_settings(config: GenerateConfig, adapter: Adapter | None) -> SamplingSettings:
    """The config's sampling fields; what the adapter was trained with (noise shift, text length) comes from its metadata."""
    trained_shift, trained_length = (adapter.noise_shift, adapter.max_sequence_length) if adapter else (None, None)
    shift = config.noise_shift if config.noise_shift is not None else trained_shift or 0.0
    length = config.max_sequence_length or trained_length or 512
    if trained_length is not None and length != trained_length:
        raise UsageError("--max_sequence_length", got=length, expected=f"{trained_length}, as the adapter was trained", do="leave it out")
    shared = {f.name: getattr(config, f.name) for f in fields(SamplingSettings)}
    return SamplingSettings(**{**shared, "noise_shift": shift, "max_sequence_length": length})


def load_pipeline(config: GenerateConfig, *, adapter: Adapter | None) -> WanAlphaPipeline:
    """Base, then the adapter merged in float32, then the acceleration LoRA; both decoders with their LoRA merged."""
    device = choose_device(config.device)
    dtype = frozen_dtype(config.precision, device=device)
    source = resolve_base(config)
    rgba_vae = load_rgba_vae(config, device=device, needs=("decoders",))
    rgba_vae.merge_decoder_lora()
    transformer = load_transformer(source, dtype=dtype, device=device)
    if adapter is not None:
        merge_adapter(transformer, adapter, strength=config.adapter_strength)
    if config.acceleration_lora is not None:
        merge_acceleration_lora(transformer, read_tensors(config.acceleration_lora), source=str(config.acceleration_lora))
    encoder, tokenizer = load_text_encoder(source, dtype=dtype, device=device)
    return WanAlphaPipeline(transformer=transformer, text_encoder=encoder, tokenizer=tokenizer, rgba_vae=rgba_vae)


def _write(
    config: GenerateConfig, clips: RgbaClips, *, prompt: str, seed: int, index: int, settings: SamplingSettings, hashes: dict[str, str]
) -> GeneratedClip:
    words = "_".join(re.findall(r"[a-z0-9]+", prompt.lower())[:6]) or "clip"
    frames = config.output_path / f"{index:03d}_{words}"
    preview, sidecar = frames.with_name(frames.name + "_preview.png"), frames.with_name(frames.name + ".json")
    rgb, alpha = clips.rgb[0], clips.alpha[0]
    frames.parent.mkdir(parents=True, exist_ok=True)
    clip = RgbaClip(rgb=to_uint8(rgb).permute(1, 2, 3, 0).numpy(), alpha=to_uint8(alpha)[0].numpy(), fps=config.fps)
    write_png_sequence(clip, frames)
    write_png(to_uint8(contact_sheet([(rgb, alpha)])).permute(1, 2, 0).numpy(), preview)
    statistics = transparency_statistics(clips.alpha)
    record = {
        "prompt": prompt,
        "negative_prompt": config.negative_prompt,
        "seed": seed,
        "fps": config.fps,
        "alpha": "straight",
        "model": config.model_id_with_origin_paths or config.model,
        "adapter_strength": config.adapter_strength,
        "sampling": asdict(settings),
        "weights": hashes,
        "transparency": statistics,
    }
    with beside(sidecar) as partial:
        partial.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return GeneratedClip(frames=frames, preview=preview, prompt=prompt, seed=seed, transparency=statistics)
