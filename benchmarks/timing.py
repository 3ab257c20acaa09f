"""Time ways of doing one thing side by side: alternating runs in one process, medians, as many as fit the time given; memory beside."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from wan_alpha.linux import stated_bytes
from wan_alpha.train.imagined import LiveBytes

MAX_ROUNDS = 25


@dataclass(frozen=True, kw_only=True)
class Medians:
    """Median seconds of each way, and over how many rounds."""

    seconds: dict[str, float]
    rounds: int


def alternate(ways: Mapping[str, Callable[[], object]], *, seconds: float, device: torch.device, warm_up: int = 1) -> Medians:
    """All ways in turn, every other round backwards, until the next round would not fit `seconds`.

    The first `warm_up` rounds count only if no other fits.
    """
    start = time.perf_counter()
    rounds: list[dict[str, float]] = []
    while len(rounds) <= MAX_ROUNDS:
        names = list(ways) if len(rounds) % 2 == 0 else list(ways)[::-1]
        rounds.append({name: _seconds(ways[name], device) for name in names})
        if time.perf_counter() - start + sum(rounds[-1].values()) > seconds:
            break
    counted = rounds[warm_up:] or rounds
    print(f"{len(counted)} alternating rounds on {torch.get_num_threads()} threads, {device}")
    found = {name: [measured[name] for measured in counted] for name in ways}
    for name, seen in found.items():
        print(f"  {name:28s} median {median(seen):8.3f} s   fastest {min(seen):8.3f} s   slowest {max(seen):8.3f} s")
    return Medians(seconds={name: median(seen) for name, seen in found.items()}, rounds=len(counted))


def peak_gib(way: Callable[[], object], *, device: torch.device) -> float | None:
    """Peak memory of one run on a CUDA device; None on a CPU, where torch keeps no such record."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    way()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) / 2**30


def saved_bytes(forward: Callable[[], object]) -> int:
    """Bytes of distinct storages that autograd keeps between a forward and a backward pass, parameters not counted."""
    storages: dict[int, int] = {}
    kept = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter) and not (tensor._base is not None and isinstance(tensor._base, torch.nn.Parameter)):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    del result
    return sum(storages.values())


def live_peak_bytes(step: Callable[[], object], *, present: Sequence[torch.Tensor]) -> int:
    """Most bytes of distinct storages alive at once in one run on a CPU, gradients included, those `present` before not counted."""
    with LiveBytes() as live:
        live.ignore(present)
        step()
    return live.peak


def highest_resident_bytes() -> int:
    """Highest resident memory of this process since it began or was told to forget it."""
    highest = stated_bytes("/proc/self/status", "VmHWM")
    if highest is None:
        raise SystemExit("only Linux says how much memory a process had")
    return highest


def forget_highest_resident() -> None:
    """From here on the highest resident memory counts anew."""
    Path("/proc/self/clear_refs").write_text("5")


def _seconds(way: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    way()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began
