import json
import time

import pytest

from toy_training import run, toy_config
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
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
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
