"""Whether a cache belongs to a training run: its size, its base VAE and its merge block. Refusals name the command that rebuilds it.

That command is the recorded one with this run's flags in place of its own. Where the tensors are the same after all (another file of
the same VAE), it keeps every shard and writes the index alone.
"""

import logging
from dataclasses import replace
from pathlib import Path

from wan_alpha.config import TrainDitConfig
from wan_alpha.config.command import flag_value, with_flags
from wan_alpha.data.latents import LatentCache
from wan_alpha.encoding import NO_MERGE_BLOCK, loaded_weights, merge_fingerprint
from wan_alpha.errors import CacheError
from wan_alpha.hashing import sha256
from wan_alpha.models.load import resolve_base

log = logging.getLogger(__name__)
SIZE = ("num_frames", "height", "width")
BASE = ("model", "model_id_with_origin_paths", "models_folder", "base_vae_path")
STAGE1 = ("feature_merge_checkpoint", "vae_lora_path")


def check_cache(cache: LatentCache, config: TrainDitConfig, *, z_dim: int) -> None:
    """CacheError for latents of another size, base VAE, merge block or number of channels than the run's.

    What is not at hand cannot be compared, and a warning says so: a base without a VAE, or a merge block that neither the run names
    nor lies where the cache was made from.
    """
    _check_size(cache, config)
    _check_vae(cache, config)
    _check_merge_block(cache, config)
    channels = cache.draw(0, draw=0)[0].shape[0]
    if channels != z_dim:
        raise CacheError(cache.folder, got=f"{channels} latent channels", expected=z_dim, do=_rebuild(cache, config, BASE))


def _check_size(cache: LatentCache, config: TrainDitConfig) -> None:
    made, asked = (" ".join(f"--{name} {getattr(settings, name)}" for name in SIZE) for settings in (cache.index, config))
    if made != asked:
        do = f"train with {made}, or {_rebuild(cache, config, SIZE)}"
        raise CacheError(cache.folder, got=f"latents of {made}", expected=asked, do=do)


def _check_vae(cache: LatentCache, config: TrainDitConfig) -> None:
    """File by file, whatever the files are called."""
    has_vae = "vae" in resolve_base(config).parts
    files = [path for role, path in loaded_weights(config, "vae").items() if role.startswith("vae ")] if has_vae else []
    if not files:
        log.warning("%s: the base model has no VAE here, so whether it made these latents is not checked", cache.folder)
        return
    made_by = sorted(digest for role, digest in cache.index.weights.items() if role.startswith("vae "))
    if made_by != sorted(sha256(path) for path in files):
        expected = " ".join(str(path) for path in files)
        raise CacheError(cache.folder, got="latents of another VAE", expected=expected, do=_rebuild(cache, config, BASE))


def _check_merge_block(cache: LatentCache, config: TrainDitConfig) -> None:
    """Against the run's own; without one, against the file that the cache was made from, which may have been trained further."""
    merge, lora = (_recorded_file(cache, name) for name in STAGE1)
    recorded = replace(config, feature_merge_checkpoint=merge, vae_lora_path=lora or config.vae_lora_path)
    for source, do in ((config, _rebuild(cache, config, STAGE1)), (recorded, f"rebuild: {cache.index.command}")):
        found = merge_fingerprint(source)
        if found == NO_MERGE_BLOCK:
            continue
        if found != cache.index.merge_block:
            expected = source.feature_merge_checkpoint or source.vae_lora_path
            raise CacheError(cache.folder, got="latents of another merge block", expected=f"that of {expected}", do=do)
        return
    log.warning("%s: no --feature_merge_checkpoint, so whether it made these latents is not checked", cache.folder)


def _recorded_file(cache: LatentCache, name: str) -> Path | None:
    value = flag_value(cache.index.command, name)
    return Path(value) if value is not None and Path(value).is_file() else None


def _rebuild(cache: LatentCache, config: TrainDitConfig, names: tuple[str, ...]) -> str:
    """The command that made the cache, with this run's values of NAMES."""
    default = TrainDitConfig()
    values = {name: getattr(config, name) for name in names}
    changed = {name: None if value == getattr(default, name) else str(value) for name, value in values.items()}
    return f"rebuild: {with_flags(cache.index.command, changed)}"
