"""Errors of alpha as matting benchmarks report them, one value per clip: mean over frames, lower is better, never NaN.

Alpha is (B, 1, T, H, W) in [0, 1], predictions clamped to it. Benchmarks count the unknown band of a trimap or, for video, whole
frames; here it is whole frames, so sums grow with the frame's size and are comparable at one size only.

SAD, MSE, Grad, Conn: Rhemann et al., A Perceptually Motivated Online Benchmark for Image Matting, CVPR 2009.
dtSSD: Erofeev et al., Perceptually Motivated Benchmark for Video Matting, BMVC 2015. Scales as in evaluations of video matting.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from wan_alpha.metrics.regions import largest_region
from wan_alpha.metrics.transparency import Alpha, PerClip

SUM_UNIT = 1000  # sums over pixels are given in thousands
GRADIENT_SIGMA = 1.4
GRADIENT_TAIL = 0.01  # the kernel ends where the Gaussian falls below it
LEVELS = 10  # Conn's thresholds are 0.1, 0.2 ... 1
MIN_DISTANCE = 0.15  # smaller distances from the connected level count as connected


def sad(prediction: Alpha, target: Alpha) -> PerClip:
    """Sum of absolute differences, sum |a - t| / 1000 per frame."""
    return _frame_sum((prediction.clamp(0, 1) - target).abs())


def mse(prediction: Alpha, target: Alpha) -> PerClip:
    """Mean squared error, 1000 mean (a - t)^2."""
    return 1000 * (prediction.clamp(0, 1) - target).square().mean(dim=(1, 2, 3, 4))


def gradient_error(prediction: Alpha, target: Alpha) -> PerClip:
    """Grad: sum (|G a| - |G t|)^2 / 1000 per frame, G first derivatives of a Gaussian with sigma 1.4, of norm 1, border repeated.

    Public evaluations stretch every matte to [0, 1] first; that hides a wrong contrast and is left out.
    """
    return _frame_sum((gradient_magnitude(prediction.clamp(0, 1)) - gradient_magnitude(target)).square())


def connectivity_error(prediction: Alpha, target: Alpha) -> PerClip:
    """Conn: sum |phi(a) - phi(t)| / 1000 per frame, phi(x) = 1 - d [d >= 0.15], d = x - l.

    l of a pixel is the highest of the levels 0, 0.1 ... 1 up to which it stays in the largest 4-connected region where both mattes
    reach the level. Detached pieces and gaps thus cost their alpha. Without any region at a level, l stops below it everywhere.
    """
    prediction = prediction.clamp(0, 1)
    lower = torch.minimum(prediction, target)
    level, inside = torch.zeros_like(target), torch.ones_like(target, dtype=torch.bool)
    for step in range(1, LEVELS + 1):
        region = largest_region((lower >= step / LEVELS).flatten(0, 2).cpu().numpy())
        inside &= torch.from_numpy(region).view(target.shape).to(inside.device)
        level = torch.where(inside, step / LEVELS, level)
    return _frame_sum((_distance(prediction, level) - _distance(target, level)).abs())


def dtssd(prediction: Alpha, target: Alpha) -> PerClip:
    """dtSSD: 100 sqrt(mean ((a[t+1] - a[t]) - (b[t+1] - b[t]))^2), b the target, root per pair of frames; 0 for a single frame."""
    if target.shape[2] == 1:
        return target.new_zeros(len(target))
    change = prediction.clamp(0, 1).diff(dim=2) - target.diff(dim=2)
    return 100 * change.square().mean(dim=(1, 3, 4)).sqrt().mean(dim=1)


def gradient_magnitude(alpha: Alpha) -> Alpha:
    """Length of the gradient by derivatives of a Gaussian, each kernel of L2 norm 1."""
    reach = math.ceil(GRADIENT_SIGMA * math.sqrt(-2 * math.log(math.sqrt(2 * math.pi) * GRADIENT_SIGMA * GRADIENT_TAIL)))
    x = torch.arange(-reach, reach + 1, dtype=alpha.dtype, device=alpha.device)
    smooth = torch.exp(-x.square() / (2 * GRADIENT_SIGMA**2))
    slope = x * smooth
    smooth, slope = smooth / smooth.norm(), slope / slope.norm()
    frames = F.pad(alpha.transpose(1, 2).flatten(0, 1), (reach,) * 4, mode="replicate")
    along_x = F.conv2d(F.conv2d(frames, slope.view(1, 1, 1, -1)), smooth.view(1, 1, -1, 1))
    along_y = F.conv2d(F.conv2d(frames, smooth.view(1, 1, 1, -1)), slope.view(1, 1, -1, 1))
    return torch.hypot(along_x, along_y).unflatten(0, (len(alpha), -1)).transpose(1, 2)


def _distance(alpha: Alpha, level: Float[Tensor, "B 1 T H W"]) -> Alpha:
    distance = alpha - level
    return distance * (distance >= MIN_DISTANCE)


def _frame_sum(error: Alpha) -> PerClip:
    return error.sum(dim=(1, 3, 4)).mean(dim=1) / SUM_UNIT
