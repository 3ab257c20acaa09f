"""The memory that a training step will need, before it runs: every weight counted, one step imagined.

    base         frozen weights, as they are stored
    trainables   in float32, with their gradients (another copy)
    optimiser    its state, by name; average: one copy with --ema_decay
    activations  what lives between the forward and the backward pass
    temporaries  what lives beside all these at the worst moment: recomputed blocks, gradients of activations, copies inside kernels
    process      on a CPU: Python, torch and what else is resident just before the first step

On a CPU the total is the highest resident memory of the process, as far as freed tensors go back at once (wan_alpha/malloc.py);
docs/benchmarks.md has the real peaks. On other devices it is what torch allocates, without what kernels take inside and what torch's
allocator keeps: a lower bound. Not counted: text encoders and encoding (gone, or before the step), validation and previews.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from wan_alpha.config import TrainConfig
from wan_alpha.data.shares import this_share
from wan_alpha.malloc import resident_bytes, tuned_by_user
from wan_alpha.memory import free_bytes, next_setting
from wan_alpha.models.quantise import parts_of_4bit
from wan_alpha.train.imagined import modules_of, nothing_inside, step_bytes
from wan_alpha.train.scratch import scratch_bytes

log = logging.getLogger(__name__)

T = TypeVar("T")
FLOAT32 = torch.float32.itemsize
FIRST_STEP = 32 * 2**20
"""What the first step on a CPU makes resident beside tensors: torch's code, kernels that oneDNN compiles, autograd's nodes (measured)."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Bytes by part; they add up to the peak."""

    base: int
    trainables: int
    gradients: int
    optimiser: int
    average: int
    activations: int
    temporaries: int
    process: int = 0

    @property
    def total(self) -> int:
        return sum(asdict(self).values())

    @property
    def still_to_come(self) -> int:
        """Without the process and its weights, which are there already."""
        return self.total - self.process - self.base - self.trainables

    @property
    def text(self) -> str:
        """One line in GiB, for the log."""
        parts = ", ".join(f"{name} {size / 2**30:.2f}" for name, size in asdict(self).items() if size)
        word = "about" if self.process and not tuned_by_user() else "at least"
        return f"memory forecast: {word} {self.total / 2**30:.2f} GiB ({parts})"


def forecast(
    config: TrainConfig,
    *,
    networks: Callable[[int], T],
    depth: int,
    trainables: dict[str, nn.Parameter],
    loss: Callable[[T], Tensor],
    device: torch.device,
) -> Forecast:
    """Peak memory of one optimiser step per process; nothing is allocated and no network changes. Takes seconds for 14B.

    networks: for a number of transformer blocks, of which there are `depth`: a module, or a tuple or dataclass that holds some, on any
    device (meta too). loss: the total of a batch that it makes itself (torch.empty, on the CPU), given a copy without contents.
    """
    modules = modules_of(networks(depth))
    weights = {id(tensor): tensor for module in modules for tensor in (*module.parameters(), *module.buffers())}
    trained = stored_bytes(trainables.values())
    waits, inside = config.gradient_accumulation_steps > 1, scratch_bytes if device.type == "cpu" else nothing_inside
    step = step_bytes(networks, depth=depth, loss=loss, gradients_wait=waits, inside=inside)
    present = stored_bytes(tensor for tensor in weights.values() if tensor.device.type == "cpu")
    resident = resident_bytes() if device.type == "cpu" else None
    return Forecast(
        base=stored_bytes(weights.values()) - trained,
        trainables=trained,
        gradients=trained,
        optimiser=optimiser_bytes(config.optimiser, trainables.values()),
        average=trained if config.ema_decay is not None else 0,
        activations=step.kept,
        temporaries=max(0, step.peak - trained - step.kept),
        process=0 if resident is None else max(0, resident - present) + FIRST_STEP,
    )


def log_forecast(config: TrainConfig, make: Callable[[], Forecast], *, device: torch.device) -> None:
    """Say what a step will need, and warn, naming the next setting, when the device has less. Of several processes the first speaks."""
    if config.memory_forecast == "none" or this_share().rank > 0:
        return
    expected, free = make(), free_bytes(device)
    log.info(expected.text)
    if free is not None and free < expected.still_to_come:
        needed = f"{expected.still_to_come / 2**30:.1f} GiB beside the weights, {free / 2**30:.1f} are free on {device.type}"
        log.warning("memory may not do: a step needs %s; try: %s", needed, next_setting(config))


def stored_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of distinct storages; of a quantised tensor, what it is made of."""
    storages: dict[int, int] = {}
    for tensor in tensors:
        for part in _stored_parts(tensor):
            storages[part.untyped_storage()._cdata] = part.untyped_storage().nbytes()
    return sum(storages.values())


def _stored_parts(tensor: Tensor) -> list[Tensor]:
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        return [part for name in names for part in _stored_parts(getattr(tensor, name))]
    if getattr(tensor, "quant_state", None) is not None:
        return parts_of_4bit(tensor)
    return [tensor]


def optimiser_bytes(name: str, parameters: Iterable[nn.Parameter]) -> int:
    """Bytes of the optimiser's state (its counters left out)."""
    per_tensor: dict[str, Callable[[Any], int]] = {
        "adamw": lambda p: 2 * FLOAT32 * p.numel(),  # two moments
        "adamw_8bit": lambda p: 2 * p.numel() if p.numel() >= 4096 else 2 * FLOAT32 * p.numel(),  # bitsandbytes keeps small ones in float32
        "adafactor": lambda p: FLOAT32 * (p.numel() // p.shape[-1] + p.numel() // p.shape[-2] if p.ndim > 1 else p.numel()),
        "prodigy": lambda p: 4 * FLOAT32 * p.numel(),  # two moments, the start, and the sum that finds the rate
        "schedule_free": lambda p: 2 * FLOAT32 * p.numel(),  # the second moment and the other sequence of weights
    }
    return sum(per_tensor[name](parameter) for parameter in parameters)
