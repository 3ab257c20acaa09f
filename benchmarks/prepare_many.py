"""prepare on many small clips of which some are damaged, killed in the middle and started again.

    python benchmarks/prepare_many.py [--clips 1000] [--damaged 10] [--num_workers 2]

Prints what was skipped, how many clips were finished when the run was killed, how many the second run had to make, and whether its
result equals that of a run that nobody disturbed.
"""

import argparse
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.write import write_webp


def make_clips(folder: Path, count: int, damaged: int) -> None:
    """Clips of 5 frames, 32 x 32; every (count / damaged)-th is cut off in the middle of its data."""
    for index in range(count):
        rgba = np.random.default_rng(index).integers(0, 256, (5, 32, 32, 4), dtype=np.uint8)
        path = folder / f"clip_{index:04d}.webp"
        write_webp(RgbaClip(rgb=rgba[..., :3], alpha=rgba[..., 3], fps=16.0), path)
        if damaged and index % (count // damaged) == 3:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])


def command(source: Path, output: Path, num_workers: int) -> list[str]:
    flags = ["--output_path", str(output), "--on_bad_sample", "skip", "--num_workers", str(num_workers)]
    return [sys.executable, "-m", "wan_alpha", "prepare", str(source), *flags]


def contents(folder: Path) -> dict[str, str]:
    """Hash of every file but run.json; report.json without the folder's name."""
    data = {path.name: path.read_bytes().replace(str(folder).encode(), b"") for path in folder.iterdir() if path.name != "run.json"}
    return {name: hashlib.sha256(values).hexdigest() for name, values in data.items()}


def kill_in_the_middle(source: Path, output: Path, count: int, num_workers: int) -> int:
    """Start, wait for half of the clips, kill -9; returns how many were finished."""
    process = subprocess.Popen(command(source, output, num_workers), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    records = output.with_name(output.name + ".partial") / "records"
    while not records.is_dir() or sum(1 for _ in records.iterdir()) < count // 2:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(2)
    return len(list(records.glob("*.json")))


def timed(arguments: list[str]) -> tuple[float, list[str]]:
    started = time.monotonic()
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    return time.monotonic() - started, done.stdout.splitlines()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--damaged", type=int, default=10)
    parser.add_argument("--num_workers", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        source, whole, resumed = (Path(scratch) / name for name in ("in", "whole", "resumed"))
        make_clips(source, arguments.clips, arguments.damaged)
        seconds, lines = timed(command(source, whole, arguments.num_workers))
        print(f"undisturbed: {seconds:.0f} s; {lines[0]}")
        skipped = [line for line in lines if line.startswith("skipped")]
        print(f"skipped and named: {len(skipped)}, for example: {skipped[0] if skipped else 'none'}")
        finished = kill_in_the_middle(source, resumed, arguments.clips, arguments.num_workers)
        seconds, _ = timed(command(source, resumed, arguments.num_workers))
        print(f"killed with {finished} clips finished; the second run took {seconds:.0f} s")
        print(f"same files, tables and report as undisturbed: {contents(resumed) == contents(whole)}")


if __name__ == "__main__":
    main()
