"""inspect: what a file or folder of weights is, and what is wrong with it. Headers alone are read, contents up to 2 GiB as well."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wan_alpha.checkpoints import vae_layout
from wan_alpha.checkpoints.examine import Examination, examine, groups, shortened
from wan_alpha.checkpoints.files import TORCH_SUFFIXES, require_shapes, sha256
from wan_alpha.checkpoints.originals import dit_any_name_to_original, dit_to_original, layout_md5
from wan_alpha.checkpoints.sizes import dit_sizes, vae_sizes
from wan_alpha.checkpoints.streams import TensorFiles
from wan_alpha.config import InspectConfig
from wan_alpha.errors import CheckpointError, UsageError

FULL_UP_TO_BYTES = 2 * 2**30
PROBLEM_EXIT = 2
DIFFSYNTH = {
    "ccc42284ea13e1ad04693284c7a09be6": "Wan2.1 VAE",
    "9269f8db9040a9d860eaca435be61814": "Wan2.1 T2V 1.3B",
    "aafcfd9672c3a2456dc46e1cb6e52c70": "Wan2.1 T2V 14B",
}
"""Hashes by which DiffSynth-Studio 2.1 recognises a model."""
_MODELS = ("a DiT", "an original VAE")
_GROUPS_SHOWN = 24


@dataclass(frozen=True, kw_only=True)
class FileReport:
    """One file, or the shards of one model. `facts` in the order of the listing."""

    path: Path
    facts: dict[str, str]
    tensors: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def summary(self) -> list[str]:
        shown = self.tensors[:_GROUPS_SHOWN]
        more = [f"  and {len(self.tensors) - len(shown)} more kinds of tensors"] if len(self.tensors) > len(shown) else []
        problems = [f"PROBLEM: {problem}" for problem in shortened(self.problems)]
        return [
            str(self.path),
            *(f"  {name}: {fact}" for name, fact in self.facts.items()),
            *(f"  {line}" for line in shown),
            *more,
            *problems,
        ]


@dataclass(frozen=True, kw_only=True)
class InspectReport:
    reports: tuple[FileReport, ...]

    @property
    def summary(self) -> list[str]:
        return [line for report in self.reports for line in report.summary]

    @property
    def exit_code(self) -> int:
        """2 when a file has a problem, else 0."""
        return PROBLEM_EXIT if any(report.problems for report in self.reports) else 0


def inspect(config: InspectConfig) -> InspectReport:
    """Look at every source; a file that cannot be read is a problem in the report, a path that does not exist an error."""
    if not config.source:
        raise UsageError("inspect", got="no source", expected="files or folders of weights", do="wan-alpha inspect FILE")
    units = [unit for source in config.source for unit in _units(source)]
    return InspectReport(reports=tuple(_report(path, files, missing, depth=config.depth) for path, files, missing in units))


def _units(source: Path) -> Iterator[tuple[Path, list[Path], list[str]]]:
    """(what to call it, its files, shards that its index names and that are not there) of each model under a source."""
    if source.is_file():
        yield source, [source], []
        return
    if not source.is_dir():
        raise CheckpointError(source, got="no such file", expected="a file or a folder of weights")
    found = sorted(path for path in source.rglob("*") if path.is_file() and path.suffix in (".safetensors", *TORCH_SUFFIXES))
    for index in sorted(source.rglob("*.safetensors.index.json")):
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        shards = [index.parent / name for name in names]
        found = [path for path in found if path not in shards]
        yield index, [path for path in shards if path.is_file()], [path.name for path in shards if not path.is_file()]
    if not found and not any(source.rglob("*.safetensors.index.json")):
        raise CheckpointError(source, got="a folder without weights", expected=f".safetensors or {', '.join(TORCH_SUFFIXES)}")
    yield from ((path, [path], []) for path in found)


def _report(path: Path, files: list[Path], missing: list[str], *, depth: str) -> FileReport:
    num_bytes = sum(file.stat().st_size for file in files)
    facts = {"size": f"{num_bytes / 2**20:.1f} MiB in {len(files)} file{'s' if len(files) > 1 else ''}"}
    problems = [f"shard {name} is missing" for name in missing]
    try:
        tensors = TensorFiles(files) if files else None
    except CheckpointError as error:
        return FileReport(path=path, facts=facts, problems=(*problems, str(error)))
    if tensors is None or not tensors:
        return FileReport(path=path, facts=facts, problems=(*problems, "no tensors"))
    found = examine(tensors.shapes, metadata=tensors.metadata)
    facts |= _facts(found, tensors)
    problems += [*found.problems, *_incomplete(found, tensors.shapes)]
    if depth == "full" or (depth == "auto" and num_bytes <= FULL_UP_TO_BYTES):
        problems += _not_finite(tensors)
        facts |= {f"sha256 {file.name}": sha256(file) for file in files}
    else:
        facts["contents"] = "not read (no SHA-256, no search for NaN); --depth full reads them"
    return FileReport(path=path, facts=facts, tensors=tuple(groups(tensors.shapes)), problems=tuple(problems))


def _facts(found: Examination, tensors: TensorFiles) -> dict[str, str]:
    shapes = tensors.shapes
    types = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in shapes.values())
    facts = {
        "is": found.kind or "unknown",
        "stage": found.stage,
        "layout": found.layout,
        "fits": found.base,
        "rank": ", ".join(map(str, found.ranks)) or "none",
        "tensors": f"{len(shapes)}, {sum(tensor.numel() for tensor in shapes.values()):,} parameters",
        "types": ", ".join(f"{name} x {count}" for name, count in types.items()),
    }
    if found.kind in _MODELS:
        md5 = layout_md5(shapes)
        facts["DiffSynth hash"] = f"{md5} ({DIFFSYNTH.get(md5, 'no model that it knows')})"
    return facts | {f"metadata {key}": text for key, text in sorted(tensors.metadata.items())}


def _not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    problems = []
    for key, tensor in tensors.items():
        bad = tensor.numel() - int(torch.isfinite(tensor.float()).sum()) if tensor.is_floating_point() else 0
        if bad:
            problems.append(f"{key}: {bad} of {tensor.numel()} values are NaN or infinite")
    return problems


def _incomplete(found: Examination, shapes: Mapping[str, Tensor]) -> list[str]:
    """Tensors that a whole model of these sizes has and this one lacks, or the reverse."""
    if found.kind not in _MODELS:
        return []
    try:
        if found.kind == "a DiT":
            shapes = {dit_any_name_to_original(key): tensor for key, tensor in shapes.items()}
            require_shapes(shapes, _whole_dit(shapes), what="the model")
        else:
            require_shapes(shapes, _whole_vae(shapes), what="the model")
    except CheckpointError as error:
        return [str(error)]
    return []


def _whole_dit(shapes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    from diffusers import WanTransformer3DModel  # seconds to import; adapters need none of it

    with torch.device("meta"):  # one head: no tensor depends on their number
        return dit_to_original(WanTransformer3DModel(**dit_sizes(shapes, num_heads=1, eps=1e-6)).state_dict())


def _whole_vae(shapes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    from diffusers import AutoencoderKLWan

    sizes = vae_sizes(shapes)
    with torch.device("meta"):
        state = AutoencoderKLWan(**sizes).state_dict()
    return vae_layout.to_original(state, num_res_blocks=int(str(sizes["num_res_blocks"])))
