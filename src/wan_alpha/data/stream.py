"""Training samples by position, read ahead by worker processes. What a sample is does not depend on how many there are."""

import itertools
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from wan_alpha.errors import WanAlphaError

T = TypeVar("T")


class PositionStream(Generic[T]):
    """`take` gives sample_at(position) for rising positions; with workers, the next ones are made meanwhile.

    Several processes take their batches side by side: after its own batch_size positions each skips those of the others. Any other
    jump (a resumed run) starts the workers anew from there.
    """

    def __init__(self, sample_at: Callable[[int], T], *, num_workers: int = 0, batch_size: int = 1, processes: int = 1) -> None:
        self._dataset, self._num_workers = _Positions(sample_at), num_workers
        self._batch_size, self._skip = batch_size, (processes - 1) * batch_size
        self._next = -1
        self._samples: Iterator[T | WanAlphaError] = iter(())

    def take(self, positions: list[int]) -> list[T]:
        if positions[0] != self._next:
            self._samples = iter(self._loader(_From(positions[0], batch_size=self._batch_size, skip=self._skip)))
        self._next = positions[-1] + 1 + self._skip
        taken: list[T] = []
        for sample in itertools.islice(self._samples, len(positions)):
            if isinstance(sample, WanAlphaError):
                raise sample
            taken.append(sample)
        return taken

    def _loader(self, sampler: Sampler[int]) -> DataLoader:
        own = torch.Generator()  # of the workers' seeds, which nothing draws from: the process-wide generator stays as it is
        return DataLoader(
            self._dataset, batch_size=None, sampler=sampler, num_workers=self._num_workers, collate_fn=_unchanged, generator=own
        )


def _unchanged(sample: T) -> T:
    """DataLoader's own function makes lists of tuples."""
    return sample


class _Positions(Dataset, Generic[T]):
    def __init__(self, sample_at: Callable[[int], T]) -> None:
        self._sample_at = sample_at

    def __getitem__(self, position: int) -> T | WanAlphaError:
        """An error travels as a value: DataLoader would wrap a worker's traceback around its one line."""
        try:
            return self._sample_at(position)
        except WanAlphaError as error:
            return error


class _From(Sampler[int]):
    """batch_size positions from `first` on, then those after a gap of `skip`, and so on."""

    def __init__(self, first: int, *, batch_size: int, skip: int) -> None:
        self._first, self._batch_size, self._skip = first, batch_size, skip

    def __iter__(self) -> Iterator[int]:
        starts = itertools.count(self._first, self._batch_size + self._skip)
        return (start + i for start in starts for i in range(self._batch_size))
