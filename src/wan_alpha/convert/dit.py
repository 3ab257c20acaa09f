"""Stage 2 in its layouts: published, diffusers and PEFT, ComfyUI, merged transformer, plain LoRA."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from wan_alpha.checkpoints.adapter import BASE_NORM, Adapter, layer_tensors
from wan_alpha.checkpoints.files import read_tensors
from wan_alpha.checkpoints.folders import COMFYUI_LORA, DIFFUSERS_ADAPTER, PEFT_ADAPTER, PEFT_CONFIG, peft_config
from wan_alpha.checkpoints.originals import layout_md5
from wan_alpha.checkpoints.streams import TensorFiles, plan_shards, write_stream
from wan_alpha.convert.job import Job
from wan_alpha.device import choose_device
from wan_alpha.errors import CheckpointError
from wan_alpha.models.merge import AdapterChange, Change, changed, parse_acceleration_lora, require_targets
from wan_alpha.models.originals import open_transformer
from wan_alpha.models.rewrite import Residual, best_factors, cut_rank, for_base_norm, from_base_norm
from wan_alpha.models.sources import resolve_base

_DIFFERENCES = {"weight": "diff", "bias": "diff_b", "modulation": "diff_m"}


def write_adapter(job: Job) -> list[str]:
    """The published layout, epoch-N.safetensors."""
    adapter, notes = _adapter(job)
    job.write(job.path("adapter.safetensors"), layer_tensors(adapter), metadata=_labels(job, adapter))
    return notes


def write_diffusers(job: Job) -> list[str]:
    """One folder for pipeline.load_lora_weights and for PeftModel.from_pretrained."""
    adapter, notes = _adapter(job)
    job.write(job.folder / DIFFUSERS_ADAPTER, layer_tensors(adapter, names="diffusers"), metadata=_labels(job, adapter))
    job.write(job.folder / PEFT_ADAPTER, layer_tensors(adapter, names="peft"), metadata=_labels(job, adapter))
    (job.folder / PEFT_CONFIG).write_text(json.dumps(peft_config(adapter), indent=2) + "\n", encoding="utf-8")
    return notes


def write_comfyui(job: Job) -> list[str]:
    """ComfyUI's names; the magnitudes as the asked-for version of ComfyUI takes them, stamped in the metadata."""
    adapter, notes = _adapter(job)
    if adapter.kind == "dora" and job.config.comfyui_norm == "base":
        adapter = for_base_norm(adapter, _base(job, AdapterChange(adapter=adapter)))
    labels = _labels(job, adapter)
    if adapter.kind == "dora":
        labels[BASE_NORM] = job.config.comfyui_norm
    job.write(job.folder / COMFYUI_LORA, layer_tensors(adapter, names="comfyui"), metadata=labels)
    if adapter.noise_shift:
        notes = [*notes, f"trained with noise_shift {adapter.noise_shift}, which ComfyUI's own sampler does not apply"]
    return notes


def write_merged(job: Job) -> list[str]:
    """A transformer with exactly the original keys, read, changed and written one tensor at a time."""
    changes = _changes(job)
    base = job.material.transformer or _base(job, *changes)
    shapes = {key: shape.to(job.dtype(shape.dtype)) for key, shape in base.shapes.items()}
    limit = job.config.max_shard_gib
    shards = [shapes] if limit is None else plan_shards(shapes, max_bytes=limit * 2**30)
    names = [f"diffusion_pytorch_model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    paths = [job.path("diffusion_pytorch_model.safetensors")] if limit is None else [job.folder / name for name in names]
    sizes: dict[str, str] = {key: base.metadata[key] for key in ("num_heads", "eps") if key in base.metadata}
    metadata = {**job.material.dit_metadata, **sizes, **_merge_labels(job), "converted_from": job.names}
    stream = ((key, tensor.cpu().to(shapes[key].dtype)) for key, tensor in changed(base, changes, device=choose_device(job.config.device)))
    for path, shard in zip(paths, shards, strict=True):
        write_stream(path, (pair for _, pair in zip(shard, stream, strict=False)), shapes=shard, metadata=metadata)
    if limit is not None:
        _write_index(job, shards, names)
    return [f"{len(shapes)} tensors, DiffSynth hash {layout_md5(shapes)}"]


def write_lora(job: Job) -> list[str]:
    """`diffusion_model.<module>.lora_A.weight` and `.lora_B.weight`; other tensors that change as `.diff`, `.diff_b`, `.diff_m`."""
    if job.material.adapter is not None and job.material.adapter.kind == "lora" and job.config.acceleration_lora is None:
        return _write_plain_lora(job)
    tensors, residual = {}, Residual()
    for key, delta in _deltas(job):
        module, _, part = f"diffusion_model.{key}".rpartition(".")
        if part != "weight" or delta.ndim != 2:
            tensors[f"{module}.{_DIFFERENCES[part]}"] = delta.cpu()
            continue
        down, up = best_factors(delta, rank=_rank(job))
        residual.add(key, delta=delta, factors=(down, up))
        tensors[f"{module}.lora_A.weight"], tensors[f"{module}.lora_B.weight"] = down.cpu(), up.cpu()
    if not tensors:
        raise CheckpointError(job.names, got="the base's own weights", expected="a change of them")
    residual.require_at_most(job.config.max_residual, what=job.names)
    labels = {
        **job.material.dit_metadata,
        "kind": "lora",
        "rank": str(_rank(job)),
        "residual": f"{residual.share:.6f}",
        **_merge_labels(job),
    }
    job.write(job.path("lora.safetensors"), tensors, metadata=labels)
    return [str(residual)]


def _write_plain_lora(job: Job) -> list[str]:
    """A plain LoRA needs no base: its factors are the change."""
    adapter, notes = _adapter(job)
    strength = job.config.adapter_strength
    layers = {name: replace(layer, lora_B=layer.lora_B * strength) for name, layer in adapter.layers.items()}
    job.write(job.path("lora.safetensors"), layer_tensors(replace(adapter, layers=layers), names="comfyui"), metadata=_labels(job, adapter))
    return notes


def _adapter(job: Job) -> tuple[Adapter, list[str]]:
    """The sources' adapter with DoRA's own magnitudes, of the asked-for rank."""
    adapter = _plain_adapter(job)
    if job.config.rank is None or job.config.rank == adapter.rank:
        return adapter, []
    if job.config.rank > adapter.rank:
        raise CheckpointError(job.names, got=f"rank {adapter.rank}", expected=f"at least --rank {job.config.rank}")
    adapter, residual = cut_rank(adapter, rank=job.config.rank)
    residual.require_at_most(job.config.max_residual, what=job.names)
    return adapter, [str(residual)]


def _plain_adapter(job: Job) -> Adapter:
    adapter = job.material.adapter
    assert adapter is not None  # the layout's needs were checked
    if adapter.metadata.get(BASE_NORM) != "base":
        return adapter
    plain = from_base_norm(adapter, _base(job, AdapterChange(adapter=adapter)))
    return replace(plain, metadata={key: text for key, text in adapter.metadata.items() if key != BASE_NORM})


def _labels(job: Job, adapter: Adapter) -> dict[str, str]:
    return {**job.material.dit_metadata, "kind": adapter.kind, "rank": str(adapter.rank)}


def _merge_labels(job: Job) -> dict[str, str]:
    """How a merge was done; the order matters because DoRA divides by the norm of what it is added to."""
    labels = {} if job.material.adapter is None else {"adapter_strength": str(job.config.adapter_strength)}
    if job.config.acceleration_lora is not None:
        labels |= {"acceleration_lora": job.config.acceleration_lora.name, "order": job.config.order}
    return labels


def _changes(job: Job) -> list[Change]:
    """The adapter's and the acceleration LoRA's changes in the order of --order; none for a transformer as it is."""
    changes: list[Change] = []
    if job.material.adapter is not None:
        changes.append(AdapterChange(adapter=_plain_adapter(job), strength=job.config.adapter_strength))
    if (path := job.config.acceleration_lora) is not None:
        changes.append(parse_acceleration_lora(read_tensors(path), source=str(path)))
    return changes if job.config.order == "adapter-first" else changes[::-1]


def _base(job: Job, *changes: Change) -> TensorFiles:
    """The base model's transformer, of which every tensor that is to be changed is known to be there."""
    base = open_transformer(resolve_base(job.config))
    for change in changes:
        require_targets(change, base.shapes)
    return base


def _deltas(job: Job) -> Iterator[tuple[str, Tensor]]:
    """(original name, float32 difference to the base) of every tensor that changes."""
    changes, device = _changes(job), choose_device(job.config.device)
    base = _base(job, *changes)
    merged: TensorFiles = job.material.transformer or base
    if merged.keys() != base.keys():
        raise CheckpointError(job.names, got=f"{len(merged)} tensors", expected=f"the base's {len(base)}", do="give its base as --model")
    for key, tensor in changed(merged, changes, device=device):
        delta = tensor.to(device, torch.float32) - base[key].to(device, torch.float32)
        if delta.any():
            yield key, delta


def _rank(job: Job) -> int:
    if job.config.rank is not None:
        return job.config.rank
    if job.material.adapter is not None:
        return job.material.adapter.rank
    raise CheckpointError(job.names, got="a merged transformer", expected="the LoRA's rank", do="add --rank 64")


def _write_index(job: Job, shards: Sequence[dict[str, Tensor]], names: Sequence[str]) -> None:
    weight_map = {key: name for shard, name in zip(shards, names, strict=True) for key in shard}
    index = {"metadata": {"total_size": sum(tensor.nbytes for shard in shards for tensor in shard.values())}, "weight_map": weight_map}
    path = job.folder / "diffusion_pytorch_model.safetensors.index.json"
    path.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
