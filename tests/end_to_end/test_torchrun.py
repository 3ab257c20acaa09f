"""`train-vae` by torchrun in two processes on a CPU (gloo), through the command line: as one process with twice the batch."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from training_log import log_lines
from wan_alpha import recipes
from wan_alpha.checkpoints.files import read_tensors
from wan_alpha.prepare import prepare
from wan_alpha.train.vae import train

FILE = "stage1_epoch_1.safetensors"  # two clips, two samples a step: two epochs


def test_two_processes_train_the_vae_as_one_with_twice_the_batch(tmp_path: Path) -> None:
    tiny, size = recipes.get_recipe("tiny"), {"height": 32, "width": 32, "num_frames": 5}
    prepare(replace(tiny.prepare, synthetic=2, output_path=tmp_path / "data", **size))
    settings = {**size, "dataset_base_path": tmp_path / "data", "max_steps": 2, "precision": "float32", "tracker": "none"}
    alone, both = (replace(tiny.train_vae, **settings, batch_size=n, output_path=tmp_path / str(n)) for n in (2, 1))
    flags = [f"--{name}={getattr(both, name)}" for name in (*settings, "batch_size", "output_path")]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*torchrun, "-m", "wan_alpha", "train-vae", "--recipe", "tiny", *flags],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(FILE) == 1, "the first process alone reports"

    train(alone)
    for found, expected in zip(log_lines(tmp_path / "1"), log_lines(tmp_path / "2"), strict=True):
        assert found == pytest.approx(expected, rel=1e-4)
    found, expected = (read_tensors(tmp_path / name / FILE) for name in "12")
    assert found.keys() == expected.keys()
    apart = [float((found[name] - expected[name]).norm() / expected[name].norm().clamp_min(1e-6)) for name in expected]
    assert max(apart) < 1e-3, "Adam divides by the gradient's size, so what is near zero may differ"
    assert torch.isfinite(torch.tensor(apart)).all()
