"""Where a run's numbers go: OUTPUT/metrics.jsonl always, and the tracker that --tracker names (TensorBoard: OUTPUT/logs)."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType, ProjectConfiguration
from torch import Tensor

from wan_alpha.config import TrainConfig
from wan_alpha.errors import UsageError, did_you_mean
from wan_alpha.media.atomic import beside
from wan_alpha.run_record import config_as_json

PROJECT = "wan-alpha"
METRICS_FILE = "metrics.jsonl"


def tracker_settings(config: TrainConfig) -> dict[str, object]:
    """What accelerate wants to know for the configured tracker. Raises UsageError for an unknown one or a missing package."""
    if config.tracker == "none":
        return {}
    known = [name for name in LoggerType.list() if name != LoggerType.ALL.value]
    if config.tracker not in known:
        raise UsageError(f"--tracker {config.tracker}", got="an unknown tracker", do=did_you_mean(config.tracker, [*known, "none"]))
    if config.tracker not in [str(name) for name in get_available_trackers()]:
        raise UsageError(f"--tracker {config.tracker}", got="no such package", do=f"pip install {config.tracker}, or take --tracker none")
    folders = ProjectConfiguration(project_dir=str(config.output_path), logging_dir=str(config.output_path / "logs"))
    return {"log_with": config.tracker, "project_config": folders}


@dataclass(frozen=True, kw_only=True)
class Tracker:
    """Numbers by step, written by the first process alone; a resumed run's log goes on after the step that it starts from."""

    config: TrainConfig
    accelerator: Accelerator

    def open(self, *, first: int) -> None:
        """Forget what was logged after step `first`: those steps are made again."""
        if not self.accelerator.is_main_process:
            return
        truncate_metrics(self.config.output_path / METRICS_FILE, step=first)
        if self.config.tracker != "none":
            logs = self.config.output_path / "logs"
            logs.mkdir(parents=True, exist_ok=True)  # wandb writes to the machine's temporary folder when its own is not there
            own = {"tensorboard": {"purge_step": first + 1}, "wandb": {"dir": str(logs)}}
            settings = None if self.config.tracker == "tensorboard" else config_as_json(self.config)  # run.json has them
            self.accelerator.init_trackers(PROJECT, config=settings, init_kwargs=own)

    def log(self, values: dict[str, float], *, step: int) -> None:
        if not self.accelerator.is_main_process:
            return
        with (self.config.output_path / METRICS_FILE).open("a") as file:
            file.write(json.dumps({"step": step, **{name: round(value, 8) for name, value in values.items()}}) + "\n")
        self.accelerator.log(values, step=step)

    def close(self) -> None:
        for tracker in self.accelerator.trackers:
            tracker.finish()


def truncate_metrics(path: Path, *, step: int) -> None:
    """Keep the lines up to this step, in one move; a line that a killed run left half written goes too."""
    kept = [line for line in path.read_text().splitlines() if _step_of(line) <= step] if path.is_file() else []
    with beside(path) as partial:
        partial.write_text("".join(line + "\n" for line in kept))


def _step_of(line: str) -> int | float:
    try:
        return json.loads(line)["step"]
    except json.JSONDecodeError:
        return math.inf


@dataclass(kw_only=True)
class Pending:
    """Numbers of finished steps that are still on the device."""

    accelerator: Accelerator
    steps: list[int] = field(default_factory=list)
    values: list[dict[str, Tensor]] = field(default_factory=list)

    def add(self, values: dict[str, Tensor], *, step: int) -> None:
        self.steps.append(step)
        self.values.append(values)

    def fetch(self, *, stop: bool) -> tuple[dict[int, dict[str, float]], bool]:
        """Means over the processes by step, and whether any process wants to stop. One transfer for all; then nothing is pending."""
        flag = torch.tensor(float(stop), device=self.accelerator.device)
        held = [value for values in self.values for value in values.values()]
        *numbers, wanted = self.accelerator.reduce(torch.stack([*held, flag]), reduction="mean").tolist()
        following = iter(numbers)
        fetched = {step: {name: next(following) for name in values} for step, values in zip(self.steps, self.values, strict=True)}
        self.steps, self.values = [], []
        return fetched, wanted > 0
