"""Round trips of every export format: a procedural clip is written, read back and compared. Prints the table of docs/formats.md."""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from wan_alpha.data.synthetic import render_subject, sample_transparent_scene
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.fill import fill_hidden
from wan_alpha.media.formats import FORMATS, WriteOptions, write_format


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--frames", type=int, default=9)
    args = parser.parse_args()
    colour, alpha = render_subject(sample_transparent_scene(0), num_frames=args.frames, height=args.size, width=args.size)
    rows = []
    print("| format | bits | alpha max error | colour max / mean error, of 255 | KiB a frame |\n|---|---|---|---|---|")
    for bits in (8, 16):
        top = (1 << bits) - 1
        rgb, matte = (np.rint(np.clip(part, 0, 1) * top).astype(f"u{bits // 8}") for part in (colour, alpha))
        clip = fill_hidden(RgbaClip(rgb=rgb, alpha=matte, fps=16.0), "bleed")
        for name in [name for name, spec in FORMATS.items() if spec.bits >= bits]:
            with tempfile.TemporaryDirectory() as folder:
                written = write_format(clip, Path(folder) / "a", name=name, options=WriteOptions())
                size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
            worst, mean = (error * 255 / top for error in (written.rgb_max_error, written.rgb_mean_error))
            kib = size / 1024 / args.frames
            print(f"| {name} | {bits} | {written.alpha_max_error} of {top} | {worst:.3g} / {mean:.3f} | {kib:.1f} |", flush=True)
            rows.append({"format": name, "bits": bits, "alpha_max_error": written.alpha_max_error, "kib": round(kib, 1)})
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
