"""Files of small weights through `convert`, for its tests."""

from pathlib import Path

import torch
from torch import Tensor

from wan_alpha.config import ConvertConfig
from wan_alpha.convert.run import ConvertReport, convert

HOW = {"dtype": torch.float32, "device": "cpu"}


def run(small: Path, *sources: Path, to: str, out: Path, **options: object) -> ConvertReport:
    return convert(ConvertConfig(source=sources, to=to, output_path=out, model=str(small / "base"), device="cpu", **options))


def one(folder: Path) -> Path:
    (path,) = [path for path in folder.rglob("*.safetensors")] + [path for path in folder.rglob("*.bin")]
    return path


def close(left: dict[str, Tensor], right: dict[str, Tensor], *, atol: float = 1e-5) -> bool:
    return left.keys() == right.keys() and all(torch.allclose(left[key], right[key], atol=atol) for key in left)


def adapter_of(small: Path) -> Path:
    return small / "epoch-2.safetensors"


def stage1_of(small: Path) -> Path:
    return small / "stage1_epoch_4.safetensors"
