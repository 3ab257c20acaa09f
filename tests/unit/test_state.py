"""States on the disk: whole or not at all, whatever happens while one is written."""

import json
import random
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from forked import forked, save_at, save_without_end, state_at
from full_disk import full_after
from toy_training import run, toy_config
from wan_alpha.errors import CheckpointError
from wan_alpha.train.randomness import random_states, restore_random_states
from wan_alpha.train.state import load_state, recover_states, saved_states, state_to_resume


def load_latest(folder):
    """Recover and load as a resumed run does; returns the number of finished steps."""
    recover_states(folder)
    state = state_at(0)
    step, _ = load_state(state_to_resume("latest", output_path=folder), state=state, identity={})
    assert torch.equal(state.trainables["weight"].detach(), torch.full((8,), float(step)))
    assert state.best == step
    return step


def test_killing_a_run_while_it_saves_leaves_a_latest_that_loads(tmp_path):
    """Twenty times kill -9, each at another moment of a process that does nothing but save."""
    dice, latest = random.Random(0), 1
    save_at(latest, tmp_path)
    for kill in range(20):
        process = forked(save_without_end, tmp_path, latest)  # its first state replaces the latest one
        begun = "step_*.partial" if kill % 2 else f"step_{latest + 1:06d}"
        while process.is_alive() and not any((tmp_path / "states").glob(begun)):
            time.sleep(0.0005)
        assert process.is_alive()
        time.sleep(dice.uniform(0, 0.01))  # a state takes about as long
        process.kill()
        process.join()
        found = load_latest(tmp_path)
        assert found >= latest
        latest = found
    assert latest > 10


@pytest.mark.parametrize("limit", [64, 1200])
def test_a_full_disk_is_an_error_that_keeps_the_previous_state(tmp_path, limit):
    save_at(1, tmp_path)
    with full_after(limit), pytest.raises(CheckpointError, match="make room on the disk and go on with --resume latest"):
        save_at(2, tmp_path)
    assert [path.name for path in (tmp_path / "states").iterdir()] == ["step_000001"]
    assert load_latest(tmp_path) == 1


def test_a_state_of_the_same_step_is_there_until_the_new_one_is(tmp_path):
    """Killed between the two renames: what stood aside comes back."""
    folder = save_at(1, tmp_path)
    folder.rename(folder.with_name("step_000001.old"))
    (tmp_path / "states" / "step_000001.partial").mkdir()
    assert load_latest(tmp_path) == 1
    save_at(1, tmp_path)
    assert [path.name for path in (tmp_path / "states").iterdir()] == ["step_000001"]


def test_what_stood_aside_goes_when_its_successor_is_in_place(tmp_path):
    save_at(1, tmp_path).rename(tmp_path / "states" / "step_000001.old")
    save_at(1, tmp_path)
    recover_states(tmp_path)
    assert [path.name for path in (tmp_path / "states").iterdir()] == ["step_000001"]


def test_a_million_steps_come_after_the_rest(tmp_path):
    for step in (999_999, 1_000_000):
        save_at(step, tmp_path)
    assert load_latest(tmp_path) == 1_000_000


@pytest.mark.parametrize("name", ["trainables.safetensors", "optimiser.pt", "random.pt", "state.json"])
def test_a_damaged_file_is_named_and_nothing_is_loaded(tmp_path, name):
    folder = save_at(3, tmp_path)
    (folder / name).write_bytes((folder / name).read_bytes()[:20])
    state = state_at(7)
    with pytest.raises(CheckpointError, match="step_000003"):
        load_state(folder, state=state, identity={})
    assert torch.equal(state.trainables["weight"].detach(), torch.full((8,), 7.0))


def test_process_wide_random_draws_go_on_where_they_were(tmp_path):
    """For losses that draw from torch's and NumPy's own generators."""
    drawn, config = [], toy_config(tmp_path / "run")

    def at(position):
        drawn.append((float(torch.rand(())), np.random.rand()))

    run(replace(config, max_steps=2), at=at)
    expected = (float(torch.rand(())), np.random.rand())
    run(replace(config, resume="latest"), at=at)
    assert drawn[2] == expected


def test_every_process_wide_generator_is_restored():
    states = random_states(torch.device("cpu"))
    expected = random.random(), np.random.rand(), float(torch.rand(()))
    restore_random_states(states, device=torch.device("cpu"))
    assert (random.random(), np.random.rand(), float(torch.rand(()))) == expected


def test_the_state_says_what_it_is_of(tmp_path):
    config = toy_config(tmp_path)
    run(config, weight=nn.Parameter(torch.ones(4)))
    stored = json.loads((saved_states(tmp_path)[-1] / "state.json").read_text())
    assert stored["step"] == 4
    assert stored["best"] is None
    assert stored["identity"]["learning_rate"] == config.learning_rate
