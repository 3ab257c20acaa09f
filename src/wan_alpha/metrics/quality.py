"""How close a reconstruction is to the truth. Clips are straight colour (B, 3, T, H, W) and alpha (B, 1, T, H, W) in [0, 1].

Predictions are clamped to [0, 1] first: what is measured is what an exported file shows.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from wan_alpha.rgba import HARD_THRESHOLD, METRIC_COLOURS, over

Rgb = Float[Tensor, "B 3 T H W"]
Alpha = Float[Tensor, "B 1 T H W"]
Scalar = Float[Tensor, ""]

MAX_PSNR = 100.0  # reported for identical clips, whose PSNR is infinite


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


def psnr(prediction: Float[Tensor, "B C T H W"], target: Float[Tensor, "B C T H W"]) -> Scalar:
    """Peak signal-to-noise ratio in dB over the whole tensor, data range 1, at most 100."""
    return peak_signal_noise_ratio(prediction.clamp(0, 1), target, data_range=1.0).clamp(max=MAX_PSNR)


def ssim(prediction: Float[Tensor, "B C T H W"], target: Float[Tensor, "B C T H W"]) -> Scalar:
    """Structural similarity of frames, mean over frames; Gaussian window of 11 pixels, so frames of at least 11 x 11."""
    value = structural_similarity_index_measure(_frames(prediction.clamp(0, 1)), _frames(target), data_range=1.0)
    assert isinstance(value, Tensor)
    return value


def psnr_ssim_over_backgrounds(prediction: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor]) -> dict[str, float]:
    """PSNR and SSIM of the soft render, mean over the nine backgrounds of AlphaVAE (arXiv 2507.09308, Eq. 2).

    prediction, target: (rgb, alpha). Keys: psnr, ssim, and psnr_<colour>, ssim_<colour> for each background.
    """
    rgb, alpha = (x.clamp(0, 1) for x in prediction)
    values: dict[str, float] = {}
    for name, colour in METRIC_COLOURS.items():
        background = rgb.new_tensor(colour)[:, None, None, None]
        pair = over(rgb, alpha, background), over(*target, background)
        values |= {f"psnr_{name}": psnr(*pair).item(), f"ssim_{name}": ssim(*pair).item()}
    mean = {metric: sum(values[f"{metric}_{name}"] for name in METRIC_COLOURS) / len(METRIC_COLOURS) for metric in ("psnr", "ssim")}
    return {**mean, **values}


def alpha_psnr_ssim(prediction: Alpha, target: Alpha) -> dict[str, float]:
    """PSNR and SSIM of alpha as a grey clip. Keys: psnr, ssim."""
    return {"psnr": psnr(prediction, target).item(), "ssim": ssim(prediction, target).item()}


def _frames(clip: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B*T, C, H, W)."""
    return torch.flatten(clip.transpose(1, 2), 0, 1)
