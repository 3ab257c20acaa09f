"""How far the matte's edges lie beside the colour's, to a fraction of a pixel. Frames are (T, H, W[, 3]), 0..255."""

import numpy as np
from jaxtyping import Bool, Float

from wan_alpha.findings.filters import Floats, gradients
from wan_alpha.findings.finding import Alpha, Rgb

RADIUS, SOFTNESS = 3, 2
MIN_SLOPE, MIN_WINDOWS, MAX_WINDOWS = 0.1, 50, 4000
MIN_CONTRAST = 16.0
MIN_EXPLAINED, MIN_SHARE, MIN_FREE = 0.9, 0.45, 0.25
MAX_SHIFT, LUMA_SUFFICES = 2.0, 0.9
TURNS = 3

Windows = Float[np.ndarray, "N K"]
Steps = Float[np.ndarray, "N K 3"]
Colours = Float[np.ndarray, "N K C"]
LUMA = np.array([[0.2126], [0.7152], [0.0722]], np.float32)
"""Of BT.709, as a column."""


def edge_shift(rgb: Rgb, alpha: Alpha) -> tuple[float, float] | None:
    """By how much (down, across) the matte has to move onto the colour's edges, in pixels; for distances below about one pixel.

    In a small window colour is a linear function of alpha (the colour line of Levin, Lischinski and Weiss 2008), under light that changes
    slowly: c = q + q_y y + q_x x + p a(x - d). To first order (Lucas and Kanade 1981) a(x - d) = a - d . grad a + s |grad a|, where the
    ring s stands for colour that merely ends outside or inside the matte all around. Every window of 7 x 7 on an edge has its own p and q;
    d and s are those of the clip: least squares, by turns for p and for (d, s). All signals are smoothed alike, by a tent of 5 x 5,
    because edges of one pixel are too steep for the first order. Distances come out up to 0.2 of themselves too large.

    Luma alone is used where it shows the edges nearly as well as colour: in 4:2:0 video chroma may lie half a pixel beside luma, by the
    encoder's and the decoder's different ideas of its place, and no viewer sees that.

    None where this says nothing: fewer than 50 windows, or less than 45 % of them in which colour changes by 16 levels and follows
    the matte (a body in the light of one side, whose shade ends before the edge does, is not judged); edges of one direction alone,
    which cannot tell d from s; more than 2 pixels.
    """
    windows = _windows(rgb, alpha)
    if windows is None:
        return None
    a, steps, colour = windows[..., 0], windows[..., 1:4], windows[..., 4:]
    useful, by_luma = (_useful(a, steps, channels) for channels in (colour, colour @ LUMA))
    if by_luma.sum() >= LUMA_SUFFICES * useful.sum():
        colour, useful = colour @ LUMA, by_luma
    if useful.sum() < max(MIN_WINDOWS, MIN_SHARE * len(useful)):
        return None
    down, across, _ = mix = _common_steps(a[useful], steps[useful], colour[useful])
    return (float(down), float(across)) if np.isfinite(mix).all() and np.hypot(down, across) <= MAX_SHIFT else None


def _common_steps(a: Windows, steps: Steps, colour: Colours) -> Float[np.ndarray, "3"]:
    """d and s that all windows have in common; not finite where they cannot be told from each other."""
    mix = np.zeros(3)
    for _ in range(TURNS):
        slope = _slopes(a + steps @ mix, colour)
        rest = np.einsum("nkc,nc->nk", colour, slope) - (slope**2).sum(axis=1)[:, None] * a
        normal = np.einsum("n,nki,nkj->ij", (slope**2).sum(axis=1), steps, steps)
        normal += 1e-3 * np.trace(normal) * np.eye(3)
        mix = np.linalg.solve(normal, np.einsum("nk,nki->i", rest, steps))
    free = 1 / (np.diag(np.linalg.inv(normal)) * np.diag(normal))
    return mix if free.min() >= MIN_FREE else np.full(3, np.nan)


def _slopes(a: Windows, colour: Colours) -> Float[np.ndarray, "N C"]:
    """p of each window: by how much colour changes from alpha 0 to 1."""
    return np.einsum("nk,nkc->nc", a, colour) / np.maximum((a**2).sum(axis=1), 1e-9)[:, None]


def _useful(a: Windows, steps: Steps, colour: Colours) -> Bool[np.ndarray, "N"]:
    """Windows of enough contrast in which the matte, moved by itself there, explains 90 % of the colour's variance."""
    basis = np.concatenate([a[..., None], steps[..., :2]], axis=-1)
    normal = np.einsum("nki,nkj->nij", basis, basis) + 1e-3 * np.eye(3)
    right = np.einsum("nki,nkc->nic", basis, colour)
    explained = np.einsum("nic,nic->n", right, np.linalg.solve(normal, right))
    contrast = (_slopes(a, colour) ** 2).mean(axis=1)
    return (explained >= MIN_EXPLAINED * (colour**2).sum(axis=(1, 2))) & (contrast >= MIN_CONTRAST**2)


def _windows(rgb: Rgb, alpha: Alpha) -> Float[np.ndarray, "N K 7"] | None:
    """Alpha (0..1), minus its gradients, their size, and colour, around at most 4,000 pixels of the matte's edges; smoothed, and level."""
    reach = RADIUS + SOFTNESS
    a = alpha.astype(np.float32) / 255
    down, across = gradients(a)
    size = np.hypot(down, across)
    centres = np.argwhere(size[:, reach:-reach, reach:-reach] >= MIN_SLOPE)
    if len(centres) < MIN_WINDOWS:
        return None
    t, y, x = centres[np.linspace(0, len(centres) - 1, min(len(centres), MAX_WINDOWS)).astype(int)].T
    square = np.arange(2 * reach + 1)
    at = (t[:, None, None], y[:, None, None] + square[:, None], x[:, None, None] + square)
    planes = np.stack([plane[at] for plane in (a, -down, -across, size)], axis=-1)
    signals = np.concatenate([planes, rgb[at].astype(np.float32)], axis=-1)
    return np.einsum("ks,nsi->nki", _smooth_and_level(), signals.reshape(len(t), -1, 7), optimize=True)


def _smooth_and_level() -> Floats:
    """From a square of side 2 (RADIUS + SOFTNESS) + 1 to one of 2 RADIUS + 1: smoothed by a tent, less its least-squares plane; (K, S)."""
    side = 2 * RADIUS + 1
    tent = np.convolve(np.ones(SOFTNESS + 1), np.ones(SOFTNESS + 1)) / (SOFTNESS + 1) ** 2
    line = np.stack([np.convolve(row, tent) for row in np.eye(side)])
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    plane = np.linalg.qr(np.stack([np.ones(side**2), y.ravel(), x.ravel()], axis=1))[0]
    level = np.eye(side**2) - plane @ plane.T
    return (level @ np.kron(line, line)).astype(np.float32)
