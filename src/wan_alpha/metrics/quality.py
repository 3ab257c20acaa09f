"""How close a reconstruction is to the truth. Clips are straight colour (B, 3, T, H, W) and alpha (B, 1, T, H, W) in [0, 1].

Predictions are clamped to [0, 1] first: what is measured is what an exported file shows.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from wan_alpha.errors import UsageError
from wan_alpha.rgba import HARD_THRESHOLD, METRIC_COLOURS, hard_alpha, over

Rgb = Float[Tensor, "B 3 T H W"]
Alpha = Float[Tensor, "B 1 T H W"]
Clip = Float[Tensor, "B C T H W"]
Scalar = Float[Tensor, ""]

MAX_PSNR = 100.0  # reported for identical clips, whose PSNR is infinite
WINDOW_SIGMA, WINDOW_REACH = 1.5, 5  # SSIM's Gaussian window, 11 x 11
LUMINANCE_CONSTANT, CONTRAST_CONSTANT = 0.01**2, 0.03**2
CHUNK_PIXELS = 1 << 16  # of the frames whose SSIM is computed at once, so that temporaries stay in the processor's cache


def rgb_mae(prediction: Rgb, target: Rgb, *, true_alpha: Alpha, threshold: float = HARD_THRESHOLD) -> Scalar:
    """Mean absolute colour error in 0-255 units over pixels whose true alpha > threshold; 0 when there is none.

    The other pixels have no colour that anyone sees.
    """
    visible = (true_alpha > threshold).to(target.dtype)
    error = ((prediction.clamp(0, 1) - target).abs() * visible).sum()
    return 255 * error / (3 * visible.sum()).clamp(min=1)


def alpha_mae(prediction: Alpha, target: Alpha) -> Scalar:
    """Mean absolute alpha error in 0-255 units over all pixels."""
    return 255 * (prediction.clamp(0, 1) - target).abs().mean()


def psnr(prediction: Clip, target: Clip) -> Scalar:
    """Peak signal-to-noise ratio in dB over the whole tensor, data range 1, at most 100."""
    return _decibels(_channel_mse(prediction.clamp(0, 1), target).mean())


def ssim(prediction: Clip, target: Clip) -> Scalar:
    """Structural similarity of frames (Wang et al. 2004), mean over channels and frames.

    Gaussian window of 11 x 11, sigma 1.5, data range 1; frames are mirrored at their border. UsageError for sides below 6 pixels.
    """
    return _channel_ssim(prediction.clamp(0, 1), target).mean()


def psnr_ssim_over_backgrounds(prediction: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor]) -> dict[str, float]:
    """PSNR and SSIM of the soft render, mean over the nine backgrounds of AlphaVAE (arXiv 2507.09308, Eq. 2).

    prediction, target: (rgb, alpha). Keys: psnr, ssim, and psnr_<colour>, ssim_<colour> for each background. The nine colours
    have three levels per channel, and both measures treat channels alone, so three renders hold all nine.
    """
    rgb, alpha = (x.clamp(0, 1) for x in prediction)
    errors, similarities = {}, {}
    for level in {level for colour in METRIC_COLOURS.values() for level in colour}:
        pair = tuple(over(colour, matte, rgb.new_tensor(level)) for colour, matte in ((rgb, alpha), target))
        errors[level], similarities[level] = _channel_mse(*pair), _channel_ssim(*pair)
    values: dict[str, float] = {}
    for name, colour in METRIC_COLOURS.items():
        error, similarity = (torch.stack([by[level][i] for i, level in enumerate(colour)]).mean() for by in (errors, similarities))
        values |= {f"psnr_{name}": _decibels(error).item(), f"ssim_{name}": similarity.item()}
    mean = {metric: sum(values[f"{metric}_{name}"] for name in METRIC_COLOURS) / len(METRIC_COLOURS) for metric in ("psnr", "ssim")}
    return {**mean, **values}


def rgb_psnr_ssim(prediction: Rgb, target: Rgb, *, true_alpha: Alpha, threshold: float = HARD_THRESHOLD) -> dict[str, float]:
    """PSNR and SSIM of colour alone, over whole frames. Keys: psnr, ssim.

    Both clips are hard-rendered on black by the true alpha, so an error of alpha costs nothing, and pixels that nobody sees are equal.
    Wan-Alpha v3 (arXiv 2509.24979) reports colour and alpha apart too; how it composites colour is not published: this is our definition.
    """
    visible = hard_alpha(true_alpha, threshold=threshold)
    pair = prediction.clamp(0, 1) * visible, target * visible
    return {"psnr": psnr(*pair).item(), "ssim": ssim(*pair).item()}


def alpha_psnr_ssim(prediction: Alpha, target: Alpha) -> dict[str, float]:
    """PSNR and SSIM of alpha as a grey clip. Keys: psnr, ssim."""
    return {"psnr": psnr(prediction, target).item(), "ssim": ssim(prediction, target).item()}


def _decibels(error: Scalar) -> Scalar:
    return (-10 * torch.log10(error)).clamp(max=MAX_PSNR)


def _channel_mse(prediction: Clip, target: Clip) -> Float[Tensor, " C"]:
    return (prediction - target).square().mean(dim=(0, 2, 3, 4))


def _channel_ssim(prediction: Clip, target: Clip) -> Float[Tensor, " C"]:
    """Each channel's similarity; the window is separable, so it is two sums of eleven shifted pictures and no convolution."""
    if min(target.shape[-2:]) <= WINDOW_REACH:
        height, width = target.shape[-2:]
        raise UsageError("SSIM", got=f"frames of {width}x{height}", expected=f"sides above {WINDOW_REACH} pixels")
    frames = max(1, CHUNK_PIXELS // target[0, :, 0].numel())
    pairs = zip(*(x.transpose(1, 2).flatten(0, 1).split(frames) for x in (prediction, target)), strict=True)
    total = torch.stack([_ssim_map(x, y).mean(dim=(2, 3)).sum(dim=0) for x, y in pairs]).sum(dim=0)
    return total / (target.shape[0] * target.shape[2])


def _ssim_map(x: Float[Tensor, "N C H W"], y: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H W"]:
    mean_x, mean_y, xx, yy, xy = _windowed(torch.stack([x, y, x * x, y * y, x * y]))
    variances = (xx - mean_x.square()).clamp(min=0) + (yy - mean_y.square()).clamp(min=0)
    covariance = xy - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + LUMINANCE_CONSTANT) / (mean_x.square() + mean_y.square() + LUMINANCE_CONSTANT)
    return luminance * (2 * covariance + CONTRAST_CONSTANT) / (variances + CONTRAST_CONSTANT)


def _windowed(x: Float[Tensor, "K N C H W"]) -> Float[Tensor, "K N C H W"]:
    """Mean under the Gaussian window around each pixel."""
    offsets = torch.arange(-WINDOW_REACH, WINDOW_REACH + 1)
    weights = torch.softmax(-offsets.square() / (2 * WINDOW_SIGMA**2), dim=0).tolist()
    for dim, padding in ((-1, (WINDOW_REACH, WINDOW_REACH, 0, 0)), (-2, (0, 0, WINDOW_REACH, WINDOW_REACH))):
        padded = F.pad(x.flatten(0, 1), padding, mode="reflect").view(*x.shape[:-2], x.shape[-2] + 2 * padding[2], -1)
        shifted = [padded.narrow(dim, start, x.shape[dim]) for start in range(len(weights))]
        x = torch.zeros_like(x)
        for weight, part in zip(weights, shifted, strict=True):
            x.add_(part, alpha=weight)
    return x
