"""One conversion under way: its settings, what the sources hold, and the folder that becomes the output."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wan_alpha.checkpoints.files import write_tensors
from wan_alpha.config import ConvertConfig
from wan_alpha.convert.sources import Material

_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Job:
    """Files are written under `folder`, which is moved to its place once all of them are complete."""

    config: ConvertConfig
    material: Material
    folder: Path

    def path(self, usual: str) -> Path:
        """Where the layout's one file goes: under the name that --output_path gives it, or its usual one."""
        return self.folder / (self.config.output_path.name if is_file_name(self.config.output_path) else usual)

    def dtype(self, kept: torch.dtype) -> torch.dtype:
        """Of a tensor of the type `kept` once written; what is no floating-point number stays as it is."""
        return _TYPES.get(self.config.dtype, kept) if kept.is_floating_point else kept

    def write(self, path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str]) -> None:
        """Write a file in the wanted type."""
        cast = {key: tensor.to(self.dtype(tensor.dtype)) for key, tensor in tensors.items()}
        write_tensors(path, cast, metadata={**metadata, "converted_from": self.names})

    @property
    def names(self) -> str:
        return ", ".join(path.name for path in self.config.source)


def is_file_name(path: Path) -> bool:
    return path.suffix in (".safetensors", ".bin", ".pth", ".pt")
