"""cache: latents and text embeddings of a dataset, computed once, with a fingerprint of what made them."""

from wan_alpha.config import CacheConfig
from wan_alpha.data.latents import CacheIndex
from wan_alpha.encoding import build_cache, loaded_weights
from wan_alpha.run_record import now, write_run_record


def cache(config: CacheConfig) -> str:
    """Build or complete the cache in config.output_path; returns one line about it."""
    started = now()
    index: CacheIndex = build_cache(config)
    weights = loaded_weights(config, "vae", "text_encoder")
    write_run_record(
        config.output_path, verb="cache", config=config, weights=weights, extra={"fingerprint": index.fingerprint}, started=started
    )
    return f"{config.output_path}: {len(index.names)} clips x {index.draws} draws, fingerprint {index.fingerprint[:12]}"
