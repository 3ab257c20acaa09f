"""Memory at its highest while a clip is read and exported, over the clip's bytes as 8-bit RGBA. The last line is JSON.

Each measure is a process of its own: its highest resident memory, less what the imports take. The source is ProRes 4444.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from wan_alpha.linux import stated_bytes
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.formats import FORMATS
from wan_alpha.media.movies import write_prores

READS = ("read 8", "read 16")


def highest() -> int:
    """Bytes; of this program alone, where getrusage also counts what the process held before it."""
    stated = stated_bytes("/proc/self/status", "VmHWM")
    if stated is None:
        raise SystemExit("clip_memory.py needs Linux's /proc")
    return stated


def moving_disc(*, frames: int, height: int, width: int) -> RgbaClip:
    y, x = np.mgrid[:height, :width]
    rgb = np.broadcast_to(np.stack([x % 256, y % 256, np.full_like(x, 128)], axis=-1).astype(np.uint8), (frames, height, width, 3))
    alpha = np.empty((frames, height, width), np.uint8)
    for index, frame in enumerate(alpha):
        frame[...] = np.clip(height / 2 - np.hypot(x - width / 2 - index, y - height / 2), 0, 255)
    return RgbaClip(rgb=rgb, alpha=alpha, fps=24.0)


def measure(work: str, source: Path, output: Path) -> int:
    """Bytes that one kind of work takes in this process."""
    if work in READS:
        from wan_alpha.media.read import read_rgba

        before = highest()
        read_rgba(source, bits=16 if work == "read 16" else 8)
    else:
        from wan_alpha.cli import main

        before = highest()
        name, bits = work.split()
        code = main(["export", "--source", str(source), "--output_path", str(output), "--formats", name, "--bits", bits])
        assert code == 0, f"export ended with {code}"
    return highest() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--height", type=int, default=1080)
    parser.add_argument("--width", type=int, default=1920)
    parser.add_argument("--formats", nargs="+", default=["prores", "webm", "webp", "png"], choices=list(FORMATS))
    parser.add_argument("--one", nargs=3, metavar=("WORK", "SOURCE", "OUTPUT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(measure(args.one[0], Path(args.one[1]), Path(args.one[2])))
        return
    flat = args.frames * args.height * args.width * 4
    ratios = {}
    with tempfile.TemporaryDirectory() as place:
        source = Path(place) / "clip.mov"
        write_prores(moving_disc(frames=args.frames, height=args.height, width=args.width), source, alpha_mode="straight")
        for work in (*READS, *(f"{name} {bits}" for name in args.formats for bits in (8, 16))):
            command = [sys.executable, __file__, "--one", work, str(source), str(Path(place) / "out")]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            ratios[work] = round(int(done.stdout.splitlines()[-1]) / flat, 2)
            print(f"{work}: {ratios[work]:.2f} times the clip", flush=True)
    print(json.dumps({"frames": args.frames, "height": args.height, "width": args.width, "ratios": ratios}))


if __name__ == "__main__":
    main()
