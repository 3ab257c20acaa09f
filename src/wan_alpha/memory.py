"""Out of memory, in one line that names the setting to change next; and what a device has free."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from wan_alpha.config import TrainConfig, TrainDitConfig, TrainVaeConfig
from wan_alpha.errors import UsageError
from wan_alpha.linux import stated_bytes

CPU_MESSAGES = ("can't allocate memory", "not enough memory")
"""torch has no exception of its own for a CPU: these are in its allocator's RuntimeError."""


Moment = Literal["loading", "training"]


@contextmanager
def out_of_memory_named(config: TrainConfig, *, during: Moment = "training") -> Iterator[None]:
    """Turn an allocation that failed, on any device, into a UsageError with the next setting to change; other errors pass.

    during: what of a clip or a batch would save cannot help while networks are still loading.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _explained(config, during) from error
    except RuntimeError as error:
        if not any(message in str(error) for message in CPU_MESSAGES):
            raise
        raise _explained(config, during) from error


def free_bytes(device: torch.device) -> int | None:
    """What new tensors may take: of a card what the driver and torch's own cache have left, of a CPU Linux's MemAvailable; else None."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    return stated_bytes("/proc/meminfo", "MemAvailable")


def next_setting(config: TrainConfig) -> str:
    """The change that saves most for least: recompute, then a smaller batch, a smaller base, a shorter clip, a smaller frame."""
    if not config.gradient_checkpointing:
        piecewise = isinstance(config, TrainVaeConfig) and config.piecewise
        return "--vae_passes whole --gradient_checkpointing" if piecewise else "add --gradient_checkpointing"
    if config.batch_size > 1:
        return f"--batch_size {config.batch_size // 2} --gradient_accumulation_steps {config.gradient_accumulation_steps * 2}"
    if getattr(config, "base_quantization", None) == "none":
        return "--base_quantization int8"
    if config.num_frames > 5:
        return f"--num_frames {max(5, (config.num_frames - 1) // 8 * 4 + 1)}"
    smaller = [max(16, size * 3 // 4 // 16 * 16) for size in (config.height, config.width)]
    return f"--height {smaller[0]} --width {smaller[1]}"


def lighter_networks(config: TrainConfig) -> str:
    """The change that makes the frozen networks smaller: no judge, then half the bytes per weight, then another base."""
    if getattr(config, "bidirectional", "none") != "none":
        return "--bidirectional none"
    if isinstance(config, TrainDitConfig) and config.precision != "bfloat16":
        return "--precision bfloat16"
    return "a smaller --model, or a device with more memory"


def _explained(config: TrainConfig, during: Moment) -> UsageError:
    if during == "loading":
        return UsageError("loading the networks", got="out of memory", do=f"try: {lighter_networks(config)}")
    size = f"{config.batch_size} x {config.num_frames} frames of {config.width} x {config.height}"
    return UsageError("training", got=f"out of memory with {size}", do=f"try: {next_setting(config)}")
