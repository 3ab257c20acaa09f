"""Processes for tests, forked: each starts at once, with everything imported."""

import multiprocessing
import os
import socket
import warnings
from multiprocessing.process import BaseProcess

import torch
from accelerate.state import AcceleratorState
from torch import nn

from toy_training import run, toy_config
from wan_alpha.train.state import TrainState, save_state

_context = multiprocessing.get_context("fork")


def forked(target, *args) -> BaseProcess:
    """A started process; it ends with the test run."""
    process = _context.Process(target=target, args=args, daemon=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons: threads do not live on in a fork; nothing here needs them
        process.start()
    return process


def save_without_end(output_path, first: int) -> None:
    """State after state; every weight of state N is N."""
    step = first
    while True:
        save_at(step, output_path)
        step += 1


def save_at(step: int, output_path, *, keep: int = 2):
    """The state of this step, in its folder, which is returned."""
    state = state_at(step)
    parts = {"optimiser": state.optimiser.state_dict(), "identity": {}, "random": [{}]}
    return save_state(output_path, state=state, step=step, keep=keep, **parts)


def state_at(step: int) -> TrainState:
    weight = nn.Parameter(torch.full((8,), float(step)))
    optimiser = torch.optim.AdamW([weight])
    weight.grad = torch.ones_like(weight)
    optimiser.step()
    weight.data.fill_(float(step))
    return TrainState(trainables={"weight": weight}, optimiser=optimiser, best=float(step))


def train_toy(rank: int, output_path, settings: dict) -> tuple[list[float], list[int]]:
    """One process of a toy training: (weight, epochs that it saved)."""
    stop_at = settings.pop("stop_at", None)  # (rank, position)
    saved = []

    def at(position):
        if stop_at == (rank, position):
            os.kill(os.getpid(), 15)

    weight = run(toy_config(output_path, **settings), at=at, save=lambda epoch: saved.append(epoch) or [])
    return weight.tolist(), saved


def train_together(count: int, output_path, **settings) -> list[tuple[list[float], list[int]]]:
    """(weight, epochs saved) of each of `count` processes that train one toy together."""
    return together(count, train_toy, output_path, settings)


def together(count: int, target, *args) -> list:
    """What target(rank, *args) returns in each of `count` processes, which accelerate finds as its launcher would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pipes = [_context.Pipe(duplex=False) for _ in range(count)]
    processes = [forked(_take_part, rank, count, port, pipes[rank][1], target, args) for rank in range(count)]
    results = [receiver.recv() if receiver.poll(120) else None for receiver, _ in pipes]
    for process in processes:
        process.join(10)
        process.kill()
    return results


def _take_part(rank: int, count: int, port: int, result, target, args: tuple) -> None:
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)  # the parent's: one process
    place = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": count,
        "LOCAL_WORLD_SIZE": count,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    os.environ.update({name: str(value) for name, value in place.items()}, OMP_NUM_THREADS="1", ACCELERATE_USE_CPU="true")
    result.send(target(rank, *args))
