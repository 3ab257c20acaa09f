"""cache: latents and text embeddings of a dataset, computed once, with a fingerprint of what made them."""

from collections import Counter

from wan_alpha.caching import build_cache
from wan_alpha.config import CacheConfig
from wan_alpha.data.shares import this_share
from wan_alpha.encoding import loaded_weights
from wan_alpha.run_record import now, write_run_record


def cache(config: CacheConfig) -> list[str]:
    """Build or complete the cache in config.output_path; returns lines about it. report.json there tells of every clip.

    Any number of processes may share the work (`accelerate launch`, or RANK and WORLD_SIZE); each returns when all is done.
    """
    started = now()
    index = build_cache(config)
    if this_share().rank == 0:
        weights = loaded_weights(config, "vae", "text_encoder")
        extra = {"fingerprint": index.fingerprint}
        write_run_record(config.output_path, verb="cache", config=config, weights=weights, extra=extra, started=started)
    rows, buckets = len(index.names), Counter(index.sizes)
    head = f"{config.output_path}: {rows} rows, {len(set(index.clips))} clips x {index.draws} draws, fingerprint {index.fingerprint[:12]}"
    return [head, *(f"  {t} frames of {w}x{h}: {count}" for (t, h, w), count in sorted(buckets.items()))]
