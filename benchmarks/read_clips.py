"""Random windows of a long clip: ours against decoding the whole file, and against imageio-ffmpeg. The last line is JSON.

Animations (WebP, APNG, GIF) are compared with decoding the whole file alone. GIF has no soft alpha: a matte of 0 and 255 is written there.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image

from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.movies import write_prores, write_webm
from wan_alpha.media.read import read_rgba
from wan_alpha.media.write import write_apng, write_webp


def imageio_window(path: Path, *, start: int, count: int) -> np.ndarray:
    """imageio-ffmpeg reads from the beginning; VP9 needs its libvpx decoder for alpha."""
    decoder = ["-c:v", "libvpx-vp9"] if path.suffix == ".webm" else []
    reader = imageio_ffmpeg.read_frames(str(path), pix_fmt="rgba", bpp=4, input_params=decoder)
    width, height = next(reader)["size"]
    frames = [np.frombuffer(frame, np.uint8).reshape(height, width, 4) for _, frame in zip(range(start + count), reader, strict=False)]
    reader.close()
    return np.stack(frames[start:])


def write_gif(clip: RgbaClip, path: Path) -> None:
    alpha = np.where(clip.alpha < 128, 0, 255).astype(np.uint8)[..., None]
    first, *rest = [Image.fromarray(frame) for frame in np.concatenate([clip.rgb, alpha], axis=-1)]
    first.save(path, save_all=True, append_images=rest, duration=60, disposal=2)


def animations(clip: RgbaClip, *, starts: list[int], count: int) -> dict[str, dict[str, float]]:
    """Frames per second of windows: as they are read, and by decoding the whole file."""
    results = {}
    for name, write in {"a.webp": write_webp, "a.apng": write_apng, "a.gif": write_gif}.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            write(clip, path)
            speed = {}
            for way, window in {"ours": {"count": count}, "whole": {}}.items():
                began = time.perf_counter()
                for start in starts:
                    read_rgba(path, **(window and {"start": start, **window}))
                speed[way] = round(count * len(starts) / (time.perf_counter() - began), 1)
            results[name] = {**speed, "over_whole": round(speed["ours"] / speed["whole"], 2)}
            print(f"{name}: {speed['ours']} frames per second, {speed['whole']} by decoding the whole file", flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--count", type=int, default=17)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    still = rng.integers(0, 256, (args.size // 8, args.size // 8, 4), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    rgba = np.stack([np.roll(still, 2 * t, axis=1) for t in range(args.frames)])
    clip = RgbaClip(rgb=rgba[..., :3], alpha=rgba[..., 3], fps=16.0)
    starts = [int(start) for start in rng.integers(0, args.frames - args.count, 3)]
    results = animations(clip, starts=starts, count=args.count)
    writers = {"a.mov": lambda path: write_prores(clip, path, alpha_mode="straight"), "a.webm": lambda path: write_webm(clip, path)}
    for name, write in writers.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            write(path)
            ways = {
                "ours": lambda start, path=path: read_rgba(path, start=start, count=args.count).alpha,
                "whole": lambda start, path=path: read_rgba(path).alpha[start : start + args.count],
                "imageio_ffmpeg": lambda start, path=path: imageio_window(path, start=start, count=args.count)[..., 3],
            }
            speed = {}
            for way, read in ways.items():
                began = time.perf_counter()
                windows = [read(start) for start in starts]
                speed[way] = round(args.count * len(starts) / (time.perf_counter() - began), 1)
                wrong = sum(int((got != clip.alpha[s : s + args.count]).sum()) for got, s in zip(windows, starts, strict=True))
                print(f"{name} {way}: {speed[way]} frames per second, {wrong} wrong alpha levels", flush=True)
            speed["over_whole"] = round(speed["ours"] / speed["whole"], 2)
            speed["over_imageio_ffmpeg"] = round(speed["ours"] / speed["imageio_ffmpeg"], 2)
            results[name] = speed
    print(json.dumps(results))


if __name__ == "__main__":
    main()
