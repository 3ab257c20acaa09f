"""A base transformer as its files have it, under Wan's original names, one tensor in memory at a time."""

import json
from collections.abc import Sequence
from pathlib import Path

from wan_alpha.checkpoints.originals import dit_any_name_to_original
from wan_alpha.checkpoints.streams import TensorFiles
from wan_alpha.errors import CheckpointError
from wan_alpha.models.sources import BaseSource, Part

_HEADS = ("num_heads", "num_attention_heads")


def open_transformer(source: BaseSource) -> TensorFiles:
    """The base model's DiT. Its metadata say what no tensor shows: num_heads and eps, where a config.json knows them."""
    part = source.part("transformer")
    return open_transformer_files(part.files(), what=str(part.where))


def open_transformer_files(paths: Sequence[Path], *, what: str) -> TensorFiles:
    """A DiT in one file or in shards, in original or diffusers' names."""
    if not paths:
        raise CheckpointError(what, got="no weight file", expected="a transformer's .safetensors")
    files = TensorFiles(paths, rename=dit_any_name_to_original)
    config_file = paths[0].parent / "config.json"
    config = json.loads(config_file.read_text()) if config_file.is_file() else {}
    heads = next((config[name] for name in _HEADS if name in config), None)
    known = {"num_heads": heads, "eps": config.get("eps")}
    files.metadata.update({name: str(value) for name, value in known.items() if value is not None})
    return files


def transformer_files(folder: Path) -> list[Path]:
    """The files of a DiT in a folder: shards that an index names, Wan's or diffusers' name; empty when there is none."""
    named = Part(layout="diffusers", path=".", root=folder).files() if any(folder.glob("*.safetensors.index.json")) else []
    return named or sorted(folder.glob("diffusion_pytorch_model*.safetensors"))
