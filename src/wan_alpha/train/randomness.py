"""States of the process-wide random generators, for a resumed run: training itself draws from (seed, position) alone, see data/draws.py."""

import random
from typing import Any

import numpy as np
import torch


def random_states(device: torch.device) -> dict[str, Any]:
    """Python's, NumPy's and torch's, on the CPU and on `device`; numbers, lists and tensors only."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": [kind, np.asarray(keys).tolist(), *rest],
        "torch": torch.get_rng_state(),
    }
    return states if device.type == "cpu" else {**states, device.type: torch.get_device_module(device).get_rng_state()}


def restore_random_states(states: dict[str, Any], *, device: torch.device) -> None:
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if device.type in states:
        torch.get_device_module(device).set_rng_state(states[device.type])
