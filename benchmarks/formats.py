"""Round trips of every export format: clips are written, read back and compared. Prints the tables of docs/formats.md."""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from wan_alpha.data.synthetic import render_subject, sample_transparent_scene
from wan_alpha.export import over_background
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.fill import fill_hidden
from wan_alpha.media.formats import FORMATS, WriteOptions, colour_bound, write_format
from wan_alpha.media.verify import PREVIEW_COLOUR, verify_preview
from wan_alpha.media.video import read_video
from wan_alpha.media.write import write_preview_mp4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--frames", type=int, default=9)
    args = parser.parse_args()
    colour, alpha = render_subject(sample_transparent_scene(0), num_frames=args.frames, height=args.size, width=args.size)
    print("| format | bits | alpha max error | colour max / mean error, of 255 | KiB a frame |\n|---|---|---|---|---|")
    rows = []
    for bits in (8, 16):
        top = (1 << bits) - 1
        rgb, matte = (np.rint(np.clip(part, 0, 1) * top).astype(f"u{bits // 8}") for part in (colour, alpha))
        clip = fill_hidden(RgbaClip(rgb=rgb, alpha=matte, fps=16.0), "bleed")
        for name, options in variants(bits):
            rows.append(round_trip(clip, name=name, options=options))
        rows += [preview_round_trip(clip)] if bits == 8 else []
    colour_errors()
    print(json.dumps(rows))


def colour_errors() -> None:
    """What the bounds on colour rest on: colour_error of the worst frame, for a smooth clip and for ones that are hard for a codec."""
    clips = hard_clips()
    print("\n| format | bound | " + " | ".join(clips) + " |\n|" + "---|" * (2 + len(clips)))
    for name, options in variants(8):
        bound = colour_bound(name, options)
        if bound is None:
            continue
        with tempfile.TemporaryDirectory() as folder:
            errors = [write_format(clip, Path(folder) / "a", name=name, options=options).colour_error for clip in clips.values()]
        print(f"| {label_of(name, options)} | {bound.mean:g} | {' | '.join(f'{error:.2f}' for error in errors)} |", flush=True)
    errors = [preview_error(clip) for clip in clips.values()]
    print(f"| preview | {PREVIEW_COLOUR.mean:g} | {' | '.join(f'{error:.2f}' for error in errors)} |", flush=True)


def hard_clips() -> dict[str, RgbaClip]:
    """Three frames of 64 x 64: a drawn subject, noise in colour and alpha, and opaque saturated patterns of single pixels."""
    rng = np.random.default_rng(0)
    colour, alpha = render_subject(sample_transparent_scene(0), num_frames=3, height=64, width=64)
    noise = rng.integers(0, 256, (3, 64, 64, 4), dtype=np.uint8)
    y, x = np.mgrid[:64, :64]
    red, green, blue = np.eye(3, dtype=np.uint8) * 255
    lines, checks = np.where((x % 2)[..., None], red, blue), np.where(((x + y) % 2)[..., None], red, green)

    def opaque(rgb: np.ndarray) -> np.ndarray:
        return np.concatenate([np.stack([rgb] * 3), np.full((3, 64, 64, 1), 255, np.uint8)], axis=-1)

    clips = {
        "subject": np.rint(np.concatenate([colour, alpha[..., None]], axis=-1) * 255).astype(np.uint8),
        "noise": noise,
        "noise of primaries": noise // 128 * 255,
        "red and blue lines": opaque(lines),
        "red and green checks": opaque(checks),
    }
    return {name: RgbaClip(rgb=rgba[..., :3], alpha=rgba[..., 3], fps=16.0) for name, rgba in clips.items()}


def preview_error(clip: RgbaClip) -> float:
    shown = over_background(clip, "checkerboard")
    with tempfile.TemporaryDirectory() as folder:
        write_preview_mp4(shown, Path(folder) / "a.mp4", fps=clip.fps)
        return verify_preview(Path(folder) / "a.mp4", shown, fps=clip.fps).colour_error


def variants(bits: int) -> list[tuple[str, WriteOptions]]:
    """Every format as it is by default; WebP with lossy colour; what can be premultiplied besides."""
    able = {name: spec for name, spec in FORMATS.items() if spec.bits >= bits}
    straight = [(name, WriteOptions()) for name in able]
    lossy = [("webp", WriteOptions(webp_quality=quality)) for quality in (90, 50, 0)] if bits == 8 else []
    both = [name for name, spec in able.items() if "premultiplied" in spec.alpha_modes and name != "exr"]  # EXR always is
    return straight + lossy + [(name, WriteOptions(alpha_mode="premultiplied")) for name in both]


def label_of(name: str, options: WriteOptions) -> str:
    quality = "" if options.webp_quality is None else f", quality {options.webp_quality}"
    return name + quality + (", premultiplied" if options.alpha_mode == "premultiplied" else "")


def round_trip(clip: RgbaClip, *, name: str, options: WriteOptions) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        written = write_format(clip, Path(folder) / "a", name=name, options=options)
        kib = _kib(Path(folder), clip)
    label = label_of(name, options)
    worst, mean = (error * 255 / clip.top for error in (written.rgb_max_error, written.rgb_mean_error))
    print(f"| {label} | {clip.bits} | {written.alpha_max_error} of {clip.top} | {worst:.3g} / {mean:.3f} | {kib:.1f} |", flush=True)
    return {"format": label, "bits": clip.bits, "alpha_max_error": written.alpha_max_error, "kib": round(kib, 1)}


def preview_round_trip(clip: RgbaClip) -> dict[str, object]:
    """The opaque preview has no alpha; its colour is compared with the composite over the checkerboard, every pixel."""
    shown = over_background(clip, "checkerboard")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.mp4"
        write_preview_mp4(shown, path, fps=clip.fps)
        error = np.abs(read_video(path).rgb.astype(int) - shown)
        kib = _kib(Path(folder), clip)
    print(f"| preview | 8 | none | {error.max()} / {error.mean():.3f} | {kib:.1f} |", flush=True)
    return {"format": "preview", "bits": 8, "kib": round(kib, 1)}


def _kib(folder: Path, clip: RgbaClip) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1024 / clip.num_frames


if __name__ == "__main__":
    main()
