"""What a check is and what it finds. A check compares one measured number, larger is worse, with its limit."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from wan_alpha.media.clip import RgbaClip

Severity = Literal["note", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = ("note", "warning", "error")
Repair = Literal["unpremultiply", "stretch", "denoise", "bleed", "trim"]

Rgb = UInt8[np.ndarray, "T H W 3"]
Alpha = UInt8[np.ndarray, "T H W"]

TRANSPARENT, OPAQUE = 8, 247
"""Levels up to 8 count as nothing and from 247 on as solid: lossy mattes stray that far (docs/rgba.md)."""
MAX_SAMPLED = 9


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One number, the frame where it is worst (None: the whole clip), and what else a reader wants to know."""

    value: float
    frame: int | None = None
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Check:
    """A finding's definition. `says` is a sentence with {value}, {limit} and {detail}; `do` is what helps."""

    name: str
    severity: Severity
    limit: float
    says: str
    do: str
    measure: Callable[[RgbaClip], Measure | None]
    repair: Repair | None = None

    def finding(self, measured: Measure | None) -> "Finding | None":
        """The finding, if there is one: None when the measure does not apply or stays within the limit."""
        if measured is None or not measured.value > self.limit:
            return None
        says = self.says.format(value=measured.value, limit=self.limit, detail=measured.detail)
        return Finding(
            name=self.name,
            severity=self.severity,
            says=says,
            do=self.do,
            value=round(float(measured.value), 4),
            limit=self.limit,
            frame=measured.frame,
            repair=self.repair,
        )


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something wrong with one clip: what, where, how bad, what to do."""

    name: str
    severity: Severity
    says: str
    do: str
    value: float | None = None
    limit: float | None = None
    frame: int | None = None
    repair: Repair | None = None

    def line(self) -> str:
        where = "" if self.frame is None else f" (frame {self.frame})"
        return f"{self.severity}: {self.name}: {self.says}{where}; {self.do}"


def evenly(points: np.ndarray, *, at_most: int) -> np.ndarray:
    """At most AT_MOST of the points, spread evenly over their order."""
    return points[np.linspace(0, len(points) - 1, min(len(points), at_most)).astype(int)]


def sampled(num_frames: int, *, at_most: int = MAX_SAMPLED) -> list[int]:
    """Indices of at most AT_MOST frames, spread evenly, ends included."""
    return sorted({round(i) for i in np.linspace(0, num_frames - 1, min(at_most, num_frames))})
