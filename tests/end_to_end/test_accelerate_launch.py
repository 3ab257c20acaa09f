"""`train-dit` by accelerate's launcher in two processes on a CPU (gloo), as the guide says: as one process with twice the batch."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tiny_stage2 import tiny_stage2
from training_log import log_lines
from wan_alpha.checkpoints.files import read_tensors
from wan_alpha.train.dit import train

LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--main_process_port", "0"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no"]
TIMEOUT_S = 300


def test_two_launched_processes_train_an_adapter_as_one_with_twice_the_batch(tmp_path: Path) -> None:
    settings = {"precision": "float32", "tracker": "none", "log_every_steps": 1, "learning_rate": 1e-3, "warmup_steps": 1}
    alone = tiny_stage2(tmp_path, draws=1, **settings)
    both = replace(alone, batch_size=1, output_path=tmp_path / "both")
    names = (*settings, "height", "width", "num_frames", "cache_path", "max_steps", "batch_size", "output_path")
    flags = [f"--{name}={getattr(both, name)}" for name in names]
    done = subprocess.run(
        [sys.executable, *LAUNCH, "-m", "wan_alpha", "train-dit", "--recipe=tiny", *flags],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path / "no_configuration_of_the_user")},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    (file,) = train(alone)
    assert done.stdout.count(file.name) == 1, "the first process alone reports"
    found, expected = log_lines(both.output_path), log_lines(alone.output_path)
    assert len(found) == 2
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["total"] == pytest.approx(theirs["total"], abs=1e-5)
        assert ours == pytest.approx(theirs, rel=1e-4)
    states = torch.load(both.output_path / "states" / "step_000002" / "random.pt", weights_only=True)
    assert len(states) == 2, "two processes took part"
    found, expected = (read_tensors(path) for path in (both.output_path / file.name, file))
    assert found.keys() == expected.keys()
    apart = torch.cat([(found[name] - expected[name]).abs().flatten() for name in expected]).sort().values
    # AdamW divides a gradient by its own size: where it is all rounding, so is the step, of up to 1e-3; how it rounds, the CPU decides.
    assert apart[int(0.999 * len(apart))] <= 1e-6
    assert apart[-1] <= 5e-4
