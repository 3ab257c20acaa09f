"""Stage 1's encoder features on disk: the frozen encoder sees a few draws of every clip once, every later epoch reads what it made.

    OUTPUT/features/MARK/POSITION.safetensors    rgb, alpha: (D, t, h, w), as precise as the encoder computes

A position is one of the `cycle` different samples. MARK names encoder, data and settings: features of others are never taken.
"""

import logging
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from wan_alpha.checkpoints.files import read_tensors, write_tensors
from wan_alpha.config import TrainVaeConfig
from wan_alpha.data.latents import fingerprint
from wan_alpha.data.shares import this_share
from wan_alpha.device import on_device
from wan_alpha.encoding import encoder_tensors
from wan_alpha.models.feature_merge import FeatureMergeBlock
from wan_alpha.models.rgba_vae import RGBAlphaVAE
from wan_alpha.train.clip_data import ClipStream

log = logging.getLogger(__name__)

Features = tuple[Float[Tensor, "B D t h w"], Float[Tensor, "B D t h w"]]
SHAPING = ("seed", "batch_size", "buckets", "num_frames", "height", "width", "max_scale", "hard_threshold", "feature_draws")
"""The settings that say, with the data, what stands at a position."""


@dataclass(frozen=True, kw_only=True)
class FeatureCache:
    """What the merge block takes, by position, for samples that repeat after `cycle` positions."""

    folder: Path
    cycle: int
    dtype: torch.dtype

    def features(self, positions: list[int], *, encode: Callable[[], Features], device: torch.device) -> Features:
        """Float32 features of colour and matte of the batch at these positions, read, or encoded and kept.

        Raises CheckpointError for a file that cannot be read and for a full disk.
        """
        paths = [self.folder / f"{position % self.cycle:07d}.safetensors" for position in positions]
        if all(path.exists() for path in paths):
            kept = [read_tensors(path) for path in paths]
            rgb, alpha = (on_device(torch.stack([one[name] for one in kept]), device=device) for name in ("rgb", "alpha"))
            return rgb.float(), alpha.float()
        rgb, alpha = (features.to(self.dtype) for features in encode())
        for i, path in enumerate(paths):
            write_tensors(path, {"rgb": rgb[i], "alpha": alpha[i]}, metadata={})
        return rgb.float(), alpha.float()


def feature_cache(config: TrainVaeConfig, model: RGBAlphaVAE, clips: ClipStream, *, dtype: torch.dtype) -> FeatureCache | None:
    """The cache of a training that has `feature_draws`; None for one that draws anew each time. Logs how large it will be."""
    if config.feature_draws is None:
        return None
    block = model.merge_block
    settings = {**{name: getattr(config, name) for name in SHAPING}, "layout": block.layout, "dtype": str(dtype)}
    encoder = {name: tensor for name, tensor in encoder_tensors(model).items() if not name.startswith("merge_block.")}
    mark = fingerprint(encoder, {**settings, "data": clips.dataset.fingerprint})
    folder = config.output_path / "features" / mark[:12]
    cache = FeatureCache(folder=folder, cycle=config.feature_draws * len(clips.order), dtype=dtype)
    if this_share().rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        places = config.feature_draws * sum(math.prod(size.latent_shape) for size in clips.dataset.sizes)
        channels = 2 * (block.feature_dim if isinstance(block, FeatureMergeBlock) else block.z_dim)
        needed, free = places * channels * dtype.itemsize / 2**30, shutil.disk_usage(folder).free / 2**30
        log.info("encoder features of %d samples: %.2f GiB in %s, %.1f GiB free", cache.cycle, needed, folder, free)
    return cache
