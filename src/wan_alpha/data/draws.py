"""Random draws that belong to a sample, not to a batch: a pure function of (seed, position).

`position` counts samples from the start of training. The same sample gets the same noise whatever the batch size, the number of
workers or the step at which training was resumed, so nothing random needs to be saved.
"""

from collections.abc import Hashable, Sequence
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


class BatchOrder:
    """Which item stands at a position, when items of different groups (shapes) must not share a batch.

    Positions are cut into batches of `batch_size`. With one group this is `index_at`. With several, an epoch is every batch of
    every group in one random order; a group's last batch is filled up with items of its own, so nothing is left out.
    """

    def __init__(self, groups: Sequence[Hashable], *, batch_size: int, seed: int) -> None:
        members: dict[Hashable, list[int]] = {}
        for i, group in enumerate(groups):
            members.setdefault(group, []).append(i)
        self._members, self._batch_size, self._seed = list(members.values()), batch_size, seed
        self._epoch: tuple[int, NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        """Positions in one epoch."""
        if len(self._members) == 1:
            return len(self._members[0])
        return sum(-(-len(items) // self._batch_size) for items in self._members) * self._batch_size

    def index_at(self, position: int) -> int:
        """Index of the item at this position; a function of (seed, position) for the given groups and batch size."""
        if len(self._members) == 1:
            return index_at(self._seed, position, count=len(self))
        epoch, offset = divmod(position, len(self))
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = epoch, self._shuffled(epoch)
        return int(self._epoch[1][offset])

    def _shuffled(self, epoch: int) -> NDArray[np.int64]:
        rng = np.random.default_rng((self._seed, epoch))
        filled = [np.resize(rng.permutation(items), -(-len(items) // self._batch_size) * self._batch_size) for items in self._members]
        batches = np.concatenate(filled).reshape(-1, self._batch_size)
        return rng.permutation(batches).reshape(-1)
