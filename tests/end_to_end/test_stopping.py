"""A real training process that is asked to stop: it ends well, and the command that it prints goes on from there."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from wan_alpha import recipes
from wan_alpha.cli import main
from wan_alpha.prepare import prepare
from wan_alpha.train.state import saved_states

PATIENCE_SECONDS = 300


def logged_steps(folder: Path) -> list[int]:
    path = folder / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.is_file() else []  # what follows the last line break is not whole yet
    return [json.loads(line)["step"] for line in lines]


def test_sigterm_ends_a_training_with_0_and_its_command_goes_on(tmp_path: Path) -> None:
    tiny, size = recipes.get_recipe("tiny"), {"height": 32, "width": 32, "num_frames": 5}
    prepare(replace(tiny.prepare, synthetic=2, output_path=tmp_path / "data", **size))
    output = tmp_path / "vae"
    settings = {**size, "dataset_base_path": tmp_path / "data", "output_path": output, "max_steps": 900, "log_every_steps": 1}
    flags = [f"--{name}={value}" for name, value in {**settings, "decay": "constant", "precision": "float32", "tracker": "none"}.items()]
    process = subprocess.Popen(
        [sys.executable, "-m", "wan_alpha", "train-vae", "--recipe", "tiny", *flags],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(logged_steps(output)) < 2 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.terminate()
        said, _ = process.communicate(timeout=PATIENCE_SECONDS)
    finally:
        process.kill()
    assert process.returncode == 0, said
    told = re.search(r"stopped after step (\d+) of \d+; continue with: wan-alpha (.+)", said)
    assert told is not None, said
    last, words = int(told[1]), shlex.split(told[2])
    assert last >= 2
    assert [path.name for path in saved_states(output)] == [f"step_{last:06d}"]
    assert logged_steps(output) == list(range(1, last + 1))

    words[words.index("--max_steps") + 1] = str(last + 1)
    assert main(words) == 0
    assert logged_steps(output) == list(range(1, last + 2))
