"""The loop of both training stages: order of the data, accumulation, clipping, learning rate, log, state, safe stop.

A `Stage` says what is trained, by which loss, and how its own files are written. A position counts samples from the start of
training; everything random follows from it (data/draws.py).
"""

import json
import logging
import math
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from wan_alpha.config import TrainConfig
from wan_alpha.errors import UsageError
from wan_alpha.progress import progress
from wan_alpha.train.state import TrainState, load_state, require_no_states, save_state

log = logging.getLogger(__name__)

MAY_CHANGE = {
    *("output_path", "device", "num_workers", "num_epochs", "max_steps", "save_every_steps", "save_every_epochs", "resume"),
    *("validate_every_steps", "validation_base_path", "validation_cache_path", "validation_clips"),  # held out: see the data's fingerprint
    *("preview_clips", "num_inference_steps", "guidance_scale", "offload_activations"),
    *("on_bad_sample", "gradient_checkpointing", "vae_passes", "models_folder", "dataset_base_path", "dataset_metadata_path", "cache_path"),
    *("feature_merge_checkpoint", "vae_lora_path"),  # a resumed run takes its weights from the state
}
"""Settings that a resumed run may have otherwise; all others shape the weights and must be equal."""


def steps_per_epoch(config: TrainConfig, *, num_clips: int) -> int:
    return max(1, math.ceil(num_clips * config.dataset_repeat / (config.batch_size * config.gradient_accumulation_steps)))


def total_steps(config: TrainConfig, *, num_clips: int) -> int:
    steps = config.num_epochs * steps_per_epoch(config, num_clips=num_clips)
    return steps if config.max_steps is None else min(steps, config.max_steps)


def learning_rate_at(config: TrainConfig, *, step: int, total: int) -> float:
    """Linear warm-up, then constant or half a cosine down to 2 %."""
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    decay = 1.0 if config.decay == "constant" else 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / total))
    return config.learning_rate * warmup * decay


def positions_of(config: TrainConfig, *, step: int, micro_batch: int) -> list[int]:
    """Sample positions of one forward pass."""
    first = (step * config.gradient_accumulation_steps + micro_batch) * config.batch_size
    return list(range(first, first + config.batch_size))


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What a training stage gives the loop."""

    verb: str
    """Its command: train-vae or train-dit."""
    trainables: dict[str, nn.Parameter]
    """By published name."""
    loss: Callable[[list[int]], dict[str, Tensor]]
    """Named scalars of the samples at these positions, always the same names; `total` is minimised."""
    save: Callable[[int], list[Path]]
    """Writes the stage's own files for an epoch (from 0) and returns them."""
    validate: Callable[[int], dict[str, float]] | None = None
    """Given the finished step: named numbers on fixed samples; previews are written here too. `total`, where there is one, ranks."""
    save_best: Callable[[], list[Path]] | None = None
    """Writes the stage's own files under their name for the best; called when `total` of `validate` is the lowest so far."""
    num_clips: int
    """Clips in the training set; an epoch is a pass over them."""
    data_fingerprint: str
    """Equal when every position gives the same sample: a resumed run must have the same."""
    device: torch.device
    rate_factor: Callable[[str], float] = field(default=lambda name: 1.0)
    """Learning rate of a parameter, by name, as a multiple of the configured one."""


def fit(config: TrainConfig, *, stage: Stage) -> list[Path]:
    """Train until the configured end or a stop signal; returns the files that the stage's last `save` wrote."""
    _one_process()
    accelerator = Accelerator(cpu=stage.device.type == "cpu", mixed_precision="no")
    factors = sorted({stage.rate_factor(name) for name in stage.trainables})
    groups = [{"params": [p for name, p in stage.trainables.items() if stage.rate_factor(name) == f], "factor": f} for f in factors]
    optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)
    state = TrainState(trainables=stage.trainables, optimiser=optimiser)
    epoch_length, total = steps_per_epoch(config, num_clips=stage.num_clips), total_steps(config, num_clips=stage.num_clips)
    identity = {**_shaping(config, total=total), "num_clips": stage.num_clips, "data": stage.data_fingerprint}
    first = load_state(config.resume, state, output_path=config.output_path, identity=identity) if config.resume else 0
    if not config.resume:
        require_no_states(config.output_path)
    written = stage.save((total - 1) // epoch_length) if first >= total else []
    with _stop_requested() as stopped, progress("training", total=total, done=first) as advance:
        for step in range(first, total):
            values = _optimiser_step(config, accelerator, state, stage.loss, step=step, total=total)
            _append_metrics(config.output_path, {"step": step + 1, **values})
            advance(loss=values["total"])
            finished = step + 1
            _validate(config, stage, state, step=finished, total=total)
            if finished % (epoch_length * config.save_every_epochs) == 0 or finished == total or stopped():
                written = stage.save((finished - 1) // epoch_length)
            if finished % config.save_every_steps == 0 or finished == total or stopped():
                save_state(config.output_path, state, step=finished, identity=identity)
            if stopped() and finished < total:
                log.warning("stopped after step %d of %d; continue with --resume latest", finished, total)
                break
    return written


def _validate(config: TrainConfig, stage: Stage, state: TrainState, *, step: int, total: int) -> None:
    """Every `validate_every_steps` and at the end: log the stage's validation, and keep its files when they are the best so far."""
    every = config.validate_every_steps
    if stage.validate is None or every is None or (step % every and step != total):
        return
    values = stage.validate(step)
    _append_metrics(config.output_path, {"step": step, **{f"validation/{name}": value for name, value in values.items()}})
    if values.get("total", math.inf) < state.best:
        state.best = values["total"]
        if stage.save_best is not None:
            stage.save_best()


def _one_process() -> None:
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1:
        do = "start it without accelerate launch; --gradient_accumulation_steps gives larger batches"
        raise UsageError("training", got=f"{processes} processes", expected="one", do=do)


def _shaping(config: TrainConfig, *, total: int) -> dict[str, object]:
    """Every setting that shapes the weights; the length of the run is one when the rate falls towards its end."""
    settings = {name: value for name, value in asdict(config).items() if name not in MAY_CHANGE}
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()}
    return {**plain, **({"steps": total} if config.decay == "cosine" else {})}


def _optimiser_step(
    config: TrainConfig,
    accelerator: Accelerator,
    state: TrainState,
    loss: Callable[[list[int]], dict[str, Tensor]],
    *,
    step: int,
    total: int,
) -> dict[str, float]:
    """One optimiser step over all micro-batches; returns the mean of each term, and the gradient norm before clipping."""
    rate = learning_rate_at(config, step=step, total=total)
    for group in state.optimiser.param_groups:
        group["lr"] = rate * group["factor"]
    sums: dict[str, Tensor] = {}
    for micro_batch in range(config.gradient_accumulation_steps):
        terms = loss(positions_of(config, step=step, micro_batch=micro_batch))
        accelerator.backward(terms["total"] / config.gradient_accumulation_steps)
        for name, value in terms.items():
            sums[name] = sums.get(name, torch.zeros((), device=value.device)) + value.detach() / config.gradient_accumulation_steps
    norm = accelerator.clip_grad_norm_(state.trainables.values(), config.max_grad_norm)
    if not math.isfinite(float(norm)):
        do = "lower --learning_rate and go on with --resume latest"
        raise UsageError(f"training, step {step + 1}", got=f"a gradient norm of {float(norm)}", expected="a finite one", do=do)
    state.optimiser.step()
    state.optimiser.zero_grad(set_to_none=True)
    return {**{name: float(value) for name, value in sums.items()}, "gradient_norm": float(norm), "learning_rate": rate}


def _append_metrics(output_path: Path, values: dict[str, float | int]) -> None:
    output_path.mkdir(parents=True, exist_ok=True)
    with (output_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({key: round(value, 8) for key, value in values.items()}) + "\n")


@contextmanager
def _stop_requested() -> Iterator[Callable[[], bool]]:
    """SIGINT and SIGTERM set a flag, so that the step under way is finished and saved; a second one stops at once."""
    requested: list[int] = []

    def remember(number: int, frame: object) -> None:
        if requested:
            raise KeyboardInterrupt
        requested.append(number)

    try:
        previous = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # signals reach the main thread only
        previous = {}
    try:
        yield lambda: bool(requested)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
