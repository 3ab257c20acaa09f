"""Statistics of transparency, one value per clip. Alpha is (B, 1, T, H, W), clamped to [0, 1] first.

`border_leak`, `coverage`, `peak` and `flicker` need no truth and judge generated clips; `background_leak`, `holes` and `edge_error`
compare with a true alpha. All but coverage and peak are better when lower.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from wan_alpha.rgba import HARD_THRESHOLD

Alpha = Float[Tensor, "B 1 T H W"]
PerClip = Float[Tensor, " B"]


def border_leak(alpha: Alpha, *, border: int = 4) -> PerClip:
    """Mean alpha in the outer `border` pixels of every frame: a subject in the middle leaves them empty."""
    alpha = alpha.clamp(0, 1)
    edge = torch.ones(alpha.shape[-2:], device=alpha.device, dtype=alpha.dtype)
    edge[border:-border, border:-border] = 0
    return _mean_where(alpha, edge.expand_as(alpha))


def coverage(alpha: Alpha) -> PerClip:
    """Mean alpha."""
    return alpha.clamp(0, 1).mean(dim=(1, 2, 3, 4))


def peak(alpha: Alpha) -> PerClip:
    """Largest alpha."""
    return alpha.clamp(0, 1).amax(dim=(1, 2, 3, 4))


def background_leak(prediction: Alpha, true_alpha: Alpha, *, threshold: float = HARD_THRESHOLD) -> PerClip:
    """Mean predicted alpha where the true alpha is at most `threshold`; 0 when nothing is transparent."""
    return _mean_where(prediction.clamp(0, 1), (true_alpha <= threshold).to(prediction.dtype))


def holes(prediction: Alpha, true_alpha: Alpha, *, threshold: float = HARD_THRESHOLD) -> PerClip:
    """Mean missing alpha, 1 - predicted, where the true alpha is at least 1 - threshold; 0 when nothing is opaque."""
    return _mean_where(1 - prediction.clamp(0, 1), (true_alpha >= 1 - threshold).to(prediction.dtype))


def edge_error(prediction: Alpha, true_alpha: Alpha, *, reach: int = 2, threshold: float = HARD_THRESHOLD) -> PerClip:
    """Mean |predicted - true alpha| in the band around the true edge; 0 when there is none.

    The band: pixels with, within REACH pixels to every side, both something not transparent and something not opaque (the unknown
    band of a trimap). It holds soft edges, glass and glow whole, and a hard edge with REACH pixels on either side.
    """
    visible, open_ = (_grown(part.to(true_alpha.dtype), reach) for part in (true_alpha > threshold, true_alpha < 1 - threshold))
    return _mean_where((prediction.clamp(0, 1) - true_alpha).abs(), visible * open_)


def flicker(alpha: Alpha) -> PerClip:
    """Mean |a[t+1] - 2 a[t] + a[t-1]|: steady change cancels, blinking does not; 0 for clips of fewer than three frames."""
    if alpha.shape[2] < 3:
        return alpha.new_zeros(len(alpha))
    alpha = alpha.clamp(0, 1)
    return (alpha[:, :, 2:] - 2 * alpha[:, :, 1:-1] + alpha[:, :, :-2]).abs().mean(dim=(1, 2, 3, 4))


def transparency_statistics(alpha: Float[Tensor, "1 1 T H W"]) -> dict[str, float]:
    """Of one generated clip: mean alpha in the outer four pixels, mean alpha, highest alpha, flicker between frames."""
    measures = {"border_leak": border_leak, "coverage": coverage, "peak": peak, "flicker": flicker}
    return {name: float(measure(alpha)[0]) for name, measure in measures.items()}


def _grown(mask: Alpha, reach: int) -> Alpha:
    """1 within REACH pixels, to every side, of a pixel that is 1."""
    return F.max_pool2d(mask.flatten(0, 2), 2 * reach + 1, stride=1, padding=reach).view(mask.shape)


def _mean_where(x: Tensor, weight: Tensor) -> Tensor:
    dims = (1, 2, 3, 4)
    return (x * weight).sum(dim=dims) / weight.sum(dim=dims).clamp(min=1)
