"""Optimisers by name: torch's own, and three that come with `pip install wan-alpha[optimisers]`."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import nn

from wan_alpha.config import TrainConfig
from wan_alpha.errors import UsageError

Groups = list[dict[str, Any]]


def make_optimiser(
    config: TrainConfig, *, trainables: dict[str, nn.Parameter], rate_factor: Callable[[str], float]
) -> torch.optim.Optimizer:
    """The configured optimiser over groups of one `factor` each: their rate as a multiple of the configured one.

    Raises UsageError when its package is missing or when a setting cannot work with it.
    """
    factors = sorted({rate_factor(name) for name in trainables})
    groups: Groups = [
        {"params": [p for name, p in trainables.items() if rate_factor(name) == f], "factor": f, "weight_decay": config.weight_decay}
        for f in factors
    ]
    make = {
        "adamw": _adamw,
        "adamw_8bit": _adamw_8bit,
        "adafactor": _adafactor,
        "prodigy": _prodigy,
        "schedule_free": _schedule_free,
    }[config.optimiser]
    return make(config, groups)


def _adamw(config: TrainConfig, groups: Groups) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=config.learning_rate)


def _adafactor(config: TrainConfig, groups: Groups) -> torch.optim.Optimizer:
    """Shazeer and Stern 2018, with torch's defaults: a row and a column of second moments per matrix in place of all of them."""
    return torch.optim.Adafactor(groups, lr=config.learning_rate)


def _adamw_8bit(config: TrainConfig, groups: Groups) -> torch.optim.Optimizer:
    """AdamW with moments in 8-bit blocks (Dettmers et al. 2021): a quarter of its memory."""
    return _package("bitsandbytes", config).optim.AdamW8bit(groups, lr=config.learning_rate)


def _prodigy(config: TrainConfig, groups: Groups) -> torch.optim.Optimizer:
    """Mishchenko and Defazio 2023: finds its own rate, of which --learning_rate is a multiple."""
    if config.learning_rate < 0.1:
        do = "--learning_rate 1"
        raise UsageError("--optimiser prodigy", got=f"--learning_rate {config.learning_rate}", expected="about 1: it finds its own", do=do)
    if len(groups) > 1:
        do = "leave --decoder_learning_rate out, or take another optimiser"
        raise UsageError("--optimiser prodigy", got="two learning rates", expected="one for all parameters", do=do)
    return _package("prodigyopt", config).Prodigy(groups, lr=config.learning_rate)


def _schedule_free(config: TrainConfig, groups: Groups) -> torch.optim.Optimizer:
    """AdamW with an average in place of a falling rate (Defazio et al. 2024); what it publishes is the average."""
    if config.ema_decay is not None:
        raise UsageError("--optimiser schedule_free", got="--ema_decay", expected="none: it averages by itself", do="--ema_decay None")
    optimiser = _package("schedulefree", config).AdamWScheduleFree(groups, lr=config.learning_rate)
    optimiser.train()
    return optimiser


def _package(name: str, config: TrainConfig) -> Any:
    """Imported when it is asked for: these packages are optional."""
    try:
        return import_module(name)
    except ImportError as error:
        do = "pip install 'wan-alpha[optimisers]', or take --optimiser adamw"
        raise UsageError(f"--optimiser {config.optimiser}", got=f"no package {name}", do=do) from error
