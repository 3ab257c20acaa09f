"""One optimiser step: backward over the micro-batches, gradients averaged over the processes, clipped, applied.

Nothing here waits for the device: what is returned stays there, and whoever wants numbers fetches many steps at once.
"""

from collections.abc import Callable, Iterable
from dataclasses import KW_ONLY, dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn

from wan_alpha.config import TrainConfig
from wan_alpha.data.shares import Share
from wan_alpha.train.schedule import learning_rate_at, positions_of
from wan_alpha.train.state import TrainState

Loss = Callable[[list[int]], dict[str, Tensor]]
"""Named scalars of the samples at these positions, always the same names; `total` is minimised."""


@runtime_checkable
class Update(Protocol):
    """How the gradients of some micro-batches change the weights: whole in every process (below), or in shares (zero2.py)."""

    @property
    def loss(self) -> Loss:
        """The stage's loss, whose `total` goes to `backward`."""

    def backward(self, total: Float[Tensor, ""]) -> None:
        """Add to the gradients."""

    def apply(self) -> Float[Tensor, ""]:
        """Average the gradients over the processes, clip them and take the optimiser's step; returns their norm before clipping.

        A gradient that is not finite never reaches the weights; the norm tells.
        """

    def optimiser_state(self) -> dict[str, Any]:
        """What torch's optimiser over whole parameters would store; all processes ask together."""


@dataclass(frozen=True)
class WholeUpdate:
    """Every process holds all gradients and all of the optimiser's states. A gradient that is not finite counts as zero."""

    config: TrainConfig
    _: KW_ONLY
    accelerator: Accelerator
    state: TrainState
    loss: Loss

    def backward(self, total: Float[Tensor, ""]) -> None:
        total.backward()

    def apply(self) -> Float[Tensor, ""]:
        parameters, optimiser = list(self.state.trainables.values()), self.state.optimiser
        gradients = _averaged_gradients(parameters, self.accelerator)
        norm = nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm)
        for gradient in gradients:
            gradient.masked_fill_(~norm.isfinite(), 0.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return norm

    def optimiser_state(self) -> dict[str, Any]:
        return self.state.optimiser.state_dict()


def optimiser_step(
    config: TrainConfig, *, update: Update, state: TrainState, share: Share, step: int, total: int
) -> dict[str, Float[Tensor, ""]]:
    """Take step number `step` (from 0) of `total`; returns this process's mean of each term, and the gradient norm before clipping."""
    set_learning_rate(state.optimiser, rate=learning_rate_at(config, step=step, total=total))
    means: dict[str, Tensor] = {}
    for micro_batch in range(config.gradient_accumulation_steps):
        terms = update.loss(positions_of(config, step=step, micro_batch=micro_batch, share=share))
        update.backward(terms["total"] / config.gradient_accumulation_steps)
        for name, value in terms.items():
            part = value.detach().float() / config.gradient_accumulation_steps
            means[name] = means[name] + part if name in means else part
    norm = update.apply()
    if state.ema is not None:
        state.ema.update(state.trainables, step=step)
    return {**means, "gradient_norm": norm}


def set_learning_rate(optimiser: torch.optim.Optimizer, *, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate * group["factor"]


def _averaged_gradients(parameters: Iterable[nn.Parameter], accelerator: Accelerator) -> list[Tensor]:
    """The mean over the processes, in one message; a parameter that took no part has gradient zero."""
    gradients: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradients.append(parameter.grad)
    if accelerator.num_processes > 1:
        mean = accelerator.reduce(torch.cat([gradient.reshape(-1) for gradient in gradients]), reduction="mean")
        for gradient, part in zip(gradients, mean.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))
    return gradients
