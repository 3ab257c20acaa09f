"""Stage 1: reconstruction of transparent clips, Eq. 7-13 of the paper (arXiv 2509.24979).

    L_vae = sum over {hard render, soft render, alpha} of  L1 + perceptual + edge        (Eq. 10-13, all weights 1)

Clips come in as straight colour (B, 3, T, H, W) and alpha (B, 1 or 3, T, H, W), nominally [0, 1]; predictions are not clamped.
As published, L1 and edge are measured on signed values in [-1, 1], the perceptual term on [0, 1].
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from wan_alpha.rgba import HARD_THRESHOLD, hard_render, soft_render, to_signed

Clip = Float[Tensor, "B C T H W"]
Scalar = Float[Tensor, ""]
Features = Callable[[Tensor], Tensor]

GREY = (65.738 / 256, 129.057 / 256, 25.064 / 256)  # as published: BT.601 luma of studio range; the weights sum to 0.859
MAGNITUDE_EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class ReconstructionSettings:
    """Where ours differs from the published loss; `REFERENCE` is the published one."""

    hard_threshold: float = HARD_THRESHOLD
    edge_kernel: Literal["central", "sobel"] = "central"
    edge_padding: Literal["replicate", "zeros"] = "replicate"


REFERENCE = ReconstructionSettings(hard_threshold=0.0, edge_kernel="central", edge_padding="zeros")


def l1(prediction: Clip, target: Clip) -> Scalar:
    """mean |x - y| on values in [-1, 1] (Eq. 7)."""
    return (prediction - target).abs().mean()


def perceptual(prediction: Clip, target: Clip, *, features: Features) -> Scalar:
    """mean (phi(x) - phi(y))^2 (Eq. 8). Clips (B, 3, T, H, W) in [0, 1]; phi maps frames (B*T, 3, H, W), published: VGG16 to relu2_2
    without ImageNet normalisation. No gradient reaches the target."""
    with torch.no_grad():
        wanted = features(_frames(target))
    return F.mse_loss(features(_frames(prediction)), wanted)


def edge(
    prediction: Clip,
    target: Clip,
    *,
    kernel: Literal["central", "sobel"] = "central",
    padding: Literal["replicate", "zeros"] = "replicate",
) -> Scalar:
    """mean |S(x) - S(y)|, S = gradient magnitude of grey (Eq. 9). Clips (B, 3, T, H, W) in [-1, 1].

    central: differences x[i+1] - x[i-1], as published. sobel: the same, smoothed by (1, 2, 1) / 4 across (the paper's wording).
    """
    return (
        (gradient_magnitude(prediction, kernel=kernel, padding=padding) - gradient_magnitude(target, kernel=kernel, padding=padding))
        .abs()
        .mean()
    )


def gradient_magnitude(
    clip: Float[Tensor, "B 3 T H W"], *, kernel: Literal["central", "sobel"], padding: Literal["replicate", "zeros"]
) -> Float[Tensor, "B T H W"]:
    """sqrt(gx^2 + gy^2 + 1e-6) of the grey clip; zero padding sees an edge at the border wherever grey is not 0."""
    red, green, blue = (weight * clip[:, channel] for channel, weight in enumerate(GREY))
    grey = red + green + blue
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate" if padding == "replicate" else "constant")
    gx = padded[..., :, 2:] - padded[..., :, :-2]
    gy = padded[..., 2:, :] - padded[..., :-2, :]
    if kernel == "sobel":
        gx = (gx[..., :-2, :] + 2 * gx[..., 1:-1, :] + gx[..., 2:, :]) / 4
        gy = (gy[..., :, :-2] + 2 * gy[..., :, 1:-1] + gy[..., :, 2:]) / 4
    else:
        gx, gy = gx[..., 1:-1, :], gy[..., :, 1:-1]
    return (gx.square() + gy.square() + MAGNITUDE_EPS).sqrt()


def rgba_reconstruction_loss(
    prediction: tuple[Tensor, Tensor],
    target: tuple[Tensor, Tensor],
    *,
    hard_colour: Float[Tensor, "B 3"],
    soft_colour: Float[Tensor, "B 3"],
    perceptual_features: Features | None,
    settings: ReconstructionSettings,
) -> dict[str, Scalar]:
    """All terms of Eq. 10-13 and their `total`, as scalars.

    prediction, target: (rgb (B, 3, T, H, W), alpha (B, 1 or 3, T, H, W)), nominally [0, 1]. One channel of alpha counts as three
    equal ones. The same colour (one per sample, [0, 1]) stands behind prediction and target. Keys: {l1,perceptual,edge}_{hard,
    soft,alpha}, total; without `perceptual_features` the perceptual keys are absent.
    """
    pairs = {
        "hard": tuple(hard_render(*clip, hard_colour, threshold=settings.hard_threshold) for clip in (prediction, target)),
        "soft": tuple(soft_render(*clip, soft_colour) for clip in (prediction, target)),
        "alpha": tuple(alpha.expand(-1, 3, -1, -1, -1) for _, alpha in (prediction, target)),
    }
    terms: dict[str, Tensor] = {}
    for name, (x, y) in pairs.items():
        terms[f"l1_{name}"] = l1(to_signed(x), to_signed(y))
        if perceptual_features is not None:
            terms[f"perceptual_{name}"] = perceptual(x, y, features=perceptual_features)
        terms[f"edge_{name}"] = edge(to_signed(x), to_signed(y), kernel=settings.edge_kernel, padding=settings.edge_padding)
    return {**terms, "total": torch.stack(list(terms.values())).sum()}


def _frames(clip: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B*T, C, H, W)."""
    return clip.transpose(1, 2).flatten(0, 1)
