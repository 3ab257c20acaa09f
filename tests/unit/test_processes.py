"""Two processes train as one with twice the batch."""

import torch

from forked import train_together
from toy_training import run, toy_config
from training_log import log_lines
from wan_alpha.train.state import saved_states


def test_two_processes_are_one_with_twice_the_batch(tmp_path):
    settings = {"ema_decay": 0.9, "gradient_accumulation_steps": 2, "save_every_epochs": 100}
    alone = run(toy_config(tmp_path / "alone", **settings, batch_size=4))
    first, second = train_together(2, tmp_path / "both", **settings, batch_size=2)
    assert first[0] == second[0]
    torch.testing.assert_close(torch.tensor(first[0]), alone, atol=1e-6, rtol=0)
    assert (first[1], second[1]) == ([3], [])  # the first one alone writes
    for found, expected in zip(log_lines(tmp_path / "both"), log_lines(tmp_path / "alone"), strict=True):
        torch.testing.assert_close(torch.tensor(list(found.values())), torch.tensor(list(expected.values())), atol=1e-6, rtol=0)


def test_all_stop_together_and_any_number_goes_on(tmp_path):
    whole = run(toy_config(tmp_path / "whole", batch_size=4))
    first, second = train_together(2, tmp_path / "both", batch_size=2, save_every_steps=100, log_every_steps=1, stop_at=(1, 6))
    assert first[0] == second[0]
    assert [path.name for path in saved_states(tmp_path / "both")] == ["step_000002"]  # asked for in the second step, by the second process
    again = run(toy_config(tmp_path / "both", batch_size=2, gradient_accumulation_steps=2, resume="latest"))
    torch.testing.assert_close(again, whole, atol=1e-6, rtol=0)
