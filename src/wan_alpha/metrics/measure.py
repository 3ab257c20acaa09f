"""Every number of one reconstructed clip, and what each of them means."""

from torch import Tensor

from wan_alpha.metrics import matting, transparency
from wan_alpha.metrics.quality import alpha_mae, alpha_psnr_ssim, psnr_ssim_over_backgrounds, rgb_mae, rgb_psnr_ssim
from wan_alpha.rgba import METRIC_COLOURS

Clip = tuple[Tensor, Tensor]
"""Straight colour (3, T, H, W) and alpha (1, T, H, W) in [0, 1]."""

MEANINGS: dict[str, str] = {
    "psnr": "dB, over nine backgrounds, higher is better (AlphaVAE, arXiv 2507.09308)",
    "ssim": "0 to 1, over nine backgrounds, higher is better",
    "rgb_psnr": "dB, of colour alone: both clips on black where the true alpha is at most the hard threshold, higher is better",
    "rgb_ssim": "0 to 1, of colour alone, likewise, higher is better",
    "rgb_mae": "mean colour error, 0 to 255, where true alpha is above the hard threshold",
    "rgb_mae_any_alpha": "mean colour error, 0 to 255, where true alpha is above 0",
    "alpha_psnr": "dB, of alpha as a grey clip, higher is better",
    "alpha_ssim": "0 to 1, of alpha as a grey clip, higher is better",
    "alpha_mae": "mean alpha error, 0 to 255",
    "alpha_sad": "sum of absolute alpha errors per frame, in thousands of pixels (Rhemann et al. 2009)",
    "alpha_mse": "mean squared alpha error x 1000",
    "alpha_grad": "squared error of alpha's gradients, sum per frame / 1000 (Rhemann et al. 2009)",
    "alpha_conn": "connectivity error of alpha, sum per frame / 1000 (Rhemann et al. 2009)",
    "alpha_dtssd": "error of alpha's change from frame to frame x 100 (Erofeev et al. 2015)",
    "background_leak": "mean alpha where the truth is transparent, 0 to 1",
    "holes": "mean missing alpha where the truth is opaque, 0 to 1",
    "edge_error": "mean alpha error around the true edge, 0 to 1",
}
"""Name -> unit, direction where higher is better, source."""
OVER_BACKGROUNDS = tuple(f"{metric}_{colour}" for metric in ("psnr", "ssim") for colour in METRIC_COLOURS)
"""PSNR and SSIM over each of the nine backgrounds, whose means are psnr and ssim."""


def measure(prediction: Clip, truth: Clip, *, hard_threshold: float) -> dict[str, float]:
    """Every number of MEANINGS, then of OVER_BACKGROUNDS.

    None is NaN: what has nothing to count, such as holes where nothing is opaque, is 0.
    """
    (rgb, alpha), (true_rgb, true_alpha) = ((colour[None], matte[None]) for colour, matte in (prediction, truth))
    matte = {"prediction": alpha, "target": true_alpha}
    colour = rgb_psnr_ssim(rgb, true_rgb, true_alpha=true_alpha, threshold=hard_threshold)
    values: dict[str, float | Tensor] = {
        **psnr_ssim_over_backgrounds((rgb, alpha), (true_rgb, true_alpha)),
        **{f"rgb_{name}": value for name, value in colour.items()},
        "rgb_mae": rgb_mae(rgb, true_rgb, true_alpha=true_alpha, threshold=hard_threshold),
        "rgb_mae_any_alpha": rgb_mae(rgb, true_rgb, true_alpha=true_alpha, threshold=0.0),
        **{f"alpha_{name}": value for name, value in alpha_psnr_ssim(alpha, true_alpha).items()},
        "alpha_mae": alpha_mae(alpha, true_alpha),
        "alpha_sad": matting.sad(**matte),
        "alpha_mse": matting.mse(**matte),
        "alpha_grad": matting.gradient_error(**matte),
        "alpha_conn": matting.connectivity_error(**matte),
        "alpha_dtssd": matting.dtssd(**matte),
        "background_leak": transparency.background_leak(alpha, true_alpha),
        "holes": transparency.holes(alpha, true_alpha),
        "edge_error": transparency.edge_error(alpha, true_alpha),
    }
    return {name: float(values[name]) for name in (*MEANINGS, *OVER_BACKGROUNDS)}
