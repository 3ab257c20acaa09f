"""Resumable training state: trainable weights, optimiser, and the number of finished steps.

Randomness and the order of the data are functions of (seed, step), see data/draws.py, so these three are the whole state.
A state is a folder, OUTPUT/states/step_000500, written beside and renamed; the last two are kept.
"""

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from wan_alpha.checkpoints.files import read_tensors, require_shapes, write_tensors
from wan_alpha.errors import CheckpointError, UsageError

KEEP_LAST = 2


@dataclass(kw_only=True)
class TrainState:
    """What training changes: parameters by published name, the optimiser over them, and the lowest validation loss so far."""

    trainables: dict[str, nn.Parameter]
    optimiser: torch.optim.Optimizer
    best: float = math.inf


def save_state(output_path: Path, state: TrainState, *, step: int, identity: dict[str, object]) -> Path:
    """Write OUTPUT/states/step_NNNNNN and drop all but the last states. `identity` must be equal when resuming."""
    folder = output_path / "states" / f"step_{step:06d}"
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        write_tensors(partial / "trainables.safetensors", {name: p.detach() for name, p in state.trainables.items()}, metadata={})
        torch.save(state.optimiser.state_dict(), partial / "optimiser.pt")
        (partial / "state.json").write_text(json.dumps({"step": step, "best": state.best, "identity": identity}, indent=1))
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for old in saved_states(output_path)[:-KEEP_LAST]:
        shutil.rmtree(old)
    return folder


def saved_states(output_path: Path) -> list[Path]:
    """Complete state folders, oldest first."""
    return sorted(path for path in (output_path / "states").glob("step_*") if path.suffix != ".partial")


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


def load_state(resume: str, state: TrainState, *, output_path: Path, identity: dict[str, object]) -> int:
    """Load 'latest' or a named state folder in place; returns the number of finished steps.

    Raises UsageError when there is none or when a setting that shapes training differs, CheckpointError when it does not fit.
    """
    if resume == "latest":
        found = saved_states(output_path)
        if not found:
            raise UsageError("--resume latest", got=f"no state in {output_path / 'states'}", do="start without --resume")
        folder = found[-1]
    else:
        folder = Path(resume)
        if not (folder / "state.json").is_file():
            raise UsageError(f"--resume {resume}", got="no state.json", expected="a state folder such as OUTPUT/states/step_000500")
    stored = json.loads((folder / "state.json").read_text())
    changed = [key for key in identity if stored["identity"].get(key) != json.loads(json.dumps(identity[key]))]
    if changed:
        values = ", ".join(f"{key} {identity[key]} (was {stored['identity'].get(key)})" for key in changed)
        raise UsageError(
            "--resume", got=values, expected="the settings of the run that wrote it", do="set them back, or start a new output_path"
        )
    tensors = read_tensors(folder / "trainables.safetensors")
    require_shapes(tensors, dict(state.trainables), what=folder / "trainables.safetensors")
    with torch.no_grad():
        for name, parameter in state.trainables.items():
            parameter.copy_(tensors[name])
    try:
        state.optimiser.load_state_dict(torch.load(folder / "optimiser.pt", map_location="cpu", weights_only=True))
    except (RuntimeError, ValueError, OSError) as error:
        raise CheckpointError(folder / "optimiser.pt", got=str(error).splitlines()[0], do="resume from an older state") from error
    state.best = stored.get("best", math.inf)
    return int(stored["step"])
