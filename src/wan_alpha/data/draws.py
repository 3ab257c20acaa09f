"""Random draws that belong to a sample, not to a batch: a pure function of (seed, position).

`position` counts samples from the start of training. The same sample gets the same noise whatever the batch size, the number of
workers or the step at which training was resumed, so nothing random needs to be saved.
"""

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def generator_at(seed: int, position: int) -> torch.Generator:
    """A CPU generator of its own for one sample."""
    state = np.random.SeedSequence((seed, position)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state & 0x7FFF_FFFF_FFFF_FFFF))


def index_at(seed: int, position: int, *, count: int) -> int:
    """Index of the sample at this position: every epoch walks all `count` items in a new order."""
    epoch, offset = divmod(position, count)
    return int(_order(seed, epoch, count)[offset])


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The order of one epoch, made once and not for every sample of it."""
    return np.random.default_rng((seed, epoch)).permutation(count)


def normal_at(seed: int, positions: list[int], shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise (B, *shape), one generator per sample."""
    return torch.stack([torch.randn(shape, generator=generator_at(seed, position)) for position in positions])
