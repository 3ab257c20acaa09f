import time
from pathlib import Path
from typing import ClassVar

import pytest
from accelerate import tracking
from accelerate.utils import LoggerType

from toy_training import run, toy_config
from training_log import log_lines
from wan_alpha.errors import UsageError
from wan_alpha.train.tracking import truncate_metrics


def scalars(folder):
    """(step, value) by tag, over all event files of a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_has_every_step_once_after_a_resume(tmp_path):
    config = toy_config(tmp_path, tracker="tensorboard", save_every_steps=2, validate_every_steps=2, max_steps=3)
    hooks = {"validate": lambda step: {"total": float(step)}}
    run(config, **hooks)
    time.sleep(1.1)  # event files are read in the order of their names, which hold whole seconds
    run(toy_config(tmp_path, tracker="tensorboard", resume=str(tmp_path / "states" / "step_000002")), **hooks)
    logged = scalars(tmp_path / "logs" / "wan-alpha")
    assert [step for step, _ in logged["total"]] == [1, 2, 3, 4]
    assert logged["validation/total"] == [(2, 2.0)]
    lines = log_lines(tmp_path)
    assert [line["total"] for line in lines if "total" in line] == pytest.approx([value for _, value in logged["total"]], abs=1e-6)


def test_metrics_beyond_a_step_and_torn_lines_go(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "total": 1}\n{"step": 2, "total": 1}\n{"step": 2, "validation/total": 1}\n{"step": 3}\n{"step": 4, "to')
    truncate_metrics(path, step=2)
    assert path.read_text() == '{"step": 1, "total": 1}\n{"step": 2, "total": 1}\n{"step": 2, "validation/total": 1}\n'
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_unknown_and_missing_trackers_are_named(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="did you mean 'wandb'"):
        run(toy_config(tmp_path, tracker="wandbb"))
    monkeypatch.setattr("wan_alpha.train.tracking.get_available_trackers", lambda: [])
    with pytest.raises(UsageError, match="pip install trackio, or take --tracker none"):
        run(toy_config(tmp_path, tracker="trackio"))


class FakeTracker(tracking.GeneralTracker):
    """Takes whatever name accelerate gives a tracker; keeps what reaches it, and whether the folder that it is told of is there."""

    name, requires_logging_directory, main_process_only = "fake", True, True
    made: ClassVar[list["FakeTracker"]] = []

    def __init__(self, project, logging_dir, **own):
        super().__init__()
        self.project, self.folders, self.own = project, [Path(logging_dir), *([Path(own["dir"])] if "dir" in own else [])], own
        self.config, self.logged, self.finished = {}, [], False
        self.made.append(self)

    tracker = property(lambda self: self)

    def start(self):
        self.folders_are_there = all(folder.is_dir() for folder in self.folders)

    def store_init_configuration(self, values):
        self.config = values

    def log(self, values, step=None, **_):
        self.logged.append((step, sorted(values)))

    def finish(self):
        self.finished = True


@pytest.mark.parametrize("name", [name for name in LoggerType.list() if name != LoggerType.ALL.value])
def test_any_tracker_that_accelerate_names_is_fed(tmp_path, monkeypatch, name):
    for module in ("wan_alpha.train.tracking", "accelerate.tracking"):
        monkeypatch.setattr(f"{module}.get_available_trackers", lambda: [LoggerType(name)])
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, name, FakeTracker)
    monkeypatch.setattr(FakeTracker, "made", [])
    run(toy_config(tmp_path, tracker=name, max_steps=2))
    (found,) = FakeTracker.made
    assert (found.project, found.folders_are_there, found.finished) == ("wan-alpha", True, True)
    assert set(found.folders) == {tmp_path / "logs"}
    assert [step for step, _ in found.logged] == [1, 2]
    assert all("total" in names for _, names in found.logged)
    assert ("dir" in found.own) == (name == "wandb")
    assert (found.config.get("max_steps") == 2) == (name != "tensorboard")
