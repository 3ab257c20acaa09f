"""Transparent pixels: rendering, premultiplication, the colours that stand behind them.

Pixels are straight-alpha sRGB in [0, 1], (..., C, T, H, W); [-1, 1] exists only between `to_signed` and `from_signed`. A
premultiplied tensor has `premul` in its name. Colour is blended in sRGB values, as the paper and every browser do.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

HARD_THRESHOLD = 8 / 255  # codecs turn 4-6 % of a matte's true zeros into small positive values; alpha > 0 would make them opaque

# The corners of the RGB cube (paper, section 3.1); bits of the index are (R, G, B): 0 black, 1 blue, 2 green, ... 7 white.
RENDER_COLOURS: Tensor = torch.tensor([[i >> 2 & 1, i >> 1 & 1, i & 1] for i in range(8)], dtype=torch.float32)

# The nine backgrounds over which reconstruction is measured (AlphaVAE, arXiv 2507.09308, Eq. 1-2).
METRIC_COLOURS: dict[str, tuple[float, float, float]] = {
    "black": (0.0, 0.0, 0.0),
    "grey": (0.5, 0.5, 0.5),
    "white": (1.0, 1.0, 1.0),
    "red": (1.0, 0.0, 0.0),
    "green": (0.0, 1.0, 0.0),
    "blue": (0.0, 0.0, 1.0),
    "yellow": (1.0, 1.0, 0.0),
    "cyan": (0.0, 1.0, 1.0),
    "magenta": (1.0, 0.0, 1.0),
}


def to_signed(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """[0, 1] -> [-1, 1], the range of the models."""
    return 2 * x - 1


def from_signed(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """[-1, 1] -> [0, 1]; values outside stay outside."""
    return (x + 1) / 2


def over(rgb: Float[Tensor, "..."], alpha: Float[Tensor, "..."], background: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """rgb * alpha + background * (1 - alpha), shapes broadcast; alpha is taken as it is, so predictions may leave [0, 1] (Eq. 1)."""
    return rgb * alpha + background * (1 - alpha)


def hard_alpha(alpha: Float[Tensor, "*shape"], *, threshold: float = HARD_THRESHOLD) -> Float[Tensor, "*shape"]:
    """1 where alpha > threshold, else 0, so no gradient reaches alpha (Eq. 2; the paper's threshold is 0)."""
    return (alpha > threshold).to(alpha.dtype)


def soft_render(
    rgb: Float[Tensor, "B 3 T H W"], alpha: Float[Tensor, "B _ T H W"], colour: Float[Tensor, "B 3"]
) -> Float[Tensor, "B 3 T H W"]:
    """R^s = rgb * alpha + c * (1 - alpha) (Eq. 1): one colour per sample, alpha of 1 or 3 channels, not clamped."""
    return over(rgb, alpha, colour[:, :, None, None, None])


def hard_render(
    rgb: Float[Tensor, "B 3 T H W"], alpha: Float[Tensor, "B _ T H W"], colour: Float[Tensor, "B 3"], *, threshold: float = HARD_THRESHOLD
) -> Float[Tensor, "B 3 T H W"]:
    """R^h = rgb where alpha > threshold, c elsewhere (Eq. 2): what the encoder sees, so that colour says where nothing is."""
    return soft_render(rgb, hard_alpha(alpha, threshold=threshold), colour)


def premultiply(rgb: Float[Tensor, "*b 3 T H W"], alpha: Float[Tensor, "*b 1 T H W"]) -> Float[Tensor, "*b 3 T H W"]:
    """Straight to premultiplied colour. Resampling is only right on premultiplied pixels: hidden colour must not bleed in."""
    return rgb * alpha


def unpremultiply(premul: Float[Tensor, "*b 3 T H W"], alpha: Float[Tensor, "*b 1 T H W"]) -> Float[Tensor, "*b 3 T H W"]:
    """Premultiplied to straight colour in [0, 1]; black where alpha is 0, where colour is unknown."""
    visible = alpha > 0
    return torch.where(visible, premul / torch.where(visible, alpha, 1), 0).clamp(0, 1)


def to_uint8(x: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """[0, 1] -> 0..255, clamped and rounded once (the published code truncates)."""
    return (x.clamp(0, 1) * 255).round().to(torch.uint8)
