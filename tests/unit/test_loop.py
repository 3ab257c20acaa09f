import os
import signal
import traceback
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from toy_training import run, stage_of, toy_config
from training_log import log_lines
from wan_alpha.cli import parse_config
from wan_alpha.config import TrainDitConfig
from wan_alpha.data.shares import Share
from wan_alpha.errors import UsageError
from wan_alpha.train.loop import fit
from wan_alpha.train.state import TrainState, saved_states
from wan_alpha.train.step import WholeUpdate, optimiser_step
from wan_alpha.train.stopping import resume_command


@pytest.fixture
def config(tmp_path):
    return toy_config(tmp_path / "run")


def stop_from(position, number=signal.SIGTERM):
    """Ask to stop in the forward pass of this position."""
    return lambda at: os.kill(os.getpid(), number) if at == position else None


def test_two_plus_two_steps_are_four_steps_bitwise(config, tmp_path):
    whole = run(replace(config, output_path=tmp_path / "whole"))
    run(replace(config, max_steps=2))
    assert torch.equal(run(replace(config, resume="latest")), whole)


def test_accumulation_equals_a_larger_batch(config, tmp_path):
    small = replace(config, output_path=tmp_path / "small", batch_size=1, gradient_accumulation_steps=2)
    torch.testing.assert_close(run(small), run(config), atol=1e-6, rtol=0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_signal_finishes_the_step_and_saves(config, tmp_path, number, caplog):
    whole = run(replace(config, output_path=tmp_path / "whole"))
    saved = []
    run(replace(config, save_every_steps=100), at=stop_from(2, number), save=lambda epoch: saved.append(epoch) or [])
    assert [path.name for path in saved_states(config.output_path)] == ["step_000002"]
    assert saved == [0]
    assert "wan-alpha train-vae --output_path" in caplog.text
    assert "--resume latest" in caplog.text
    assert torch.equal(run(replace(config, resume="latest")), whole)


def test_the_resume_command_says_what_is_not_the_default(config):
    command = resume_command(config, verb="train-vae", processes=2)
    assert command.startswith("torchrun --nproc_per_node 2 -m wan_alpha train-vae --output_path ")
    assert "--learning_rate 0.1" in command
    assert "--num_epochs" not in command
    assert parse_config("train-dit", TrainDitConfig(), command.split()[6:]).resume == "latest"


def test_only_the_last_states_are_kept_and_every_step_is_logged(config):
    run(replace(config, save_every_steps=1, keep_states=3, log_every_steps=3))
    assert [path.name for path in saved_states(config.output_path)] == ["step_000002", "step_000003", "step_000004"]
    assert [line["step"] for line in log_lines(config.output_path)] == [1, 2, 3, 4]
    assert all({"total", "learning_rate", "gradient_norm"} < line.keys() for line in log_lines(config.output_path))


def test_validation_is_logged_and_the_best_is_kept_over_a_resume(config):
    totals, called = {1: 3.0, 2: 2.0, 3: 2.5, 4: 1.0}, []
    hooks = {
        "validate": lambda step: called.append(step) or {"total": totals[step], "edge": 0.5},
        "save_best": lambda: called.append("best") or [],
    }
    config = replace(config, validate_every_steps=1)
    run(replace(config, max_steps=2), **hooks)
    run(replace(config, resume="latest"), **hooks)
    assert called == [1, "best", 2, "best", 3, 4, "best"]
    validations = [line for line in log_lines(config.output_path) if "validation/total" in line]
    assert validations[2] == {"step": 3, "validation/total": 2.5, "validation/edge": 0.5}


def test_without_its_setting_nothing_is_validated(config):
    called: list[int] = []
    run(config, validate=lambda step: called.append(step) or {})
    assert called == []


def test_what_is_published_and_validated_is_the_average(config, tmp_path):
    plain, seen = run(replace(config, output_path=tmp_path / "plain", max_steps=1)), []
    weight, start = nn.Parameter(torch.ones(4)), torch.ones(4)
    look = {
        "validate": lambda step: seen.append(weight.detach().clone()) or {},
        "save": lambda epoch: seen.append(weight.detach().clone()) or [],
    }
    last = run(replace(config, max_steps=1, ema_decay=0.999, validate_every_steps=1), weight=weight, **look)
    assert torch.equal(last, plain)  # training itself does not see the average
    for average in seen:
        torch.testing.assert_close(average, 0.1 * start + 0.9 * plain)  # d = (1 + 0) / (10 + 0)
    assert len(seen) == 2


def test_resuming_with_other_settings_is_refused(config):
    run(config)
    with pytest.raises(UsageError, match=r"learning_rate 0.2 \(was 0.1\)"):
        run(replace(config, resume="latest", learning_rate=0.2))
    with pytest.raises(UsageError, match=r"samples_per_step 4 \(was 2\)"):
        run(replace(config, resume="latest", gradient_accumulation_steps=2))
    with pytest.raises(UsageError, match=r"no state\.json"):
        run(replace(config, resume="nowhere"))


def test_a_new_run_does_not_touch_the_states_of_an_earlier_one(config, tmp_path):
    run(config)
    with pytest.raises(UsageError, match="--resume latest"):
        run(config)
    other = replace(config, output_path=tmp_path / "other")
    run(other)
    with pytest.raises(UsageError, match="states of an earlier run"):
        run(replace(other, resume=str(saved_states(config.output_path)[0])))


def test_going_back_leaves_the_later_steps_behind(config):
    run(config)
    first = saved_states(config.output_path)[0]
    run(replace(config, resume=str(first), save_every_steps=1, max_steps=3))
    assert [path.name for path in saved_states(config.output_path)] == ["step_000002", "step_000003"]
    assert [line["step"] for line in log_lines(config.output_path)] == [1, 2, 3]


def test_resuming_a_finished_run_writes_its_files_again(config):
    run(config)
    saved = []
    run(replace(config, resume="latest"), save=lambda epoch: saved.append(epoch) or [])
    assert saved == [1]


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(config):
    weight = nn.Parameter(torch.ones(4))

    def loss(positions):
        return {"total": (weight * (float("nan") if positions[0] == 2 else 0.0)).sum()}

    with pytest.raises(UsageError, match="step 2: got a gradient norm of nan"):
        fit(replace(config, weight_decay=0.0), stage=stage_of(weight, loss))
    assert torch.equal(weight, torch.ones(4))
    assert saved_states(config.output_path) == []  # found before a state is written
    assert [line["step"] for line in log_lines(config.output_path)] == [1]


@pytest.mark.parametrize(("max_grad_norm", "step"), [(1.0, (0.6, 0.8)), (10.0, (3.0, 4.0))])
def test_gradients_are_clipped_to_max_grad_norm(config, max_grad_norm, step):
    """Two micro-batches whose mean gradient is (3, 4), of norm 5: a plain gradient step shows what reached the weights."""
    weight, gradients = nn.Parameter(torch.zeros(2)), iter([torch.tensor([6.0, 0.0]), torch.tensor([0.0, 8.0])])
    settings = {"gradient_accumulation_steps": 2, "learning_rate": 0.5, "warmup_steps": 0, "max_grad_norm": max_grad_norm}
    config, accelerator = replace(config, **settings), Accelerator(cpu=True)
    state = TrainState(trainables={"weight": weight}, optimiser=torch.optim.SGD([{"params": [weight], "factor": 1.0}]))
    update = WholeUpdate(config, accelerator=accelerator, state=state, loss=lambda _: {"total": (weight * next(gradients)).sum()})
    values = optimiser_step(config, update=update, state=state, share=Share(rank=0, count=1), step=0, total=1)
    torch.testing.assert_close(weight.detach(), -0.5 * torch.tensor(step))
    assert values["gradient_norm"].item() == pytest.approx(5.0)  # as it was before clipping


class Fetches(TorchDispatchMode):
    """Counts what waits for the device: numbers read out of tensors, less the step counters that AdamW keeps on the CPU."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            self.count += not any("/torch/optim/" in call.filename for call in traceback.extract_stack())
        return func(*args, **(kwargs or {}))


def test_nothing_waits_for_the_device_between_fetches(config, tmp_path):
    counts = []
    for steps in (3, 6):
        with Fetches() as fetches:
            run(replace(config, output_path=tmp_path / str(steps), max_steps=steps, save_every_steps=100, log_every_steps=100))
        counts.append(fetches.count)
    assert counts[0] == counts[1]


def test_trainables_must_be_float32(config):
    with pytest.raises(UsageError, match=r"bfloat16, expected float32"):
        run(config, weight=nn.Parameter(torch.ones(4, dtype=torch.bfloat16)))


def test_resume_without_a_state_says_so(config):
    with pytest.raises(UsageError, match="start without --resume"):
        run(replace(config, resume="latest"))
