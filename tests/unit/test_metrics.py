import math

import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from wan_alpha.errors import UsageError
from wan_alpha.metrics import quality
from wan_alpha.metrics import transparency as stats
from wan_alpha.metrics.measure import MEANINGS, OVER_BACKGROUNDS, measure
from wan_alpha.rgba import METRIC_COLOURS, over


def flat(value: float, channels: int = 1, size: int = 16) -> torch.Tensor:
    return torch.full((1, channels, 2, size, size), value)


def test_colour_error_counts_visible_pixels_only() -> None:
    target, prediction, alpha = flat(0.5, 3), flat(0.5, 3), flat(0.0)
    alpha[..., :4], alpha[..., 4:8] = 1.0, 6 / 255
    prediction[..., :4] += 10 / 255
    prediction[..., 4:8] += 100 / 255
    prediction[..., 8:] = 0
    assert quality.rgb_mae(prediction, target, true_alpha=alpha).item() == pytest.approx(10, abs=1e-3)
    assert quality.rgb_mae(prediction, target, true_alpha=alpha, threshold=0.0).item() == pytest.approx(55, abs=1e-3)
    assert quality.rgb_mae(prediction, target, true_alpha=flat(0.0)).item() == 0


def test_predictions_are_clamped() -> None:
    assert quality.rgb_mae(flat(1.7, 3), flat(1.0, 3), true_alpha=flat(1.0)).item() == 0
    assert quality.alpha_mae(flat(-0.4), flat(0.0)).item() == 0
    assert quality.alpha_mae(flat(0.2), flat(0.1)).item() == pytest.approx(25.5)
    over_opaque = quality.psnr_ssim_over_backgrounds((flat(0.5, 3), flat(1.5)), (flat(0.5, 3), flat(1.0)))
    assert over_opaque["psnr"] == 100
    assert over_opaque["ssim"] == pytest.approx(1)


def test_psnr_by_hand_and_for_identical_clips() -> None:
    assert quality.psnr(flat(0.5), flat(0.4)).item() == pytest.approx(20, abs=1e-3)
    assert quality.psnr(flat(0.5), flat(0.5)).item() == 100


def test_colour_alone_counts_what_the_true_alpha_shows_over_the_whole_frame() -> None:
    """An error of 0.2 in a quarter of the frame: mean square 0.01, 20 dB, whatever lies under transparency or in the predicted alpha."""
    alpha, truth = flat(0.0), flat(0.5, 3)
    alpha[..., :4], alpha[..., 4:8] = 0.5, 8 / 255
    prediction = truth.clone()
    prediction[..., :4] += 0.2
    prediction[..., 4:] = 1.7
    found = measure((prediction[0], flat(0.0)[0]), (truth[0], alpha[0]), hard_threshold=8 / 255)
    assert found["rgb_psnr"] == pytest.approx(20, abs=1e-3)
    shown = truth * (alpha > 8 / 255)
    assert found["rgb_ssim"] == pytest.approx(quality.ssim(shown + 0.2 * (alpha > 8 / 255), shown).item(), abs=1e-6)
    assert measure((prediction[0], alpha[0]), (truth[0], 0 * alpha[0]), hard_threshold=8 / 255)["rgb_psnr"] == 100


def test_ssim_of_flat_colour_by_hand() -> None:
    """Without contrast SSIM is its luminance term, (2 x y + c) / (x^2 + y^2 + c) with c = 0.01^2."""
    found = quality.rgb_psnr_ssim(flat(0.7, 3), flat(0.5, 3), true_alpha=flat(1.0))
    assert found["ssim"] == pytest.approx(
        (2 * 0.35 + 1e-4) / (0.49 + 0.25 + 1e-4), abs=5e-4
    )  # float32 variances are noise of 1e-7 beside 9e-4
    assert found["psnr"] == pytest.approx(10 * math.log10(1 / 0.04), abs=1e-3)


def test_backgrounds_weigh_the_alpha_error() -> None:
    """alpha 0.9 in place of 1 on black subject: invisible on black, an error of 0.1 on white."""
    result = quality.psnr_ssim_over_backgrounds((flat(0.0, 3), flat(0.9)), (flat(0.0, 3), flat(1.0)))
    assert result["psnr_black"] == 100
    assert result["psnr_white"] == pytest.approx(20, abs=1e-3)
    assert result["psnr_red"] == pytest.approx(20 + 10 * math.log10(3), abs=1e-3)
    each = [value for name, value in result.items() if name.startswith("psnr_")]
    assert len(each) == 9
    assert result["psnr"] == pytest.approx(sum(each) / 9)


def test_ssim_of_small_frames() -> None:
    clip = torch.rand(1, 3, 2, 64, 64, generator=torch.Generator().manual_seed(0))
    assert quality.ssim(clip, clip).item() == pytest.approx(1)
    assert quality.ssim(1 - clip, clip).item() < 0.1
    result = quality.alpha_psnr_ssim(clip[:, :1], clip[:, :1])
    assert result == pytest.approx({"psnr": 100, "ssim": 1})


def noisy_clips(*, frames: int = 3, height: int = 21, width: int = 37) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    """(prediction, truth), each (rgb, alpha)."""
    generator = torch.Generator().manual_seed(1)
    rgb, alpha = (torch.rand(2, channels, frames, height, width, generator=generator) for channels in (3, 1))
    noise = 0.1 * torch.randn(2, 3, frames, height, width, generator=generator)
    return ((rgb + noise).clamp(0, 1), (alpha + noise[:, :1]).clamp(0, 1)), (rgb, alpha)


def test_ssim_is_torchmetrics() -> None:
    (prediction, _), (truth, _) = noisy_clips()
    frames = [clip.transpose(1, 2).flatten(0, 1) for clip in (prediction, truth)]
    assert quality.ssim(prediction, truth).item() == pytest.approx(
        structural_similarity_index_measure(*frames, data_range=1.0).item(), abs=1e-5
    )
    with pytest.raises(UsageError, match="frames of 37x5"):
        quality.ssim(prediction[..., :5, :], truth[..., :5, :])


def test_ssim_in_chunks_is_ssim(monkeypatch: pytest.MonkeyPatch) -> None:
    (prediction, _), (truth, _) = noisy_clips(frames=5)
    whole = quality.ssim(prediction, truth).item()
    monkeypatch.setattr(quality, "CHUNK_PIXELS", 3 * 21 * 37)
    assert quality.ssim(prediction, truth).item() == pytest.approx(whole, abs=1e-6)


def test_nine_backgrounds_are_nine_renders() -> None:
    """Put together from three renders, each background has the value of its own render."""
    prediction, truth = noisy_clips()
    values = quality.psnr_ssim_over_backgrounds(prediction, truth)
    for name, colour in METRIC_COLOURS.items():
        background = torch.tensor(colour)[:, None, None, None]
        pair = over(*prediction, background), over(*truth, background)
        assert values[f"psnr_{name}"] == pytest.approx(quality.psnr(*pair).item(), abs=1e-4)
        assert values[f"ssim_{name}"] == pytest.approx(quality.ssim(*pair).item(), abs=1e-5)


@pytest.mark.parametrize(("alpha", "frames"), [(0.0, 1), (1.0, 1), (0.0, 3), (0.4, 2)])
def test_every_number_of_a_clip_is_finite_and_explained(alpha: float, frames: int) -> None:
    truth = torch.rand(3, frames, 12, 20), torch.full((1, frames, 12, 20), alpha)
    values = measure((1 - truth[0], 1 - truth[1]), truth, hard_threshold=8 / 255)
    assert list(values) == [*MEANINGS, *OVER_BACKGROUNDS]
    assert all(math.isfinite(value) for value in values.values())
    same = measure(truth, truth, hard_threshold=8 / 255)
    assert (same["psnr"], same["alpha_psnr"], same["ssim"]) == (100, 100, pytest.approx(1))
    assert [same[name] for name in MEANINGS if "psnr" not in name and "ssim" not in name] == [0] * 11


def test_border_leak_sees_the_outer_pixels_only() -> None:
    alpha = torch.zeros(2, 1, 2, 16, 24)
    alpha[:, :, :, 4:-4, 4:-4] = 1
    assert stats.border_leak(alpha).tolist() == [0, 0]
    alpha[1, :, :, 0, :] = 1
    assert stats.border_leak(alpha).tolist() == pytest.approx([0, 24 / (16 * 24 - 8 * 16)])
    assert stats.border_leak(alpha, border=5)[0] > 0


def test_coverage_and_peak() -> None:
    alpha = torch.zeros(1, 1, 2, 4, 4)
    alpha[0, 0, 1, 0, 0] = 1.6
    assert stats.coverage(alpha).item() == pytest.approx(1 / 32)
    assert stats.peak(alpha).item() == 1


def test_background_leak_and_holes() -> None:
    truth, prediction = torch.zeros(1, 1, 1, 2, 4), torch.zeros(1, 1, 1, 2, 4)
    truth[..., :2], prediction[..., :2], prediction[..., 2:] = 1, 0.75, 0.1
    assert stats.background_leak(prediction, truth).item() == pytest.approx(0.1)
    assert stats.holes(prediction, truth).item() == pytest.approx(0.25)
    assert stats.background_leak(prediction, torch.ones_like(truth)).item() == 0


def test_flicker_ignores_steady_change() -> None:
    fade = torch.linspace(0, 1, 5).view(1, 1, 5, 1, 1).expand(1, 1, 5, 4, 4)
    blink = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0]).view(1, 1, 5, 1, 1).expand(1, 1, 5, 4, 4)
    assert stats.flicker(fade).item() == pytest.approx(0, abs=1e-6)
    assert stats.flicker(blink).item() == 2
    assert stats.flicker(fade[:, :, :2]).item() == 0
