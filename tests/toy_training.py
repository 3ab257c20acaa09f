"""The smallest thing that `fit` can train: y = w x on noise that belongs to the sample."""

from pathlib import Path

import torch
from torch import nn

from wan_alpha.config import TrainConfig
from wan_alpha.data.draws import normal_at
from wan_alpha.train.loop import Stage, fit

CPU = torch.device("cpu")


def toy_config(output_path: Path, **settings) -> TrainConfig:
    given = {"max_steps": 4, "learning_rate": 0.1, "warmup_steps": 2, "save_every_steps": 2, "batch_size": 2, "tracker": "none"}
    return TrainConfig(output_path=output_path, **{**given, **settings})


def stage_of(weight: nn.Parameter, loss, **parts) -> Stage:
    given = {"save": lambda epoch: [], "num_clips": 6, "data_fingerprint": "clips", "device": CPU, "verb": "train-vae"}
    return Stage(trainables={"weight": weight}, loss=loss, **{**given, **parts})


def run(config: TrainConfig, *, at=lambda position: None, weight=None, **parts) -> torch.Tensor:
    """Fit, and return the weight; `at` is called with the first position of every forward pass."""
    weight = nn.Parameter(torch.ones(4)) if weight is None else weight

    def loss(positions):
        at(positions[0])
        x = normal_at(config.seed, positions, (4,))
        return {"total": (weight * x - 2 * x).square().mean()}

    fit(config, stage=stage_of(weight, loss, **parts))
    return weight.detach().clone()
