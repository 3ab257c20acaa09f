"""The one place where a device and the dtype of frozen weights are chosen, and where batches move there. Stages choose, and pass on."""

import os

import torch
from jaxtyping import Shaped
from torch import Tensor

from wan_alpha.config import Device, Precision
from wan_alpha.errors import UsageError


def choose_device(name: Device = "auto") -> torch.device:
    """auto takes cuda, then mps, then cpu. With several processes, each takes the card of its LOCAL_RANK, which becomes the current one.

    Raises UsageError when the device asked for is not there.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    chosen = next(kind for kind in present if present[kind]) if name == "auto" else name
    if not present[chosen]:
        raise UsageError(f"--device {chosen}", got="a machine without it", expected=_listed(present), do="use --device auto")
    if chosen == "cuda" and "LOCAL_RANK" in os.environ:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())  # as accelerate counts them
        torch.cuda.set_device(device)  # before anything is loaded: pinned memory and kernels of libraries belong to the current card
        return device
    return torch.device(chosen)


def frozen_dtype(precision: Precision = "auto", *, device: torch.device) -> torch.dtype:
    """Dtype of weights that are never trained: auto is bfloat16 on a cuda device that has it, float32 elsewhere.

    Trainable weights are float32 always: AdamW in bfloat16 cannot move DoRA magnitudes.
    """
    if precision == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]


def autocast_dtype(precision: Precision = "auto", *, device: torch.device) -> torch.dtype:
    """Dtype of convolutions and products in training steps under autocast; float32 means no autocast.

    auto is bfloat16 on a cuda device and on a CPU that have its arithmetic (three times faster than float32 on AVX512-BF16, see
    docs/log.md), float32 elsewhere. Trainable weights, losses and the optimiser stay float32.
    """
    if precision == "auto" and device.type == "cpu":
        capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
        return torch.bfloat16 if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else torch.float32
    return frozen_dtype(precision, device=device)


def on_device(tensor: Shaped[Tensor, "*shape"], *, device: torch.device) -> Shaped[Tensor, "*shape"]:
    """The tensor on the device, the same one if it is there. Nothing waits for a copy to a card: it leaves from pinned memory."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def _listed(present: dict[str, bool]) -> str:
    return "one of auto, " + ", ".join(kind for kind, there in present.items() if there)
