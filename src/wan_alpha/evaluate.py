"""evaluate: measure what comes back when the RGBA VAE reconstructs clips, or how close a folder of predictions is to the truth.

Clips are hard-rendered on black, encoded, decoded, and compared on their original frames; predictions are compared as they are.
The numbers and their units: metrics/measure.py; those that need a network of the user's: perceptual_scores.py.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wan_alpha.comparison import Compared, Numbers, to_clip, write_comparison_page, write_csv, write_json
from wan_alpha.config import EvaluateConfig
from wan_alpha.data.clips import ClipDataset, Sample, to_tensors, usable_entries
from wan_alpha.data.manifest import DEFAULT_TABLES, ClipEntry, read_manifest
from wan_alpha.device import choose_device
from wan_alpha.encoding import encode_clip, load_rgba_vae, loaded_weights
from wan_alpha.errors import DatasetError, MediaError, UsageError
from wan_alpha.geometry import ClipSize
from wan_alpha.media.find import find_clips
from wan_alpha.media.read import read_clip
from wan_alpha.media.write import write_pair
from wan_alpha.memory import out_of_memory_named
from wan_alpha.metrics.measure import MEANINGS, measure
from wan_alpha.models.rgba_vae import RGBAlphaVAE
from wan_alpha.perceptual_scores import load_scores, score_files
from wan_alpha.preview import above_each_other, write_sheet
from wan_alpha.progress import progress
from wan_alpha.rgba import from_signed
from wan_alpha.run_record import now, write_run_record

SHOWN_CLIPS = 8
GRADES = (("excellent", 10.0, 5.0), ("good", 20.0, 15.0))  # the seed's bounds on RGB MAE and alpha MAE


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Means over clips, the values of each clip, and the files written."""

    mean: Mapping[str, float]
    clips: Mapping[str, Mapping[str, float]]
    report: Path
    table: Path
    page: Path
    sheet: Path | None
    """Truth above reconstruction as one PNG; none for given predictions, whose sizes may differ."""

    def summary(self) -> list[str]:
        return [
            f"{len(self.clips)} clips, 0-255: RGB MAE {self.mean['rgb_mae']:.2f} (over alpha > 0: {self.mean['rgb_mae_any_alpha']:.2f}), "
            f"alpha MAE {self.mean['alpha_mae']:.2f}: {grade(self.mean)}",
            f"over nine backgrounds: PSNR {self.mean['psnr']:.2f} dB, SSIM {self.mean['ssim']:.4f}; "
            f"colour: PSNR {self.mean['rgb_psnr']:.2f} dB, SSIM {self.mean['rgb_ssim']:.4f}; "
            f"alpha: PSNR {self.mean['alpha_psnr']:.2f} dB, SSIM {self.mean['alpha_ssim']:.4f}",
            f"alpha: SAD {self.mean['alpha_sad']:.3f}, MSE {self.mean['alpha_mse']:.2f}, Grad {self.mean['alpha_grad']:.3f}, "
            f"Conn {self.mean['alpha_conn']:.3f}, dtSSD {self.mean['alpha_dtssd']:.2f}",
            *self._perceptual(),
            f"background leak {self.mean['background_leak']:.4f}, holes {self.mean['holes']:.4f}, edge error {self.mean['edge_error']:.4f}",
            f"report: {self.report}, {self.table.name}, {self.page.name} (open it in a browser: previews over any background)",
            *([f"pictures: {self.sheet} (truth above reconstruction)"] if self.sheet else []),
        ]

    def _perceptual(self) -> list[str]:
        words = {
            "lpips": "LPIPS (VGG16) over nine backgrounds {:.4f}",
            "alpha_lpips": "of alpha {:.4f}",
            "fid_vgg16": "fid_vgg16 {:.4f} (not comparable with published rFID)",
        }
        found = [text.format(self.mean[name]) for name, text in words.items() if name in self.mean]
        return [", ".join(found)] if found else []


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Measure the reconstruction of the dataset or of --test_rgb_video and --test_alpha_video, or the clips of --predictions.

    Writes OUTPUT/PREFIX.json, PREFIX.csv, PREFIX.html; of reconstructions also PREFIX_sheet.png and, for each of the first clips,
    PREFIX_NAME_{truth,prediction}_{rgb,alpha}.mp4. Raises UsageError with the next setting to change when memory runs out.
    """
    with out_of_memory_named(config):
        return _evaluate(config)


def _evaluate(config: EvaluateConfig) -> Evaluation:
    started, entries = now(), evaluation_entries(config)
    compared = _predicted(entries, config.predictions) if config.predictions else _reconstructed(entries, config)
    scores, values = load_scores(config), dict[str, dict[str, float]]()
    shown: list[Compared] = []
    with progress("evaluating", total=len(entries)) as advance:
        for clip in compared:
            measured = measure(clip.prediction, clip.truth, hard_threshold=config.hard_threshold)
            values[clip.name] = {**measured, **scores.add(clip.prediction, truth=clip.truth)}
            if len(shown) < SHOWN_CLIPS:
                shown.append(clip)
            advance()
    mean = {key: float(np.mean([clip[key] for clip in values.values()])) for key in next(iter(values.values()))}
    mean |= scores.of_set()
    evaluation = _write(config, Numbers(mean=mean, clips=values, meanings={**MEANINGS, **scores.meanings()}), shown)
    weights = {**({} if config.predictions else loaded_weights(config, "vae")), **score_files(config)}
    write_run_record(config.output_path, verb="evaluate", config=config, weights=weights, extra=mean, started=started)
    return evaluation


def evaluation_entries(config: EvaluateConfig) -> list[ClipEntry]:
    """The true clips: one pair, the rows of the dataset's table, or, for --predictions, whatever clips a folder without table has."""
    rgb, alpha = config.test_rgb_video, config.test_alpha_video
    if (rgb is None) != (alpha is None):
        raise UsageError("evaluate", got="one of --test_rgb_video and --test_alpha_video", expected="both, or neither")
    base, metadata = config.dataset_base_path, config.dataset_metadata_path
    if rgb is not None and alpha is not None:
        entries = [ClipEntry(name=rgb.stem.removesuffix("_rgb"), prompt="", rgb=rgb, alpha=alpha)]
    elif config.predictions and metadata is None and not any((base / table).is_file() for table in DEFAULT_TABLES):
        entries = _entries_in(base)
    else:
        entries = read_manifest(base, metadata)
    return usable_entries(entries[: config.max_clips], on_bad_sample=config.on_bad_sample)[0]


def _entries_in(folder: Path) -> list[ClipEntry]:
    """The clips of a folder in the layouts that prepare knows; the first that cannot be used is raised."""
    found = find_clips(folder)
    problem = next((clip.problem for clip in found if clip.problem is not None), None)
    if problem is not None:
        raise problem
    return [ClipEntry(name=clip.name, prompt="", rgba=clip.rgba, rgb=clip.rgb, alpha=clip.alpha) for clip in found]


def _predicted(entries: list[ClipEntry], folder: Path) -> Iterator[Compared]:
    """Each true clip with the prediction of its name, frame by frame at their own size."""
    predictions = {entry.name: entry for entry in _entries_in(folder)}
    missing = [entry.name for entry in entries if entry.name not in predictions]
    if missing:
        got = f"{len(predictions)} clips without {', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''}"
        raise DatasetError(folder, got=got, expected="a prediction with the name of each true clip", do="rename them, or use --max_clips")
    return (_compare(entry, predictions[entry.name]) for entry in entries)


def _compare(true: ClipEntry, predicted: ClipEntry) -> Compared:
    truth, prediction = (read_clip(rgba=entry.rgba, rgb=entry.rgb, alpha=entry.alpha) for entry in (true, predicted))
    if truth.alpha.shape != prediction.alpha.shape:
        got, expected = (f"{clip.num_frames} frames of {clip.width}x{clip.height}" for clip in (prediction, truth))
        raise MediaError(f"prediction {predicted.name}", got=got, expected=f"{expected}, as the true clip has")
    return Compared(name=true.name, fps=truth.fps, truth=to_tensors(truth), prediction=to_tensors(prediction))


def _reconstructed(entries: list[ClipEntry], config: EvaluateConfig) -> Iterator[Compared]:
    device = choose_device(config.device)
    size = ClipSize(num_frames=config.num_frames, height=config.height, width=config.width)
    with out_of_memory_named(config, during="loading"):
        rgba_vae = load_rgba_vae(config, device=device, needs=("merge block", "decoders"))
    for sample in ClipDataset(entries, size=size, seed=config.seed, crop="centre"):
        truth, prediction = reconstruct(rgba_vae, sample, device=device, hard_threshold=config.hard_threshold)
        yield Compared(name=sample.name, fps=sample.fps, truth=truth, prediction=prediction)


@torch.no_grad()
def reconstruct(
    rgba_vae: RGBAlphaVAE, sample: Sample, *, device: torch.device, hard_threshold: float
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(truth, prediction), each rgb (3, T, H, W) and alpha (1, T, H, W) in [0, 1] on the CPU, original frames only."""
    rgb, alpha = sample.rgb[None].to(device), sample.alpha[None].to(device)
    black = torch.zeros(1, 3, device=device)
    latents = encode_clip(rgba_vae, rgb, alpha, colour=black, hard_threshold=hard_threshold)
    decoded = rgba_vae.decode(rgba_vae.denormalise(latents))
    kept = sample.original_frames
    prediction = tuple(from_signed(x).clamp(0, 1)[0, :, :kept].cpu() for x in decoded)
    return (sample.rgb[:, :kept], sample.alpha[:, :kept]), (prediction[0], prediction[1])


def grade(mean: Mapping[str, float]) -> str:
    """The seed's words for its bounds."""
    return next((word for word, rgb, alpha in GRADES if mean["rgb_mae"] < rgb and mean["alpha_mae"] < alpha), "below the seed's 'good'")


def _write(config: EvaluateConfig, numbers: Numbers, shown: list[Compared]) -> Evaluation:
    stem = config.output_path / config.output_prefix
    report = write_json(numbers, stem.with_name(f"{stem.name}.json"), grade=grade(numbers.mean))
    table = write_csv(numbers, stem.with_name(f"{stem.name}.csv"))
    what = f"predictions of {config.predictions}" if config.predictions else "reconstructions by the RGBA VAE"
    page = write_comparison_page(
        numbers,
        stem.with_name(f"{stem.name}.html"),
        title="Evaluation",
        lead=(
            f"{len(numbers.clips)} clips: {what}. Point at a column's name for its meaning, click to sort.",
            *(["fid_vgg16 is not comparable with published rFID, which uses Inception."] if "fid_vgg16" in numbers.mean else []),
        ),
        previews={clip.name: clip.previews() for clip in shown},
    )
    sheet = None if config.predictions else _write_reconstructions(stem, shown)
    return Evaluation(mean=numbers.mean, clips=numbers.clips, report=report, table=table, page=page, sheet=sheet)


def _write_reconstructions(stem: Path, shown: list[Compared]) -> Path:
    """Truth and reconstruction of each clip as colour + matte, and all of them as one picture; returns the picture's path."""
    for clip in shown:
        write_pair(to_clip(clip.truth, fps=clip.fps), Path(f"{stem}_{clip.name}_truth"))
        write_pair(to_clip(clip.prediction, fps=clip.fps), Path(f"{stem}_{clip.name}_prediction"))
    path = stem.with_name(f"{stem.name}_sheet.png")
    write_sheet(above_each_other([clip.truth for clip in shown], [clip.prediction for clip in shown]), path)
    return path
