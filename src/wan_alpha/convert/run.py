"""convert: files of weights from one layout to another. What each layout needs and takes is one table; the writers are beside.

Files are made in a folder beside the output and moved to their places once all are complete.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from wan_alpha.checkpoints.comfyui_workflow import TRANSFORMERS, WorkflowSettings, workflow
from wan_alpha.checkpoints.folders import COMFYUI_WORKFLOW
from wan_alpha.config import LAYOUTS, ConvertConfig, Layout
from wan_alpha.convert import dit, vae
from wan_alpha.convert.job import Job, is_file_name
from wan_alpha.convert.sources import Material, read_sources
from wan_alpha.errors import CheckpointError, UsageError, did_you_mean
from wan_alpha.media.atomic import make_parents, staging

Writer = Callable[[Job], list[str]]
NEEDS: dict[Layout, tuple[tuple[str, ...], ...]] = {
    "merge-block": (("merge block",),),
    "decoder-lora": (("decoder LoRA",), ("VAE pair",)),
    "stage1": (("merge block", "decoder LoRA"), ("merge block", "VAE pair")),
    "adapter": (("adapter",),),
    "lora": (("adapter",), ("transformer",)),
    "merged": (("adapter",), ("transformer",)),
    "diffusers": (("adapter",), ("decoder LoRA",), ("merge block",), ("VAE pair",)),
    "comfyui": (("adapter",), ("decoder LoRA",), ("VAE pair",)),
}
"""Parts that the sources must hold, in alternatives; a part that no alternative names is left out."""
_FILE_LAYOUTS: dict[Layout, Writer] = {
    "merge-block": vae.write_merge_block,
    "decoder-lora": vae.write_decoder_lora,
    "stage1": vae.write_stage1,
    "adapter": dit.write_adapter,
    "lora": dit.write_lora,
    "merged": dit.write_merged,
}


@dataclass(frozen=True, kw_only=True)
class ConvertReport:
    """Files written, remarks (residuals, hashes), and what the layout had no place for."""

    written: tuple[Path, ...]
    notes: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def summary(self) -> list[str]:
        lines = [*(f"wrote {path}" for path in self.written), *self.notes]
        return lines + [f"left out: {part}" for part in self.left_out]


def convert(config: ConvertConfig) -> ConvertReport:
    """Write config.source in the layout config.to. Raises CheckpointError where the sources lack what the layout needs."""
    layout = _layout(config)
    _check_output(config, layout)
    material = read_sources(config.source)
    _check_parts(config, layout, material)
    taken = {part for alternative in NEEDS[layout] for part in alternative}
    left_out = [f"{name} ({count} tensors)" for name, count in material.parts().items() if name not in taken]
    with staging(config.output_path) as folder:
        job = Job(config=config, material=material, folder=folder)
        notes = _FILE_LAYOUTS[layout](job) if layout in _FILE_LAYOUTS else list(_write_folder(job, layout))
        target = config.output_path.parent if is_file_name(config.output_path) else config.output_path
        written = list(_move(folder, target))
    return ConvertReport(written=tuple(written), notes=tuple(notes), left_out=(*left_out, *material.unused))


def _layout(config: ConvertConfig) -> Layout:
    for layout in LAYOUTS:
        if config.to == layout:
            return layout
    got = "no layout" if config.to is None else repr(config.to)
    raise UsageError("--to", got=got, expected="a layout", do=did_you_mean(config.to or "", list(LAYOUTS)))


def _check_output(config: ConvertConfig, layout: Layout) -> None:
    output = config.output_path
    in_shards = layout == "merged" and config.max_shard_gib is not None
    if is_file_name(output) and (layout not in _FILE_LAYOUTS or in_shards):
        raise UsageError(f"--output_path {output}", got="a file", expected=f"a folder: {layout} is several files")
    if is_file_name(output) and output.suffix != ".safetensors" and layout != "decoder-lora":
        raise UsageError(f"--output_path {output}", got=output.suffix, expected=".safetensors", do="only decoder LoRAs are .bin")
    if any(source.resolve() == output.resolve() for source in config.source):
        raise UsageError(f"--output_path {output}", got="the source itself", expected="another place")
    for flag, layouts in (("acceleration_lora", ("lora", "merged", "comfyui")), ("max_shard_gib", ("merged",))):
        if getattr(config, flag) is not None and layout not in layouts:
            raise UsageError(f"--{flag}", got=f"--to {layout}", expected=f"--to {' or '.join(layouts)}")
    if config.adapter_strength != 1 and layout not in ("lora", "merged"):
        raise UsageError("--adapter_strength", got=f"--to {layout}", expected="--to lora or merged", do="elsewhere the reader sets it")


def _check_parts(config: ConvertConfig, layout: Layout, material: Material) -> None:
    have = set(material.parts())
    if any(have >= set(alternative) for alternative in NEEDS[layout]):
        if layout in ("lora", "merged") and have >= {"adapter", "transformer"}:
            raise UsageError("convert", got="an adapter and a transformer", expected="one of them", do="give the base as --model")
        return
    possible = [name for name, alternatives in NEEDS.items() if any(have >= set(alternative) for alternative in alternatives)]
    raise CheckpointError(
        ", ".join(map(str, config.source)),
        got=" and ".join(sorted(have)),
        expected=f"for --to {layout}: {' or '.join(' and '.join(alternative) for alternative in NEEDS[layout])}",
        do=f"from this can be made: {', '.join(possible)}",
    )


def _write_folder(job: Job, layout: Layout) -> Iterator[str]:
    """A consumer's folder: of each stage what the sources hold."""
    module_writers: dict[Layout, tuple[Writer, Writer]] = {
        "diffusers": (vae.write_diffusers, dit.write_diffusers),
        "comfyui": (vae.write_comfyui, dit.write_comfyui),
    }
    write_vae, write_dit = module_writers[layout]
    material = job.material
    wanted = {part for alternative in NEEDS[layout] for part in alternative} - {"adapter"}
    if wanted & material.parts().keys():
        yield from write_vae(job)
    if material.adapter is not None:
        yield from write_dit(job)
    if layout == "comfyui":
        text = json.dumps(workflow(_workflow_settings(job)), indent=2, ensure_ascii=False)
        (job.folder / COMFYUI_WORKFLOW).write_text(text + "\n", encoding="utf-8")


def _workflow_settings(job: Job) -> WorkflowSettings:
    """Names of the files that the workflow loads: the transformer of the adapter's width, and the acceleration LoRA given."""
    layers = job.material.adapter.layers if job.material.adapter else {}
    width = next((layer.lora_A.shape[1] for layer in layers.values()), max(TRANSFORMERS))
    lora = job.config.acceleration_lora
    transformer = TRANSFORMERS.get(width, TRANSFORMERS[max(TRANSFORMERS)])
    return WorkflowSettings(transformer=transformer, acceleration_lora=lora.name if lora else None)


def _move(folder: Path, target: Path) -> Iterator[Path]:
    """Each file to its place under the target; what else is there stays."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        place = target / path.relative_to(folder)
        make_parents(place)
        os.replace(path, place)
        yield place
