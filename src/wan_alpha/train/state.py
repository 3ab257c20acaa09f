"""Resumable training state: trainable weights, their average, optimiser, random states, best validation, number of finished steps.

The order of the data, its randomness and the learning rate are functions of (seed, step), see data/draws.py and train/schedule.py.
A state is a folder, OUTPUT/states/step_000500: written beside its place, flushed to the disk and renamed, so that a killed run or
a full disk leaves the states before it as they were.
"""

import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wan_alpha.checkpoints.files import read_tensors, require_shapes, write_tensors
from wan_alpha.errors import CheckpointError, UsageError
from wan_alpha.media.atomic import remove, staging
from wan_alpha.train.ema import Ema


@dataclass(kw_only=True)
class TrainState:
    """What training changes: parameters by published name, the optimiser over them, their average, the lowest validation loss so far."""

    trainables: dict[str, nn.Parameter]
    optimiser: torch.optim.Optimizer
    ema: Ema | None = None
    best: float = math.inf

    @contextmanager
    def published(self) -> Iterator[None]:
        """Inside, the trainables are what the run publishes: the average where there is one. After, they are exactly as before."""
        averaging: Any = self.optimiser if hasattr(self.optimiser, "eval") else None  # schedule-free ones have such a mode
        if self.ema is None and averaging is None:
            yield
            return
        before = {name: parameter.detach().clone() for name, parameter in self.trainables.items()}
        if averaging is not None:
            averaging.eval()
        if self.ema is not None:
            self._set(self.ema.average)
        try:
            yield
        finally:
            if averaging is not None:
                averaging.train()
            self._set(before)

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """The state's files of tensors, by name."""
        trainables = {name: parameter.detach() for name, parameter in self.trainables.items()}
        return {"trainables": trainables, **({"ema": self.ema.average} if self.ema is not None else {})}

    @torch.no_grad()
    def _set(self, tensors: dict[str, Tensor]) -> None:
        for name, parameter in self.trainables.items():
            parameter.copy_(tensors[name])


def save_state(
    output_path: Path,
    *,
    state: TrainState,
    optimiser: dict[str, Any],
    step: int,
    identity: dict[str, object],
    random: list[dict[str, Any]],
    keep: int,
) -> Path:
    """Write OUTPUT/states/step_NNNNNN, then drop all but the last `keep` states and those of later steps, which this run left behind.

    optimiser: its whole state; identity must be equal when resuming; random: random_states of each process. Raises CheckpointError
    when the disk takes it not.
    """
    folder = output_path / "states" / f"step_{step:06d}"
    about = {"step": step, "best": state.best if math.isfinite(state.best) else None, "identity": identity}
    try:
        with staging(folder) as partial:
            for name, tensors in state.tensors().items():
                write_tensors(partial / f"{name}.safetensors", tensors, metadata={})
            torch.save(optimiser, partial / "optimiser.pt")
            torch.save(random, partial / "random.pt")
            (partial / "state.json").write_text(json.dumps(about, indent=1))
            _flush(*partial.iterdir(), partial)
            _put_in_place(partial, folder)
    except (OSError, RuntimeError, CheckpointError) as error:
        do = "make room on the disk and go on with --resume latest: earlier states are as they were"
        raise CheckpointError(folder, got=str(error).splitlines()[0], expected="to write a state", do=do) from error
    done = [path for path in saved_states(output_path) if step_of(path) <= step]
    for old in set(saved_states(output_path)) - set(done[-keep:]):
        remove(old)
    return folder


def _put_in_place(partial: Path, folder: Path) -> None:
    """Rename; a state of this step that is there already stands aside until the new one is in its place."""
    aside = folder.with_name(folder.name + ".old")
    if folder.exists():
        folder.rename(aside)
    partial.rename(folder)
    _flush(folder.parent)
    remove(aside)


def _flush(*paths: Path) -> None:
    """To the disk itself, before a rename makes them count."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def recover_states(output_path: Path) -> None:
    """Clear away what a killed run left half done: a partial state goes, one that stood aside without a successor comes back."""
    for partial in (output_path / "states").glob("step_*.partial"):
        remove(partial)
    for aside in (output_path / "states").glob("step_*.old"):
        if aside.with_suffix("").exists():
            remove(aside)
        else:
            aside.rename(aside.with_suffix(""))


def saved_states(output_path: Path) -> list[Path]:
    """Complete state folders, oldest first."""
    return sorted((path for path in (output_path / "states").glob("step_*") if re.fullmatch(r"step_\d+", path.name)), key=step_of)


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step_"))


def require_no_states(output_path: Path) -> None:
    """A new run must not mix with, or delete, the states of an earlier one."""
    found = saved_states(output_path)
    if found:
        raise UsageError(
            output_path,
            got=f"the states of an earlier run ({found[-1].name})",
            expected="a new folder",
            do="add --resume latest, or another --output_path",
        )


def state_to_resume(resume: str, *, output_path: Path) -> Path:
    """The folder that 'latest' or a path means. Raises UsageError when it is none, or when another run's states are in the way."""
    if resume == "latest":
        found = saved_states(output_path)
        if not found:
            raise UsageError("--resume latest", got=f"no state in {output_path / 'states'}", do="start without --resume")
        return found[-1]
    folder = Path(resume)
    if not (folder / "state.json").is_file():
        raise UsageError(f"--resume {resume}", got="no state.json", expected="a state folder such as OUTPUT/states/step_000500")
    if folder.resolve().parent != (output_path / "states").resolve():
        require_no_states(output_path)
    return folder


def load_state(folder: Path, *, state: TrainState, identity: dict[str, object]) -> tuple[int, list[dict[str, Any]]]:
    """Load a state folder in place; returns the number of finished steps and the random states of each process.

    Raises UsageError when a setting that shapes training differs, CheckpointError when a file is damaged or does not fit; then
    nothing has been changed.
    """
    try:
        stored = json.loads((folder / "state.json").read_text())
        optimiser = torch.load(folder / "optimiser.pt", map_location="cpu", weights_only=True)
        random = torch.load(folder / "random.pt", map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, OSError) as error:
        raise _unusable(folder, error) from error
    _require_identity(identity, stored["identity"])
    read = {name: read_tensors(folder / f"{name}.safetensors") for name in state.tensors()}
    for name, tensors in state.tensors().items():
        require_shapes(read[name], tensors, what=folder / f"{name}.safetensors")
    try:
        state.optimiser.load_state_dict(optimiser)
    except (RuntimeError, ValueError) as error:
        raise _unusable(folder, error) from error
    with torch.no_grad():
        for name, tensors in state.tensors().items():
            for key, tensor in tensors.items():
                tensor.copy_(read[name][key])
    state.best = math.inf if stored["best"] is None else stored["best"]
    return int(stored["step"]), random


def _require_identity(identity: dict[str, object], stored: dict[str, object]) -> None:
    changed = [key for key in identity if stored.get(key) != json.loads(json.dumps(identity[key]))]
    if changed:
        values = ", ".join(f"{key} {identity[key]} (was {stored.get(key)})" for key in changed)
        do = "set them back, or start a new output_path"
        raise UsageError("--resume", got=values, expected="the settings of the run that wrote it", do=do)


def _unusable(folder: Path, error: Exception) -> CheckpointError:
    return CheckpointError(folder, got=str(error).splitlines()[0], do="resume from an older state: --resume FOLDER")
