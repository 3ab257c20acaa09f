"""The exponential moving average of the trained weights, which is what a run with --ema_decay publishes."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Ema:
    """average <- d average + (1 - d) weights after every step; d rises to the configured decay.

    d = min(decay, (1 + step) / (10 + step)), so that short runs forget where they started (the rule of TensorFlow's
    ExponentialMovingAverage with num_updates).
    """

    def __init__(self, trainables: dict[str, nn.Parameter], *, decay: float) -> None:
        self.decay = decay
        self.average: dict[str, Tensor] = {name: parameter.detach().clone() for name, parameter in trainables.items()}

    def update(self, trainables: dict[str, nn.Parameter], *, step: int) -> None:
        """Take in the weights after step number `step` (from 0)."""
        average = get_ema_multi_avg_fn(min(self.decay, (1 + step) / (10 + step)))
        average(list(self.average.values()), [trainables[name].detach() for name in self.average], torch.tensor(step))
