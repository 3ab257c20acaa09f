"""Training samples by position, read ahead by worker processes. What a sample is does not depend on how many there are."""

import itertools
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from torch.utils.data import DataLoader, Dataset, Sampler

from wan_alpha.errors import WanAlphaError

T = TypeVar("T")


class PositionStream(Generic[T]):
    """`take` gives sample_at(position) for rising positions; with workers, the next ones are made meanwhile.

    A jump (a resumed run) starts the workers anew from there.
    """

    def __init__(self, sample_at: Callable[[int], T], *, num_workers: int = 0) -> None:
        self._dataset, self._num_workers = _Positions(sample_at), num_workers
        self._next = -1
        self._samples: Iterator[T | WanAlphaError] = iter(())

    def take(self, positions: list[int]) -> list[T]:
        if positions[0] != self._next:
            sampler = _From(positions[0])
            loader = DataLoader(self._dataset, batch_size=None, sampler=sampler, num_workers=self._num_workers, collate_fn=_unchanged)
            self._samples = iter(loader)
        self._next = positions[-1] + 1
        taken: list[T] = []
        for sample in itertools.islice(self._samples, len(positions)):
            if isinstance(sample, WanAlphaError):
                raise sample
            taken.append(sample)
        return taken


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
    def __init__(self, first: int) -> None:
        self._first = first

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self._first)
