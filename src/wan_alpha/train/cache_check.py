"""Whether a cache belongs to a training run: its size, VAE, text encoder, merge block and settings. Refusals name the command that
rebuilds it.

That command is the recorded one with this run's flags in place of its own. Where the tensors are the same after all (another file of
the same VAE), it keeps every shard and writes the index alone.
"""

import logging
from dataclasses import replace
from pathlib import Path

from wan_alpha.config import CacheConfig, TrainDitConfig
from wan_alpha.config.command import flag_value, with_flags
from wan_alpha.data.latents import LatentCache
from wan_alpha.encoding import NO_MERGE_BLOCK, merge_fingerprint
from wan_alpha.errors import CacheError
from wan_alpha.hashing import sha256
from wan_alpha.models.load import resolve_base
from wan_alpha.models.sources import PartName

log = logging.getLogger(__name__)
SIZE = ("num_frames", "height", "width")
BASE = ("model", "model_id_with_origin_paths", "models_folder", "base_vae_path")
STAGE1 = ("feature_merge_checkpoint", "vae_lora_path")
SETTINGS = ("hard_threshold", "buckets", "draws", "max_sequence_length")
MADE: dict[PartName, tuple[str, str]] = {"vae": ("VAE", "latents"), "text_encoder": ("text encoder", "captions")}
"""Part of the base -> its name, and what it makes."""


def check_cache(cache: LatentCache, config: TrainDitConfig, *, z_dim: int) -> None:
    """CacheError for latents of another size, base VAE, text encoder, merge block or number of channels than the run's.

    What is not at hand cannot be compared, and a warning says so: a base without a VAE or a text encoder, or a merge block that neither
    the run names nor lies where the cache was made from. A text encoder is not fetched for this alone.
    """
    base = resolve_base(config)
    _check_size(cache, config)
    _check_base(cache, config, "vae", files=base.part("vae").files() if "vae" in base.parts else [])
    _check_base(cache, config, "text_encoder", files=base.weight_files().get("text_encoder", []))
    _check_merge_block(cache, config)
    channels = cache.draw(0, draw=0)[0].shape[0]
    if channels != z_dim:
        raise CacheError(cache.folder, got=f"{channels} latent channels", expected=z_dim, do=_rebuild(cache, config, BASE))


def check_settings(cache: LatentCache, config: TrainDitConfig) -> None:
    """CacheError where the run asks for a threshold, buckets, draws or a text length that a cache to train on was not made with.

    A setting at its default asks for nothing: the cache's counts, and the log says so.
    """
    made = {name: _recorded(cache, name) for name in SETTINGS}
    asked, default = ({name: getattr(settings, name) for name in SETTINGS} for settings in (config, TrainDitConfig()))
    other = [name for name in SETTINGS if asked[name] != made[name]]
    given = tuple(name for name in other if asked[name] != default[name])
    if given:
        found, expected = (" ".join(f"--{name} {settings[name]}" for name in given) for settings in (made, asked))
        do = f"train with {found}, or {_rebuild(cache, config, given)}"
        raise CacheError(cache.folder, got=f"a cache of {found}", expected=expected, do=do)
    if other:
        log.info("%s was made with %s, which counts here", cache.folder, " ".join(f"--{name} {made[name]}" for name in other))


def check_text_length(cache: LatentCache, length: int) -> None:
    """CacheError for a cache to validate on whose captions are padded to another length than those that are trained on."""
    made = cache.index.max_sequence_length
    if made != length:
        do = f"rebuild: {with_flags(cache.index.command, {'max_sequence_length': str(length)})}"
        got, expected = (f"--max_sequence_length {number}" for number in (made, length))
        raise CacheError(cache.folder, got=f"captions of {got}", expected=f"{expected}, as in training", do=do)


def _check_size(cache: LatentCache, config: TrainDitConfig) -> None:
    made, asked = (" ".join(f"--{name} {getattr(settings, name)}" for name in SIZE) for settings in (cache.index, config))
    if made != asked:
        do = f"train with {made}, or {_rebuild(cache, config, SIZE)}"
        raise CacheError(cache.folder, got=f"latents of {made}", expected=asked, do=do)


def _check_base(cache: LatentCache, config: TrainDitConfig, part: PartName, *, files: list[Path]) -> None:
    """File by file, whatever the files are called."""
    name, made = MADE[part]
    if not files:
        log.warning("%s: the base model has no %s here, so whether it made these %s is not checked", cache.folder, name, made)
        return
    made_by = sorted(digest for role, digest in cache.index.weights.items() if role.startswith(f"{part} "))
    if made_by != sorted(sha256(path) for path in files):
        expected = " ".join(str(path) for path in files)
        raise CacheError(cache.folder, got=f"{made} of another {name}", expected=expected, do=_rebuild(cache, config, BASE))


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


def _recorded(cache: LatentCache, name: str) -> object:
    """A setting of the command that made the cache."""
    value, default = flag_value(cache.index.command, name), getattr(CacheConfig(), name)
    return default if value is None else type(default)(value)


def _recorded_file(cache: LatentCache, name: str) -> Path | None:
    value = flag_value(cache.index.command, name)
    return Path(value) if value is not None and Path(value).is_file() else None


def _rebuild(cache: LatentCache, config: TrainDitConfig, names: tuple[str, ...]) -> str:
    """The command that made the cache, with this run's values of NAMES."""
    default = TrainDitConfig()
    values = {name: getattr(config, name) for name in names}
    changed = {name: None if value == getattr(default, name) else str(value) for name, value in values.items()}
    return f"rebuild: {with_flags(cache.index.command, changed)}"
