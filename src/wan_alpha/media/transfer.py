"""Between light and display values: sRGB's transfer function (IEC 61966-2-1)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

Transfer = Literal["linear", "display"]
"""What stored colour is: light, as compositors keep it in EXR, or sRGB values."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What a picture's colour is in its file, and why it was divided by the file's alpha when it was decoded; None: it was not."""

    transfer: Transfer = "display"
    divided: str | None = None


def srgb_to_linear(x: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Display value to light, both in [0, 1]."""
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(x: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Light to display value, both in [0, 1]."""
    return np.where(x <= 0.0031308, x * 12.92, 1.055 * np.maximum(x, 0.0031308) ** (1 / 2.4) - 0.055)
