"""What Stage 1 learns from and is validated on: clips and panned stills with their draws, by position; fixed ones for validation."""

from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float
from torch import Tensor

from wan_alpha.config import TrainVaeConfig
from wan_alpha.data.clips import Augment, ClipDataset, Sample
from wan_alpha.data.draws import generator_at
from wan_alpha.data.manifest import read_manifest
from wan_alpha.data.survey import Survey, survey_clips
from wan_alpha.device import on_device
from wan_alpha.errors import UsageError
from wan_alpha.geometry import ClipSize
from wan_alpha.rgba import RENDER_COLOURS, hard_render, to_signed
from wan_alpha.train.clip_data import ClipStream, bucket_sizes, clip_stream, write_clip_report
from wan_alpha.train.judge import judge_sigma

VALIDATION_SEED = 0
"""Of validation's colours and noise: the same in every run, so that runs compare."""


@dataclass(frozen=True, kw_only=True)
class RgbaBatch:
    """One batch on its device: straight clips in [0, 1]; per sample the background colours of encoder input, hard and soft loss, and
    the judge's noise level and noise."""

    rgb: Float[Tensor, "B 3 T H W"]
    alpha: Float[Tensor, "B 1 T H W"]
    input_colour: Float[Tensor, "B 3"]
    hard_colour: Float[Tensor, "B 3"]
    soft_colour: Float[Tensor, "B 3"]
    judge_sigma: Float[Tensor, " B"]
    judge_noise: Float[Tensor, "B z t h w"]

    def encoder_input(self, *, hard_threshold: float) -> tuple[Float[Tensor, "B 3 T H W"], Float[Tensor, "B 1 T H W"]]:
        """R^h(rgb, alpha, c0) and alpha, in [-1, 1] (Eq. 2)."""
        rendered = hard_render(self.rgb, self.alpha, self.input_colour, threshold=hard_threshold)
        return to_signed(rendered), to_signed(self.alpha)


def rgba_clips(config: TrainVaeConfig) -> tuple[ClipStream, ClipDataset | None]:
    """(what is trained on, what is validated on or None). OUTPUT/clips.json says where every clip went."""
    training = survey_clips(read_manifest(config.dataset_base_path, config.dataset_metadata_path), on_bad_sample=config.on_bad_sample)
    held_out: Survey | None = None
    if config.validation_base_path is not None:
        entries = read_manifest(config.validation_base_path)[: config.validation_clips]
        held_out = survey_clips(entries, on_bad_sample=config.on_bad_sample)
    elif config.validation_clips is not None:
        training, held_out = _hold_out(training, config.validation_clips)
    if held_out is None and config.validate_every_steps is not None:
        do = "give --validation_base_path, or hold some out with --validation_clips"
        raise UsageError("--validate_every_steps", got="no clips to validate on", expected="some", do=do)
    budget = ClipSize(num_frames=config.num_frames, height=config.height, width=config.width)
    augment = Augment(flip=0.5, max_scale=config.max_scale)
    stream = clip_stream(
        training, budget=budget, by=config.buckets, stills="panned", augment=augment, batch_size=config.batch_size, seed=config.seed
    )
    write_clip_report(config.output_path, training, stream, held_out=tuple(entry.name for entry in held_out.entries) if held_out else ())
    if held_out is None:
        return stream, None
    sizes = bucket_sizes(held_out, budget=budget, by=config.buckets, stills="panned")
    return stream, ClipDataset(held_out.entries, size=sizes, crop="centre")


def _hold_out(survey: Survey, count: int) -> tuple[Survey, Survey]:
    """(the rest, the first `count` clips)."""
    if count >= len(survey.clips):
        expected = f"fewer than the {len(survey.clips)} clips of the dataset"
        raise UsageError("--validation_clips", got=count, expected=expected, do="hold out fewer, or give --validation_base_path")
    return replace(survey, clips=survey.clips[count:]), replace(survey, clips=survey.clips[:count])


def sample_at(clips: ClipStream, position: int, *, config: TrainVaeConfig, z_dim: int) -> RgbaBatch:
    """The clip and the draws at a position; every epoch walks the clips in a new order, with new windows and crops.

    With feature_draws, what the encoder sees (window, crop, colour) repeats after so many epochs; the rest is always drawn anew.
    """
    seen = position if config.feature_draws is None else position % (config.feature_draws * len(clips.order))
    batch = with_draws(clips.sample_at(seen), config=config, z_dim=z_dim, generator=generator_at(config.seed, position))
    return batch if seen == position else replace(batch, input_colour=draw_colours(generator_at(config.seed, seen))[0])


def with_draws(sample: Sample, *, config: TrainVaeConfig, z_dim: int, generator: torch.Generator) -> RgbaBatch:
    """A batch of one clip, with three colours of its own and the judge's noise."""
    on_input, hard, soft = draw_colours(generator)
    num_frames, height, width = sample.alpha.shape[1:]
    latent = ClipSize(num_frames=num_frames, height=height, width=width).latent_shape
    return RgbaBatch(
        rgb=sample.rgb[None],
        alpha=sample.alpha[None],
        input_colour=on_input,
        hard_colour=hard,
        soft_colour=soft,
        judge_sigma=judge_sigma("reference" if config.bidirectional == "reference" else "ours", generator=generator),
        judge_noise=torch.randn((1, z_dim, *latent), generator=generator),
    )


def draw_colours(generator: torch.Generator) -> tuple[Tensor, ...]:
    """Background colours (1, 3) of the encoder's input, the hard and the soft loss, independent of each other."""
    return RENDER_COLOURS[torch.randint(len(RENDER_COLOURS), (3,), generator=generator)].split(1)


def validation_sample(clips: ClipDataset, i: int, *, config: TrainVaeConfig, z_dim: int) -> RgbaBatch:
    """Clip i of a validation set: its first frames, its centre, and draws that depend on i alone."""
    return with_draws(clips[i], config=config, z_dim=z_dim, generator=generator_at(VALIDATION_SEED, i))


def to_batch(samples: list[RgbaBatch], *, device: torch.device) -> RgbaBatch:
    """Samples of one size stacked, on the device."""
    stacked = {field.name: torch.cat([getattr(sample, field.name) for sample in samples]) for field in fields(RgbaBatch)}
    return RgbaBatch(**{name: on_device(tensor, device=device) for name, tensor in stacked.items()})


def empty_batch(config: TrainVaeConfig, *, z_dim: int) -> RgbaBatch:
    """A batch of the configured size without contents, for the forecast of memory."""
    size, batch = ClipSize(num_frames=config.num_frames, height=config.height, width=config.width), config.batch_size
    rgb, alpha = (torch.empty(batch, c, size.num_frames, size.height, size.width) for c in (3, 1))
    colour, noise = torch.empty(batch, 3), torch.empty(batch, z_dim, *size.latent_shape)
    return RgbaBatch(
        rgb=rgb,
        alpha=alpha,
        input_colour=colour,
        hard_colour=colour,
        soft_colour=colour,
        judge_sigma=torch.empty(batch),
        judge_noise=noise,
    )
