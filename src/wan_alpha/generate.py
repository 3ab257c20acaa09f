"""generate: prompts to RGBA clips, as straight PNG frames with a preview and a record of everything that made them."""

import json
import logging
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from wan_alpha.assemble import ellipse, ellipse_settings, home_of_models, load_pipeline, sampling_settings, weight_files
from wan_alpha.checkpoints.files import sha256
from wan_alpha.config import MAX_SEED, GenerateConfig
from wan_alpha.data.prompt_list import PromptLine, read_prompt_file
from wan_alpha.device import choose_device
from wan_alpha.errors import UsageError
from wan_alpha.geometry import ClipSize
from wan_alpha.media.atomic import beside
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.left_out import GENERATED_PREVIEW
from wan_alpha.media.write import write_png_sequence
from wan_alpha.memory import out_of_memory_named
from wan_alpha.metrics.transparency import transparency_statistics
from wan_alpha.models.quantise import quantise
from wan_alpha.pipeline import RgbaClips
from wan_alpha.preview import write_sheet
from wan_alpha.progress import progress
from wan_alpha.prompts import prompt_problems, suggested_prompt
from wan_alpha.rgba import to_uint8
from wan_alpha.run_record import now, plain, write_run_record

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


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where a clip goes, and what it is to be made from."""

    frames: Path
    record: dict[str, object]
    """All that shapes the clip; two clips with equal records are equal."""

    @property
    def preview(self) -> Path:
        return self.frames.with_name(self.frames.name + GENERATED_PREVIEW)

    @property
    def sidecar(self) -> Path:
        return self.frames.with_name(self.frames.name + ".json")


def generate(config: GenerateConfig) -> list[GeneratedClip]:
    """Generate one clip per prompt, with its own seed or config.seed + its number.

    Writes OUTPUT/NNN_words/ (PNG frames), NNN_words_preview.png (checkerboard, black, white, alpha), NNN_words.json and run.json.
    Finished clips of an earlier run with the same record are kept (config.on_existing), so an interrupted batch goes on.
    Raises UsageError with the next setting to change when memory runs out.
    """
    with out_of_memory_named(config):
        return _generate(config)


def _generate(config: GenerateConfig) -> list[GeneratedClip]:
    lines, started = read_prompts(config), now()
    size = ClipSize(num_frames=config.num_frames, height=config.height, width=config.width)
    gaussian, weights = ellipse(config), weight_files(config)
    with out_of_memory_named(config, during="loading"):
        pipeline = load_pipeline(config)
        settings = sampling_settings(config, pipeline)
        if config.save_pipeline is not None:
            pipeline.save_pretrained(config.save_pipeline)
        quantise(pipeline.transformer, to=config.base_quantization, device=home_of_models(config, device=choose_device(config.device)))
    hashes = {role: sha256(path) for role, path in weights.items()}
    shared = {**_shared_record(config), "sampling": asdict(settings), "weights": hashes}
    clips = []
    with progress("generating", total=len(lines) * config.num_inference_steps) as advance:
        for i, line in enumerate(lines):
            seed = (config.seed + i) % (MAX_SEED + 1) if line.seed is None else line.seed
            negative = config.negative_prompt if line.negative_prompt is None else line.negative_prompt
            target = _target(config, i, {"prompt": line.prompt, "negative_prompt": negative, "seed": seed, **shared})
            if (kept := _finished(config, target)) is not None:
                log.info("%s is there already", target.frames)
                clips.append(kept)
                continue
            clip = pipeline(
                [line.prompt],
                seeds=[seed],
                size=size,
                settings=settings,
                negative_prompt=negative,
                gaussian=gaussian,
                on_step=lambda step, latents: advance(),
            )
            clips.append(_write(config, target, clip))
    write_run_record(config.output_path, verb="generate", config=config, weights=weights, started=started)
    return clips


def read_prompts(config: GenerateConfig) -> list[PromptLine]:
    """Prompts of the command line, then those of the file; one that leaves Wan-Alpha's form is warned about."""
    lines = [PromptLine(prompt=prompt) for prompt in config.prompt]
    lines += read_prompt_file(config.prompt_file) if config.prompt_file is not None else []
    if not lines:
        raise UsageError(
            "generate", got="no prompt", expected="one or more", do="add --prompt 'A red disc. The background is transparent.'"
        )
    for line in lines:
        if problems := prompt_problems(line.prompt):
            log.warning("prompt %r %s; try: %s", line.prompt, " and ".join(problems), suggested_prompt(line.prompt))
    return lines


def _shared_record(config: GenerateConfig) -> dict[str, object]:
    """What shapes every clip of a run beside its weights and sampling settings."""
    names = ("num_frames", "height", "width", "fps", "adapter_strength", "merge_order", "precision", "vae_passes", "base_quantization")
    return {
        **{name: getattr(config, name) for name in names},
        "alpha": "straight",
        "model": config.model_id_with_origin_paths or config.model,
        "ellipse": ellipse_settings(config),
    }


def _target(config: GenerateConfig, number: int, record: dict[str, object]) -> Target:
    words = "_".join(re.findall(r"[a-z0-9]+", str(record["prompt"]).lower())[:6]) or "clip"
    return Target(frames=config.output_path / f"{number:03d}_{words}", record=json.loads(json.dumps(plain(record))))


def _finished(config: GenerateConfig, target: Target) -> GeneratedClip | None:
    """The clip of an earlier run when it is whole and was made from the same record. The sidecar is written last."""
    if config.on_existing == "replace" or not target.sidecar.is_file() or not target.frames.is_dir():
        return None
    found = json.loads(target.sidecar.read_text(encoding="utf-8"))
    statistics = found.pop("transparency", None)
    whole = len(list(target.frames.glob("*.png"))) == config.num_frames and target.preview.is_file() and statistics is not None
    return _generated(target, statistics) if whole and found == target.record else None


def _write(config: GenerateConfig, target: Target, clips: RgbaClips) -> GeneratedClip:
    """Frames, preview, sidecar; every picture carries the record as text."""
    rgb, alpha, record = clips.rgb[0], clips.alpha[0], json.dumps(target.record, ensure_ascii=False)
    statistics = transparency_statistics(clips.alpha)
    target.sidecar.unlink(missing_ok=True)
    target.frames.parent.mkdir(parents=True, exist_ok=True)
    clip = RgbaClip(rgb=to_uint8(rgb).permute(1, 2, 3, 0).numpy(), alpha=to_uint8(alpha)[0].numpy(), fps=config.fps, record=record)
    write_png_sequence(clip, target.frames)
    write_sheet([(rgb, alpha)], target.preview, record=record)
    with beside(target.sidecar) as partial:
        partial.write_text(json.dumps({**target.record, "transparency": statistics}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return _generated(target, statistics)


def _generated(target: Target, statistics: dict[str, float]) -> GeneratedClip:
    prompt, seed = str(target.record["prompt"]), int(str(target.record["seed"]))
    return GeneratedClip(frames=target.frames, preview=target.preview, prompt=prompt, seed=seed, transparency=statistics)
