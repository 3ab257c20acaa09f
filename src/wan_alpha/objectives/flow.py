"""Rectified flow (paper, Eq. 14-16 and v3): noise levels, noising, velocity, losses.

sigma in [0, 1] is the noise level, 1 is pure noise. Latents are (B, c, t, h, w), normalised; sigma and weights are (B,) float32.
"""

from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Latent = Float[Tensor, "B c t h w"]
PerSample = Float[Tensor, " B"]
Scalar = Float[Tensor, ""]

SigmaDensity = Literal["uniform", "logit_normal", "table", "reference"]

REFERENCE_SHIFT = 5.0
TABLE_STEPS = 1000


def shift_sigma(x: Float[Tensor, "*shape"], *, shift: float) -> Float[Tensor, "*shape"]:
    """s x / (1 + (s - 1) x): moves noise levels towards 1 for s > 1 and keeps 0 and 1."""
    return shift * x / (1 + (shift - 1) * x)


def sample_sigmas(count: int, *, density: SigmaDensity, shift: float, generator: torch.Generator) -> Float[Tensor, " count"]:
    """Noise levels (count,) float32 on the CPU, one per sample: a draw from the density, then the shift.

    uniform: U[0, 1). logit_normal: sigmoid(N(0, 1)). table: one of the published levels 1 - i/1000, i = 0..999. reference: the same as
    the published code draws them, timesteps rounded to bfloat16 and looked up again, which leaves 294 levels at shift 5.
    """
    if density in ("table", "reference"):
        index = torch.randint(TABLE_STEPS, (count,), generator=generator)
        return (_table_sigmas(shift) if density == "table" else _rounded_sigmas(shift))[index]
    draw = torch.rand(count, generator=generator) if density == "uniform" else torch.randn(count, generator=generator).sigmoid()
    return shift_sigma(draw, shift=shift)


def reference_table() -> tuple[Float[Tensor, " n"], Float[Tensor, " n"], Float[Tensor, " n"]]:
    """The published table of 1000 levels: sigmas, timesteps (1000 sigma), and bell-curve weights of mean 1."""
    sigmas = _table_sigmas(REFERENCE_SHIFT)
    return sigmas, 1000 * sigmas, bell_weight(sigmas)


def bell_weight(sigma: Float[Tensor, " n"], *, shift: float = REFERENCE_SHIFT) -> Float[Tensor, " n"]:
    """The published weight "bsmntw": y - min y, scaled to mean 1 over the shifted table, y = exp(-2 ((1000 sigma - 500) / 1000)^2)."""
    table = _bell(_table_sigmas(shift, device=sigma.device))  # made there: a copy from the CPU would be waited for
    return (_bell(sigma) - table.min()).clamp(min=0) / (table - table.min()).mean()


def noise_at(x0: Latent, noise: Latent, sigma: PerSample) -> Latent:
    """x_sigma = (1 - sigma) x0 + sigma noise (Eq. 14; the paper's t is sigma)."""
    sigma = _per_sample(sigma)
    return (1 - sigma) * x0 + sigma * noise


def velocity(x0: Latent, noise: Latent) -> Latent:
    """v = noise - x0 = d x_sigma / d sigma (Eq. 15)."""
    return noise - x0


def shift_noise(noise: Latent, gaussian: Float[Tensor, "t h w"] | Float[Tensor, "B 1 t h w"], *, mu: float) -> Latent:
    """n + mu (1 - g): the mean of the noise is mu outside the subject's ellipse (g = 0) and 0 inside (g = 1).

    Transparency-guided mean sampler of v3, in the released code's orientation; mu = 0.05, 0 is v1. All channels alike.
    """
    return noise + mu * (1 - gaussian)


def flow_loss(prediction: Latent, target: Latent, weight: PerSample) -> PerSample:
    """w(sigma) mean (v^ - v)^2, one value per sample (Eq. 16)."""
    return weight * (prediction.float() - target.float()).square().mean(dim=(1, 2, 3, 4))


def bidirectional_loss(
    prediction: Latent,
    target: Latent,
    mask: Float[Tensor, "B 1 t h w"],
    weight: PerSample,
    *,
    mode: Literal["ours", "reference"] = "ours",
) -> Scalar:
    """Transparency-aware bidirectional diffusion loss (v3): opaque cells must be easy for the frozen DiT, empty ones hard.

    mask: 1 opaque, -1 transparent or semi-transparent, 0 boundary (`transparency.three_valued_mask`).
    ours: mean M clamp(w err^2, 0, 1): the negative half is bounded and has a gradient.
    reference: mean clamp(M w err^2, 0, 1): the clamp at 0 removes the negative half, as in the released code.
    """
    error = _per_sample(weight) * (prediction.float() - target.float()).square()
    if mode == "reference":
        return (mask * error).clamp(0, 1).mean()
    return (mask * error.clamp(0, 1)).mean()


def _table_sigmas(shift: float, *, device: torch.device | None = None) -> Tensor:
    return shift_sigma(1 - torch.arange(TABLE_STEPS, dtype=torch.float32, device=device) / TABLE_STEPS, shift=shift)


@lru_cache(maxsize=4)
def _rounded_sigmas(shift: float) -> Tensor:
    """For each level of the table the one whose timestep is nearest to its own timestep in bfloat16."""
    timesteps = 1000 * _table_sigmas(shift)
    distance = (timesteps[None] - timesteps.bfloat16().float()[:, None]).abs()
    return _table_sigmas(shift)[distance.argmin(dim=1)]


def _bell(sigma: Tensor) -> Tensor:
    return torch.exp(-2 * (sigma - 0.5).square())


def _per_sample(x: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1, 1)."""
    return x[:, None, None, None, None]
