"""Where a clip is opaque, in latent cells: the three-valued mask and the Gaussian ellipse of v3.

A latent cell covers 8 x 8 pixels of four frames (of one frame in the first latent frame). Alpha is (B, 1, T, H, W) in [0, 1],
T = 4n+1. An ellipse is five numbers in cells: centre x, centre y, sigma along the first axis, sigma along the second, angle in
degrees from x to y (y points down). The centre of cell i lies at i. NaN stands for no ellipse.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int8
from torch import Tensor

from wan_alpha.errors import UsageError
from wan_alpha.geometry import SPATIAL_FACTOR, TEMPORAL_FACTOR
from wan_alpha.rgba import to_signed

Alpha = Float[Tensor, "B 1 T H W"]

TOLERANCE = 8 / 255
OPAQUE = 0.75  # a pixel belongs to the subject above this alpha
OCCUPIED = 0.2  # a cell belongs to the subject above this share of such pixels
SOLID = 0.9  # the published code takes the angle from these cells alone
COVERAGE = 0.98  # share of occupied cells inside the ellipse
GROWTH = 1.12
MIN_SEMI_AXIS = 1.0
FEW_CELLS = 5


def three_valued_mask(
    alpha: Alpha, *, rule: Literal["ours", "reference"] = "ours", tolerance: float = TOLERANCE
) -> Int8[Tensor, "B t h w"]:
    """1 fully opaque, -1 fully transparent or purely semi-transparent, 0 boundary (v3's M, with boundary cells left out).

    ours: a pixel is opaque from 1 - tolerance, transparent up to tolerance, and every latent frame follows the same rule.
    reference: exact values, and in the first latent frame every cell that is not opaque is -1.
    """
    _check_size(alpha)
    pixels = _cells(alpha)
    if rule == "reference":
        mean = to_signed(pixels.mean(dim=-1))
        opaque, transparent = (torch.isclose(mean, torch.full_like(mean, value)) for value in (1.0, -1.0))
        semi = ((pixels != 0) & (pixels != 1)).all(dim=-1)
        semi[:, 0] = True
    else:
        opaque, transparent = (pixels >= 1 - tolerance).all(dim=-1), (pixels <= tolerance).all(dim=-1)
        semi = ((pixels > tolerance) & (pixels < 1 - tolerance)).all(dim=-1)
    return opaque.to(torch.int8) - ((transparent | semi) & ~opaque).to(torch.int8)


def gaussian_ellipse(alpha: Alpha) -> Float[Tensor, "B t h w"]:
    """The soft place of the subject in [0, 1]: 1 at its centre, about e^-1/2 at the rim of its ellipse, 0 at the farthest cell.

    Paper v3's G. One definition for training and inference; a latent frame without subject is 0 everywhere.
    """
    h, w = alpha.shape[-2] // SPATIAL_FACTOR, alpha.shape[-1] // SPATIAL_FACTOR
    return gaussian_from_cells(fit_ellipses(alpha), height=h, width=w)


def fit_ellipses(alpha: Alpha) -> Float[Tensor, "B t 5"]:
    """One ellipse per latent frame around the occupied cells (see `fit_ellipse`)."""
    return torch.stack([torch.stack([fit_ellipse(cells > OCCUPIED) for cells in sample]) for sample in occupancy(alpha)])


def occupancy(alpha: Alpha, *, threshold: float = OPAQUE) -> Float[Tensor, "B t h w"]:
    """Share of pixels with alpha > threshold in each latent cell."""
    _check_size(alpha)
    return _cells((alpha > threshold).float()).mean(dim=-1)


def fit_ellipse(occupied: Bool[Tensor, "h w"]) -> Float[Tensor, " 5"]:
    """Ellipse around the set cells: centre and directions from their mean and covariance, semi-axes from their half range (one
    cell at least), grown by 1.12 until it holds 98 % of the cells' centres. Axes stay fractional; the published ones are whole.
    """
    y, x = occupied.nonzero(as_tuple=True)
    if len(x) == 0:
        return torch.full((5,), torch.nan, device=occupied.device)
    points = torch.stack([x, y], dim=1).float()
    centre = points.mean(dim=0)
    angle, along = _principal(points, centre)
    semi_axes = ((along.amax(dim=0) - along.amin(dim=0)) / 2).clamp(min=MIN_SEMI_AXIS)
    radius = (along / semi_axes).norm(dim=1).sort().values[math.ceil(COVERAGE * len(x)) - 1].item()
    enlargements = max(0, math.ceil(math.log(max(radius, 1e-6), GROWTH) - 1e-5))
    return torch.cat([centre, semi_axes * GROWTH**enlargements, angle.rad2deg()[None]])


def gaussian_from_cells(ellipse: Float[Tensor, "*b 5"], *, height: int, width: int) -> Float[Tensor, "*b {height} {width}"]:
    """exp(-(u^2 + v^2) / 2), u and v in sigmas along the axes, stretched to [0, 1] over the frame; NaN ellipses give 0."""
    ellipse = ellipse.float()
    cx, cy, su, sv, angle = ellipse[..., None, None].unbind(dim=-3)
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float32, device=ellipse.device),
        torch.arange(width, dtype=torch.float32, device=ellipse.device),
        indexing="ij",
    )
    cos, sin = angle.deg2rad().cos(), angle.deg2rad().sin()
    u = ((x - cx) * cos + (y - cy) * sin) / su.clamp(min=0.01)
    v = ((y - cy) * cos - (x - cx) * sin) / sv.clamp(min=0.01)
    bell = (-(u.square() + v.square()) / 2).clamp(min=-50).exp()
    low, high = bell.amin(dim=(-2, -1), keepdim=True), bell.amax(dim=(-2, -1), keepdim=True)
    return ((bell - low) / (high - low).clamp(min=1e-8)).nan_to_num(nan=0.0)


def gaussian_from_ellipse(
    *,
    shape: tuple[int, int, int],
    centre: tuple[float, float] = (0.5, 0.5),
    axes: tuple[float, float] = (0.5, 0.5),
    angle: float = 0.0,
    path: Sequence[tuple[float, float]] = (),
) -> Float[Tensor, "t h w"]:
    """The Gaussian of an ellipse given by hand, for shape (t, h, w): where generation should put the subject.

    centre (x, y) and full axes as fractions of width and height, angle in degrees; (0.5, 0.5) is the middle of the frame. With a
    path the ellipse moves from `centre` through its points, in straight lines and equal times.
    """
    t, h, w = shape
    if min(axes) <= 0:
        raise UsageError("ellipse_axes", got=axes, expected="two positive fractions of width and height")
    points = torch.tensor([centre, *path], dtype=torch.float32)
    place = torch.linspace(0, len(path), t)
    before = place.floor().long().clamp(max=max(len(path) - 1, 0))
    after = (before + 1).clamp(max=len(path))
    centres = torch.lerp(points[before], points[after], (place - before)[:, None])
    x, y = (centres * torch.tensor([w, h]) - 0.5).unbind(dim=1)
    rest = torch.tensor([axes[0] * w / 2, axes[1] * h / 2, angle]).expand(t, 3)
    return gaussian_from_cells(torch.cat([x[:, None], y[:, None], rest], dim=1), height=h, width=w)


def reference_ellipse(
    share: Float[Tensor, "h w"], *, enlargements: int, rasterise: Callable[[tuple[int, int], tuple[int, int], float], Bool[Tensor, "h w"]]
) -> Float[Tensor, " 5"]:
    """The published search on one frame of `occupancy`: integer axes, angle from other cells than the lengths, best of N trials.

    rasterise(centre, semi_axes, degrees) fills an ellipse of whole cells; the published code draws it with OpenCV. Its training
    tool takes alpha > 0.75 and 8 trials, its inference tool alpha > 0.1 and 10.
    """
    occupied = share > OCCUPIED
    y, x = occupied.nonzero(as_tuple=True)
    if len(x) == 0:
        return torch.full((5,), torch.nan)
    points = torch.stack([x, y], dim=1).float()
    if len(x) < FEW_CELLS:
        centre, angle = (points.amax(dim=0) + points.amin(dim=0)) / 2, torch.zeros(())
        semi_axes = (points.amax(dim=0) - points.amin(dim=0)) / 2
    else:
        centre = points.mean(dim=0)
        angle, along = _principal(points, centre)
        semi_axes = (along.amax(dim=0) - along.amin(dim=0)) / 2
        solid = (share > SOLID).nonzero().flip(1).float()
        angle = _principal(solid, solid.mean(dim=0))[0] if len(solid) >= FEW_CELLS else angle
    semi_axes = semi_axes.clamp(min=MIN_SEMI_AXIS)
    h, w = share.shape
    pixel = (min(max(round(centre[0].item()), 0), w - 1), min(max(round(centre[1].item()), 0), h - 1))
    best, best_axes = -1.0, semi_axes
    for _ in range(enlargements):
        whole = (max(1, round(semi_axes[0].item())), max(1, round(semi_axes[1].item())))
        coverage = (rasterise(pixel, whole, angle.rad2deg().item()) & occupied).sum().item() / len(x)
        if coverage > best:
            best, best_axes = coverage, semi_axes
        if coverage >= COVERAGE:
            break
        semi_axes = semi_axes * GROWTH
    return torch.cat([centre, best_axes, angle.rad2deg()[None]])


def _principal(points: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """Angle (radians) of the largest spread of points (n, 2) around centre, and their coordinates along it and across.

    Equal spread in all directions has no such angle: it gets 90 degrees (what an eigen-solver returns), not one that rounding chose.
    """
    dx, dy = (points - centre).unbind(dim=1)
    vx, vy, cross = dx.square().mean(), dy.square().mean(), (dx * dy).mean()
    elongated = torch.hypot(2 * cross, vx - vy) > 1e-5 * (vx + vy)
    angle = torch.where(elongated, 0.5 * torch.atan2(2 * cross, vx - vy), math.pi / 2)
    cos, sin = angle.cos(), angle.sin()
    return angle, torch.stack([dx * cos + dy * sin, dy * cos - dx * sin], dim=1)


def _cells(x: Tensor) -> Tensor:
    """(B, 1, T, H, W) -> (B, t, h, w, 256), the pixels of each latent cell; frame 0 stands four times."""
    first = x[:, :, :1].expand(-1, -1, TEMPORAL_FACTOR, -1, -1)
    clip = torch.cat([first, x[:, :, 1:]], dim=2).squeeze(1)
    blocks = clip.unflatten(3, (-1, SPATIAL_FACTOR)).unflatten(2, (-1, SPATIAL_FACTOR)).unflatten(1, (-1, TEMPORAL_FACTOR))
    return blocks.permute(0, 1, 3, 5, 2, 4, 6).flatten(4)


def _check_size(alpha: Tensor) -> None:
    t, h, w = alpha.shape[2:]
    if (t - 1) % TEMPORAL_FACTOR or h % SPATIAL_FACTOR or w % SPATIAL_FACTOR:
        raise UsageError(
            "alpha clip", got=f"{t} frames of {h}x{w}", expected=f"4n+1 frames, height and width multiples of {SPATIAL_FACTOR}"
        )
