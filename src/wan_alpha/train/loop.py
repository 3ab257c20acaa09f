"""The loop of both training stages: what happens after which step.

A `Stage` says what is trained, by which loss, and how its own files are written. A position counts samples from the start of
training; everything random follows from it (data/draws.py). With several processes each takes its batch of every micro-batch, the
first one alone writes, and all stop together.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, InitProcessGroupKwargs, broadcast_object_list, gather_object
from diffusers import WanTransformer3DModel
from torch import nn

from wan_alpha.config import TrainConfig
from wan_alpha.data.shares import Share
from wan_alpha.errors import UsageError
from wan_alpha.progress import progress
from wan_alpha.train.ema import Ema
from wan_alpha.train.optimisers import make_optimiser
from wan_alpha.train.randomness import random_states, restore_random_states
from wan_alpha.train.schedule import learning_rate_at, samples_per_step, steps_per_epoch, total_steps
from wan_alpha.train.sharding import share_out
from wan_alpha.train.state import TrainState, load_state, recover_states, require_no_states, save_state, state_to_resume
from wan_alpha.train.step import Loss, Update, WholeUpdate, optimiser_step
from wan_alpha.train.stopping import resume_command, stop_requested
from wan_alpha.train.tracking import Pending, Tracker, tracker_settings
from wan_alpha.train.zero2 import Zero2Update

log = logging.getLogger(__name__)

PATIENCE = timedelta(hours=2)
"""How long processes wait for the first one, which validates and writes alone."""

MAY_CHANGE = {
    *("output_path", "device", "num_workers", "num_epochs", "max_steps", "save_every_steps", "save_every_epochs", "resume"),
    *("validate_every_steps", "validation_base_path", "validation_cache_path", "validation_clips"),  # held out: see the data's fingerprint
    *("preview_clips", "num_inference_steps", "guidance_scale", "offload_activations"),
    *("keep_states", "log_every_steps", "tracker", "memory_forecast"),
    "gradient_accumulation_steps",  # its product with batch size and processes is what must stay
    *("on_bad_sample", "gradient_checkpointing", "vae_passes", "models_folder", "dataset_base_path", "dataset_metadata_path", "cache_path"),
    *("feature_merge_checkpoint", "vae_lora_path"),  # trained weights come from the state; for frozen ones see frozen and the data
}
"""Settings that a resumed run may have otherwise; all others shape the weights and must be equal."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What a training stage gives the loop."""

    verb: str
    """Its command: train-vae or train-dit."""
    trainables: dict[str, nn.Parameter]
    """By published name; float32."""
    loss: Loss
    """Named scalars of the samples at these positions, always the same names; `total` is minimised."""
    save: Callable[[int], list[Path]]
    """Writes the stage's own files for an epoch (from 0) and returns them."""
    validate: Callable[[int], dict[str, float]] | None = None
    """Given the finished step: named numbers on fixed samples; previews are written here too, by the first process. `total`, where
    there is one, ranks."""
    save_best: Callable[[], list[Path]] | None = None
    """Writes the stage's own files under their name for the best; called when `total` of `validate` is the lowest so far."""
    num_clips: int
    """Clips in the training set; an epoch is a pass over them."""
    data_fingerprint: str
    """Equal when every position gives the same sample: a resumed run must have the same."""
    frozen: dict[str, str] = field(default_factory=dict)
    """Name -> hash of weights that no state holds and a file can replace: a resumed run must have the same."""
    device: torch.device
    base: WanTransformer3DModel | None = None
    """The large frozen network, which FSDP2 may share out among the processes."""
    rate_factor: Callable[[str], float] = field(default=lambda name: 1.0)
    """Learning rate of a parameter, by name, as a multiple of the configured one."""


def fit(config: TrainConfig, *, stage: Stage) -> list[Path]:
    """Train until the configured end or a stop signal; returns the files that the stage's last `save` wrote.

    Raises UsageError for settings that cannot work or a gradient that is not finite, CheckpointError for a state that cannot be
    read or written.
    """
    run = _Run(config, stage)
    first = run.begin()
    try:
        with stop_requested() as stopped, progress(stage.verb, total=run.total, done=min(first, run.total)) as advance:
            if first >= run.total:
                run.publish(run.total)
            for step in range(first, run.total):
                run.take_step(step)
                advance(**run.shown)
                if run.after_step(step + 1, stop=stopped()):
                    command = resume_command(config, verb=stage.verb, processes=run.accelerator.num_processes)
                    log.warning("stopped after step %d of %d; continue with: %s", step + 1, run.total, command)
                    break
    finally:
        run.tracker.close()
    return run.result()


class _Run:
    """One run of `fit`: the parts that live as long as it does, and what is due after a step."""

    def __init__(self, config: TrainConfig, stage: Stage) -> None:
        _require_float32(stage.trainables)
        self.config, self.stage = config, stage
        self.accelerator = Accelerator(
            cpu=stage.device.type == "cpu",
            mixed_precision="no",
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
            **tracker_settings(config),
        )
        self.shared_out = share_out(stage.base, accelerator=self.accelerator)
        processes = self.accelerator.num_processes
        self.epoch_length = steps_per_epoch(config, num_clips=stage.num_clips, processes=processes)
        self.total = total_steps(config, num_clips=stage.num_clips, processes=processes)
        self.state = TrainState(
            trainables=stage.trainables,
            optimiser=make_optimiser(config, trainables=stage.trainables, rate_factor=stage.rate_factor),
            ema=None if config.ema_decay is None else Ema(stage.trainables, decay=config.ema_decay),
        )
        self.tracker, self.pending = Tracker(config=config, accelerator=self.accelerator), Pending(accelerator=self.accelerator)
        self.update: Update
        self.shown: dict[str, float] = {}
        self.written: list[Path] = []

    @property
    def identity(self) -> dict[str, object]:
        """Every setting that shapes the weights; the length of the run is one when the rate falls towards its end."""
        settings = {name: value for name, value in asdict(self.config).items() if name not in MAY_CHANGE}
        plain = {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()}
        samples = samples_per_step(self.config, processes=self.accelerator.num_processes)
        data = {"samples_per_step": samples, "num_clips": self.stage.num_clips, "data": self.stage.data_fingerprint}
        return {**plain, **data, **self.stage.frozen, **({"steps": self.total} if self.config.decay == "cosine" else {})}

    def begin(self) -> int:
        """The number of steps that are done: 0, or those of the state that the run resumes from, which is loaded."""
        config, first = self.config, 0
        if self.accelerator.is_main_process:
            config.output_path.mkdir(parents=True, exist_ok=True)
            recover_states(config.output_path)
        self.accelerator.wait_for_everyone()
        if config.resume is None:
            require_no_states(config.output_path)
        else:
            folder = state_to_resume(config.resume, output_path=config.output_path)
            first, random = load_state(folder, state=self.state, identity=self.identity)
            if self.accelerator.process_index < len(random):
                restore_random_states(random[self.accelerator.process_index], device=self.stage.device)
        kind = Zero2Update if self.accelerator.distributed_type == DistributedType.DEEPSPEED else WholeUpdate
        self.update = kind(config, accelerator=self.accelerator, state=self.state, loss=self.stage.loss)
        self.tracker.open(first=first)
        return first

    def take_step(self, step: int) -> None:
        share = Share(rank=self.accelerator.process_index, count=self.accelerator.num_processes)
        values = optimiser_step(self.config, update=self.update, state=self.state, share=share, step=step, total=self.total)
        self.pending.add(values, step=step + 1)

    def after_step(self, finished: int, *, stop: bool) -> bool:
        """Log, validate, publish and save what is due; returns whether to stop before the end.

        One process answers a signal after this step, several agree on it when numbers are fetched next.
        """
        config, last = self.config, finished == self.total
        stop_here = stop and self.accelerator.num_processes == 1
        validate = self.stage.validate is not None and _due(finished, config.validate_every_steps, last=last)
        publish = last or finished % (self.epoch_length * config.save_every_epochs) == 0
        save = last or finished % config.save_every_steps == 0
        if not (validate or publish or save or stop_here or finished % config.log_every_steps == 0):
            return False
        stopping = self.report(stop=stop) and not last
        if validate:
            self.validate(finished)
        if publish or stopping:
            self.publish(finished)
        if save or stopping:
            self.save(finished)
        return stopping

    def report(self, *, stop: bool) -> bool:
        """Fetch and log the steps that are pending; returns whether any process wants to stop."""
        fetched, stopping = self.pending.fetch(stop=stop)
        for step, values in fetched.items():
            if not math.isfinite(values["gradient_norm"]):
                do = "start anew with a lower --learning_rate, or with --precision float32"
                raise UsageError(
                    f"training, step {step}", got=f"a gradient norm of {values['gradient_norm']}", expected="a finite one", do=do
                )
            rate = learning_rate_at(self.config, step=step - 1, total=self.total)
            self.tracker.log({**values, "learning_rate": rate}, step=step)
            self.shown = {"loss": values["total"]}
        return stopping

    def validate(self, finished: int) -> None:
        """Log the stage's validation of the published weights, and keep its files when they are the best so far.

        Processes that share the base out run it together, others wait for the first one.
        """
        main = self.accelerator.is_main_process
        if self.stage.validate is None or not (main or self.shared_out):
            return
        with self.state.published():
            values = self.stage.validate(finished)
            if not main:
                return
            self.tracker.log({f"validation/{name}": value for name, value in values.items()}, step=finished)
            if values.get("total", math.inf) < self.state.best:
                self.state.best = values["total"]
                if self.stage.save_best is not None:
                    self.stage.save_best()

    def publish(self, finished: int) -> None:
        if self.accelerator.is_main_process:
            with self.state.published():
                self.written = self.stage.save((finished - 1) // self.epoch_length)

    def save(self, finished: int) -> None:
        random = gather_object([random_states(self.stage.device)])
        parts = {"optimiser": self.update.optimiser_state(), "random": random, "identity": self.identity}
        if self.accelerator.is_main_process:
            save_state(self.config.output_path, state=self.state, step=finished, keep=self.config.keep_states, **parts)

    def result(self) -> list[Path]:
        """What the first process wrote, known to all once it is written."""
        return broadcast_object_list([self.written])[0]


def _due(finished: int, every: int | None, *, last: bool) -> bool:
    return every is not None and (last or finished % every == 0)


def _require_float32(trainables: dict[str, nn.Parameter]) -> None:
    """AdamW in bfloat16 cannot move DoRA magnitudes, and small updates of any weight are lost in it."""
    wrong = [name for name, parameter in trainables.items() if parameter.dtype != torch.float32]
    if wrong:
        got = f"{len(wrong)} of them otherwise, first {wrong[0]} in {trainables[wrong[0]].dtype}"
        raise UsageError("trainable weights", got=got, expected="float32", do="convert them; frozen weights may stay as they are")
