"""One function over many items in several processes. Results come as they finish; an item that ends its process is named."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class ProcessDied:
    """The process that worked on an item ended: a crash inside a codec, or too little memory."""


def run_all(function: Callable[[Item], Result], items: Sequence[Item], *, num_workers: int) -> Iterator[tuple[int, Result | ProcessDied]]:
    """(index, function(item)) for every item. num_workers = 0 stays in this process and in order; else results come as they finish.

    An exception of the function is raised here. When a worker process dies, what is left is done one by one, and the item that ends
    its process again gives ProcessDied. FUNCTION and items must be picklable.
    """
    if num_workers == 0:
        yield from ((index, function(item)) for index, item in enumerate(items))
        return
    left = dict(enumerate(items))
    try:
        for index, result in _in_pool(function, left, num_workers):
            del left[index]
            yield index, result
    except BrokenProcessPool:
        yield from _one_by_one(function, left)


def _in_pool(function: Callable[[Item], Result], items: dict[int, Item], num_workers: int) -> Iterator[tuple[int, Result]]:
    """Twice as many items in flight as workers, so that a large set does not wait in memory."""
    waiting = iter(list(items.items()))
    running: dict[Future[Result], int] = {}
    pool = _pool(num_workers)
    try:
        while True:
            while len(running) < 2 * num_workers and (following := next(waiting, None)) is not None:
                running[pool.submit(function, following[1])] = following[0]
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _one_by_one(function: Callable[[Item], Result], items: dict[int, Item]) -> Iterator[tuple[int, Result | ProcessDied]]:
    """Each item alone in a process, so that the one that ends it is known; then in a fresh one."""
    pool = _pool(1)
    try:
        for index, item in list(items.items()):
            try:
                yield index, pool.submit(function, item).result()
            except BrokenProcessPool:
                pool.shutdown()
                pool = _pool(1)
                yield index, ProcessDied()
    finally:
        pool.shutdown(cancel_futures=True)


def _pool(num_workers: int) -> ProcessPoolExecutor:
    """Fresh interpreters: a fork of a process with codec or torch threads can hang."""
    return ProcessPoolExecutor(num_workers, mp_context=multiprocessing.get_context("spawn"), initializer=_become_worker)


def _become_worker() -> None:
    """Ctrl-C is the parent's to handle; a worker whose parent was killed ends too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: "multiprocessing.process.BaseProcess") -> None:
    parent.join()
    os._exit(1)
