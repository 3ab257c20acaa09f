"""Scores of a network, only where the user gives its files: LPIPS of clips, and a Fréchet distance of the whole set.

Both are means over the nine backgrounds, as AlphaVAE has them (arXiv 2507.09308, Eq. 2), on the composites themselves: no JPEG between.
The network is VGG16, of our own definition. LPIPS is version 0.1; the Fréchet distance is named `fid_vgg16`, because published FID and
rFID are on Inception and its values say nothing beside theirs.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from wan_alpha.config import EvaluateConfig
from wan_alpha.device import choose_device
from wan_alpha.errors import UsageError
from wan_alpha.metrics.frechet import FeatureStatistics, frechet_distance
from wan_alpha.metrics.measure import Clip
from wan_alpha.models.lpips import Features, Heads, VGG16Stages, load_lpips_heads, load_vgg16_stages, lpips
from wan_alpha.models.perceptual import vgg16_file
from wan_alpha.rgba import METRIC_COLOURS, over

PIXELS_AT_ONCE = 1 << 19  # of the frames whose features are in memory together: about 0.5 KB a pixel for each of truth and prediction

MEANINGS_OF_LPIPS = {
    "lpips": "perceptual distance over nine backgrounds, lower is better (LPIPS 0.1 on VGG16)",
    "alpha_lpips": "the same of alpha as a grey clip",
}
MEANINGS_OF_FID = {
    "fid_vgg16": "Fréchet distance of all frames' VGG16 features over nine backgrounds, one for the set, lower is better; "
    "not comparable with published rFID, which uses Inception"
}

Statistics = tuple[FeatureStatistics, FeatureStatistics]
"""Of predictions and of truths."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PerceptualScores:
    """`add` each clip, then ask for `of_set`. What is absent is not measured: no heads, no LPIPS; no statistics, no fid_vgg16."""

    vgg16: VGG16Stages | None = None
    heads: Heads = ()
    statistics: Mapping[str, Statistics] = field(default_factory=dict)

    @torch.no_grad()
    def add(self, prediction: Clip, *, truth: Clip) -> dict[str, float]:
        """lpips and alpha_lpips of one clip, means over its frames; empty without heads."""
        if self.vgg16 is None:
            return {}
        distances: list[float] = []
        for name, colour in METRIC_COLOURS.items():
            for found, true in self._features(self.vgg16, (prediction, truth), colour):
                if self.heads:
                    distances += lpips(found, others=true, heads=self.heads).tolist()
                for statistics, features in zip(self.statistics.get(name, ()), (found, true), strict=False):
                    statistics.add(features[-1].mean(dim=(2, 3)))
        if not self.heads:
            return {}
        mattes = tuple((torch.ones_like(rgb), alpha) for rgb, alpha in (prediction, truth))
        pairs = self._features(self.vgg16, (mattes[0], mattes[1]), METRIC_COLOURS["black"])
        of_alpha = [value for found, true in pairs for value in lpips(found, others=true, heads=self.heads).tolist()]
        return {"lpips": sum(distances) / len(distances), "alpha_lpips": sum(of_alpha) / len(of_alpha)}

    def of_set(self) -> dict[str, float]:
        """fid_vgg16 of all clips added; empty without statistics."""
        if not self.statistics:
            return {}
        distances = [frechet_distance(found, true=true) for found, true in self.statistics.values()]
        return {"fid_vgg16": sum(distances) / len(distances)}

    def meanings(self) -> dict[str, str]:
        return {**(MEANINGS_OF_LPIPS if self.heads else {}), **(MEANINGS_OF_FID if self.statistics else {})}

    @staticmethod
    def _features(vgg16: VGG16Stages, clips: tuple[Clip, Clip], colour: tuple[float, float, float]) -> Iterator[tuple[Features, Features]]:
        """Of both clips over one colour, a few frames at a time."""
        num_frames, height, width = clips[1][1].shape[1:]
        background = vgg16.get_buffer("mean").new_tensor(colour)[:, None, None, None]
        for window in torch.arange(num_frames).split(max(1, PIXELS_AT_ONCE // (height * width))):
            found, true = (vgg16(_frames(clip, window, background)) for clip in clips)
            yield found, true


def _frames(clip: Clip, window: Tensor, background: Float[Tensor, "3 1 1 1"]) -> Float[Tensor, "N 3 H W"]:
    rgb, alpha = (part[:, window].to(background.device).clamp(0, 1) for part in clip)
    return over(rgb, alpha, background).transpose(0, 1)


def load_scores(config: EvaluateConfig) -> PerceptualScores:
    """The network for what the config gives files of, on its device.

    Raises CheckpointError when a file is not what it should be, and UsageError for VGG16 twice or for nothing.
    """
    _check(config)
    if not score_files(config):
        return PerceptualScores()
    device = choose_device(config.device)
    vgg16 = load_vgg16_stages(config.perceptual_weights or config.fid_weights).to(device)
    heads = load_lpips_heads(config.lpips_weights, widths=vgg16.widths) if config.lpips_weights else ()
    return PerceptualScores(
        vgg16=vgg16,
        heads=tuple(head.to(device) for head in heads),
        statistics={name: (FeatureStatistics(), FeatureStatistics()) for name in METRIC_COLOURS} if config.fid_weights else {},
    )


def score_files(config: EvaluateConfig) -> dict[str, Path]:
    """Role -> file of what load_scores reads, for run.json."""
    if config.lpips_weights is None:
        return {} if config.fid_weights is None else {"VGG16": config.fid_weights}
    return {"LPIPS": config.lpips_weights, "VGG16": vgg16_file(config.perceptual_weights or config.fid_weights)}


def _check(config: EvaluateConfig) -> None:
    if config.perceptual_weights is None:
        return
    if config.lpips_weights is None:
        raise UsageError("--perceptual_weights", got="no --lpips_weights", expected="both", do="fid_vgg16 alone needs --fid_weights only")
    if config.fid_weights not in (None, config.perceptual_weights):
        raise UsageError(
            "--perceptual_weights",
            got="another file than --fid_weights",
            expected="one VGG16 for both",
            do="leave --perceptual_weights out",
        )
