"""The whole road on a real folder, through the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(600)
def test_debug_script_on_real_clips(shared_clips, tmp_path):
    environment = {
        **os.environ,
        "WAN_ALPHA": f"{sys.executable} -m wan_alpha",
        "VAE_STEPS": "1",
        "DIT_STEPS": "1",
        "HEIGHT": "32",
        "WIDTH": "32",
        "FRAMES": "5",
    }
    script = ["bash", str(ROOT / "runs" / "debug.sh"), str(shared_clips), str(tmp_path)]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    manifest = json.loads((shared_clips / "manifest.json").read_text())
    assert len(report["clips"]) == sum(entry["split"] == "validation" for entry in manifest)
    assert len(list((tmp_path / "data").glob("*_alpha.mp4"))) == sum(entry["split"] == "train" for entry in manifest)
    assert list((tmp_path / "exported").glob("*.webp"))
