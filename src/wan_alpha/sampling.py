"""From noise to latents along the flow: noise levels, solvers, guidance. Pure functions of tensors; no model is known here.

sigma is the noise level in [0, 1]; a velocity function gets (x, sigma (B,)) and returns d x / d sigma. 1000 * sigma exists only at
the DiT's door. The solvers are diffusers': levels are computed here, once, and handed over as they are, without a second shift.
"""

from collections.abc import Callable
from typing import Literal

import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from jaxtyping import Float
from torch import Tensor

from wan_alpha.errors import UsageError

Sampler = Literal["unipc", "euler"]
Sigmas = Float[Tensor, " n_plus_1"]
Latent = Float[Tensor, "B c t h w"]
Velocity = Callable[[Tensor, Tensor], Tensor]

MAX_SIGMA = 1 - 1e-6  # UniPC takes log(1 - sigma); diffusers moves a first level of 1 here on its own
REFERENCE_MAX_SIGMA = 0.999
TIMESTEPS = 1000


def sampling_sigmas(num_steps: int, *, shift: float, rule: Literal["shifted", "reference"] = "shifted") -> Sigmas:
    """Noise levels (num_steps + 1,) float32 from (almost) 1 down to exactly 0, after the shift s x / (1 + (s - 1) x).

    shifted: x = 1 - i / n. reference: x = 0.999 (1 - i / n), the published levels; see also `reference_model_sigmas`.
    """
    if num_steps < 1:
        raise UsageError("num_inference_steps", got=num_steps, expected="1 or more")
    x = 1 - torch.arange(num_steps + 1, dtype=torch.float32) / num_steps
    if rule == "reference":
        x = REFERENCE_MAX_SIGMA * x
    return (shift * x / (1 + (shift - 1) * x)).clamp(max=MAX_SIGMA)


def reference_model_sigmas(sigmas: Sigmas) -> Sigmas:
    """What the published code tells the DiT: whole timesteps, truncated (999, 937, 833, 624 for four steps), as sigmas."""
    return (TIMESTEPS * sigmas).floor() / TIMESTEPS


def make_scheduler(sampler: Sampler, sigmas: Sigmas) -> UniPCMultistepScheduler | FlowMatchEulerDiscreteScheduler:
    """diffusers' solver, set to exactly these levels: UniPC (order 2, bh2, predicts x0, first order at the end) or Euler."""
    if sampler == "unipc":
        scheduler = UniPCMultistepScheduler(
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            flow_shift=1.0,
            solver_order=2,
            solver_type="bh2",
            lower_order_final=True,
        )
    else:
        scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    scheduler.set_timesteps(sigmas=sigmas[:-1].cpu().numpy())  # not a list, as annotated there: UniPC multiplies it
    if not torch.equal(scheduler.sigmas, sigmas):
        expected = f"float32 levels from at most {MAX_SIGMA} down to a final 0"
        raise UsageError("sigmas", got=sigmas.tolist(), expected=expected, do="take them from sampling_sigmas")
    scheduler.set_begin_index(0)
    return scheduler


@torch.no_grad()
def sample(
    velocity: Velocity,
    noise: Latent,
    *,
    sigmas: Sigmas,
    sampler: Sampler = "unipc",
    model_sigmas: Sigmas | None = None,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Latent:
    """Integrate d x / d sigma = velocity(x, sigma) from `noise` at sigmas[0] to latents at 0, in float32.

    velocity is called once per step with x (B, c, t, h, w) and sigma (B,) float32; its own dtype does not matter.
    model_sigmas: told to velocity in place of sigmas (`reference_model_sigmas`). on_step(i, x) follows each step.
    """
    scheduler = make_scheduler(sampler, sigmas)
    told = sigmas if model_sigmas is None else model_sigmas
    x = noise.float()
    for i, timestep in enumerate(scheduler.timesteps):
        sigma = told[i].to(x.device).expand(len(x))
        x = scheduler.step(velocity(x, sigma).float(), timestep, x, return_dict=False)[0]
        if on_step is not None:
            on_step(i, x)
    return x


def guided(velocity: Velocity, negative: Velocity, *, scale: float) -> Velocity:
    """Classifier-free guidance: negative + scale (velocity - negative). At scale 1 the negative pass is not run."""
    if scale == 1:
        return velocity

    def combined(x: Tensor, sigma: Tensor) -> Tensor:
        without = negative(x, sigma)
        return without + scale * (velocity(x, sigma) - without)

    return combined
