import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from torch import nn

from wan_alpha.config import TrainConfig
from wan_alpha.data.draws import normal_at
from wan_alpha.errors import UsageError
from wan_alpha.train.loop import Stage, fit, learning_rate_at, positions_of, total_steps
from wan_alpha.train.state import saved_states

CPU = torch.device("cpu")


def stage_of(weight, loss, **hooks):
    parts = {"save": lambda epoch: [], "num_clips": 6, "data_fingerprint": "clips", "device": CPU, **hooks}
    return Stage(verb="train-vae", trainables={"weight": weight}, loss=loss, **parts)


def run(config, *, stop_after=None, **hooks):
    """Fit y = w x to noise that belongs to the sample; returns the weight."""
    weight = nn.Parameter(torch.ones(4))

    def loss(positions):
        if stop_after is not None and positions[0] >= stop_after:
            os.kill(os.getpid(), signal.SIGTERM)
        x = normal_at(config.seed, positions, (4,))
        return {"total": (weight * x - 2 * x).square().mean()}

    fit(config, stage=stage_of(weight, loss, **hooks))
    return weight.detach()


@pytest.fixture
def config(tmp_path):
    return TrainConfig(output_path=tmp_path / "run", max_steps=4, learning_rate=0.1, warmup_steps=2, save_every_steps=2, batch_size=2)


def test_two_plus_two_steps_are_four_steps_bitwise(config, tmp_path):
    whole = run(replace(config, output_path=tmp_path / "whole"))
    run(replace(config, max_steps=2))
    assert torch.equal(run(replace(config, resume="latest")), whole)


def test_accumulation_equals_a_larger_batch(config, tmp_path):
    large = run(config)
    small = run(replace(config, output_path=tmp_path / "small", batch_size=1, gradient_accumulation_steps=2))
    torch.testing.assert_close(small, large, atol=1e-6, rtol=0)
    assert positions_of(replace(config, batch_size=1, gradient_accumulation_steps=2), step=3, micro_batch=1) == [7]


def test_a_stop_signal_finishes_the_step_and_saves(config, tmp_path):
    whole = run(replace(config, output_path=tmp_path / "whole"))
    run(config, stop_after=2)  # asked to stop during the second step
    assert [path.name for path in saved_states(config.output_path)] == ["step_000002"]
    assert torch.equal(run(replace(config, resume="latest")), whole)


def test_only_the_last_states_are_kept_and_metrics_are_logged(config):
    run(replace(config, save_every_steps=1))
    assert [path.name for path in saved_states(config.output_path)] == ["step_000003", "step_000004"]
    lines = metrics(config)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert {"total", "learning_rate", "gradient_norm"} <= lines[0].keys()


def metrics(config):
    return [json.loads(line) for line in (config.output_path / "metrics.jsonl").read_text().splitlines()]


def test_validation_is_logged_and_the_best_is_kept_over_a_resume(config):
    totals, best = {1: 3.0, 2: 2.0, 3: 2.5, 4: 1.0}, []
    hooks = {
        "validate": lambda step: best.append(step) or {"total": totals[step], "edge": 0.5},
        "save_best": lambda: best.append("best") or [],
    }
    config = replace(config, validate_every_steps=1)
    run(replace(config, max_steps=2), **hooks)
    run(replace(config, resume="latest"), **hooks)
    assert best == [1, "best", 2, "best", 3, 4, "best"]
    assert [line for line in metrics(config) if "validation/total" in line][2] == {
        "step": 3,
        "validation/total": 2.5,
        "validation/edge": 0.5,
    }


def test_resuming_with_other_settings_is_refused(config):
    run(config)
    with pytest.raises(UsageError, match=r"learning_rate 0.2 \(was 0.1\)"):
        run(replace(config, resume="latest", learning_rate=0.2))
    with pytest.raises(UsageError, match=r"no state\.json"):
        run(replace(config, resume="nowhere"))


def test_a_new_run_does_not_touch_the_states_of_an_earlier_one(config):
    run(config)
    with pytest.raises(UsageError, match="--resume latest"):
        run(config)


def test_resuming_a_finished_run_writes_its_files_again(config):
    run(config)
    saved = []
    run(replace(config, resume="latest"), save=lambda epoch: saved.append(epoch) or [])
    assert saved == [1]


def test_a_loss_that_is_not_finite_is_not_stepped(config):
    weight = nn.Parameter(torch.ones(4))
    with pytest.raises(UsageError, match="step 1: got a gradient norm of nan"):
        fit(config, stage=stage_of(weight, lambda positions: {"total": (weight * float("nan")).sum()}))
    assert torch.equal(weight, torch.ones(4))


def test_several_processes_are_refused(config, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="2 processes"):
        run(config)


def test_resume_without_a_state_says_so(config):
    with pytest.raises(UsageError, match="start without --resume"):
        run(replace(config, resume="latest"))


def test_learning_rate(config):
    assert learning_rate_at(config, step=0, total=100) == pytest.approx(0.05)
    assert learning_rate_at(config, step=50, total=100) == pytest.approx(0.1)
    cosine = replace(config, decay="cosine")
    assert learning_rate_at(cosine, step=50, total=100) == pytest.approx(0.1 * 0.51)
    assert learning_rate_at(cosine, step=100, total=100) == pytest.approx(0.1 * 0.02)


def test_steps(config):
    assert total_steps(replace(config, max_steps=None, num_epochs=3), num_clips=5) == 9
    assert total_steps(replace(config, max_steps=None, num_epochs=3, dataset_repeat=2), num_clips=5) == 15
