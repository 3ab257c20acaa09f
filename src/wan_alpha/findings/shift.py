"""The matte's edges beside the colour's: how far, to a fraction of a pixel. Arrays are 0..255, (T, H, W[, 3])."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from wan_alpha.findings.finding import Alpha, Measure, Rgb, sampled
from wan_alpha.findings.outline import closeness, colour_ends, flat_colour, outline

MAX_SHIFT = 8.0
REFINED, TURNS = 0.6, 8
MIN_LINES, MIN_SHARE = 150, 0.75
RIMS = np.arange(-1, 2.51, 0.25, dtype=np.float32)
MIN_RIM, MAX_RIM = -1.2, 0.6
NEARER = 0.01
"""Agreement that a pixel of distance must be worth."""
MOST_AGREE, CERTAIN_SHIFT = 0.48, 0.28
MIN_BALANCE, MIN_AGREEMENT, MIN_GAIN = 0.25, 0.15, 1.25


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """The shift of the matte (down, across) and the rim that most points of the outline agree on, in pixels.

    agreement: mean of exp(-(r / 0.5)^2) over the points, r what a point's end of colour misses them by; unmoved: the largest without a
    shift. balance: 1 where outlines of all directions agree, 0 where shift and rim cannot be told from each other.
    """

    shift: tuple[float, float]
    rim: float
    agreement: float
    unmoved: float
    balance: float

    @property
    def counts(self) -> bool:
        """Whether the shift is one: docs/doctor.md says on which clips these limits were chosen."""
        if not MIN_RIM <= self.rim <= MAX_RIM:
            return False
        if self.agreement >= MOST_AGREE and np.hypot(*self.shift) * self.balance >= CERTAIN_SHIFT:
            return True
        gain = self.agreement / max(self.unmoved, 1e-9)
        return self.balance >= MIN_BALANCE and self.agreement >= MIN_AGREEMENT and gain >= MIN_GAIN


def space_shift(rgb: Rgb, alpha: Alpha) -> Measure | None:
    """Distance in pixels, up to 8, by which the matte lies beside the colour.

    On lines across the matte's outline, with outward normals n, the colour ends e = s - m . n beyond the matte: m is the matte's shift,
    and the rim s a colour that ends outside or inside the matte all around. The m and s are taken on which most points agree (a Hough
    vote, then reweighted least squares), for many ends lie: a body in the light of one side ends in its shade, texture has edges of its
    own. A shift counts where 48 % agree and it is 0.28 pixels or more times the balance (shade on one side seems a shift), or where
    15 % agree and 25 % more than without one. None where the colour has too few ends along the matte, 150 and 75 % (a smooth or bled
    colour, or what a lossless WebP leaves under alpha 0: there the colour goes on here and ends there).
    """
    frames = sampled(len(alpha))
    lines = outline(alpha, frames)
    beyond = colour_ends(rgb, lines, flat=flat_colour(rgb, alpha, frames))
    ended = np.isfinite(beyond)
    if ended.sum() < max(MIN_LINES, MIN_SHARE * len(ended)):
        return None
    found = agreed_shift(lines.normal[ended], beyond[ended])
    down, across = found.shift if found.counts else (0.0, 0.0)
    return Measure(value=float(np.hypot(down, across)), detail=f"{across:+.1f} px across, {down:+.1f} px down")


def agreed_shift(normals: Float[np.ndarray, "N 2"], beyond: Float[np.ndarray, "N"]) -> Agreement:
    """What most of the colour's ends say, BEYOND pixels along the outward NORMALS (down, across)."""
    start, unmoved = _vote(normals, beyond)
    design = np.concatenate([-normals, np.ones((len(beyond), 1))], axis=1).astype(np.float64)
    for _ in range(TURNS):
        weights = np.exp(-(((beyond - design @ start) / REFINED) ** 2))
        normal = (design * weights[:, None]).T @ design + 1e-6 * np.eye(3)
        start = np.linalg.solve(normal, (design * weights[:, None]).T @ beyond)
    free = 1 / (np.diag(np.linalg.inv(normal)) * np.diag(normal))
    down, across, rim = (float(value) for value in start)
    agreement = float(closeness(beyond - design @ start).mean())
    return Agreement(shift=(down, across), rim=rim, agreement=agreement, unmoved=unmoved, balance=float(free.min()))


def _vote(normals: Float[np.ndarray, "N 2"], beyond: Float[np.ndarray, "N"]) -> tuple[Float[np.ndarray, "3"], float]:
    """(down, across, rim) of the most agreement, on a grid of half pixels, and the most agreement without a shift."""
    line = np.arange(-MAX_SHIFT, MAX_SHIFT + 0.1, 0.5, dtype=np.float32)
    grid = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)
    grid = grid[np.hypot(*grid.T) <= MAX_SHIFT]
    beyond = beyond.astype(np.float32)
    expected, cost, still = grid @ normals.T.astype(np.float32), NEARER * np.hypot(*grid.T), int(np.hypot(*grid.T).argmin())
    best, winner, unmoved = -np.inf, np.zeros(3), 0.0
    for rim in RIMS:
        agreement = closeness(beyond - rim + expected).mean(axis=1)
        unmoved = max(unmoved, float(agreement[still]))
        first = int((agreement - cost).argmax())
        if agreement[first] - cost[first] > best:
            best, winner = agreement[first] - cost[first], np.array([*grid[first], rim], np.float64)
    return winner, unmoved
