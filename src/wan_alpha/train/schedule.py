"""What a step is: its length, its samples and its learning rate, each a pure function of the settings and the step's number."""

import math

from wan_alpha.config import TrainConfig
from wan_alpha.data.shares import Share

ALONE = Share()


def samples_per_step(config: TrainConfig, *, processes: int = 1) -> int:
    return config.batch_size * config.gradient_accumulation_steps * processes


def steps_per_epoch(config: TrainConfig, *, num_clips: int, processes: int = 1) -> int:
    return max(1, math.ceil(num_clips * config.dataset_repeat / samples_per_step(config, processes=processes)))


def total_steps(config: TrainConfig, *, num_clips: int, processes: int = 1) -> int:
    steps = config.num_epochs * steps_per_epoch(config, num_clips=num_clips, processes=processes)
    return steps if config.max_steps is None else min(steps, config.max_steps)


def learning_rate_at(config: TrainConfig, *, step: int, total: int) -> float:
    """Linear warm-up, then constant or half a cosine down to 2 %."""
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    decay = 1.0 if config.decay == "constant" else 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / total))
    return config.learning_rate * warmup * decay


def positions_of(config: TrainConfig, *, step: int, micro_batch: int, share: Share = ALONE) -> list[int]:
    """Sample positions of one forward pass of one process.

    The processes' batches stand side by side, so that N processes walk the samples as one process with N times the accumulation does;
    without buckets also as one with N times the batch.
    """
    batch = (step * config.gradient_accumulation_steps + micro_batch) * share.count + share.rank
    return list(range(batch * config.batch_size, (batch + 1) * config.batch_size))
