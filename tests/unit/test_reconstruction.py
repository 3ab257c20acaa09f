import pytest
import torch
import torch.nn.functional as F

from wan_alpha.objectives import reconstruction as rec
from wan_alpha.rgba import RENDER_COLOURS, hard_render, soft_render

GREY_SUM = (65.738 + 129.057 + 25.064) / 256


def test_l1_by_hand() -> None:
    x = torch.tensor([0.0, 1.0, -1.0]).view(1, 3, 1, 1, 1)
    assert rec.l1(x, torch.zeros_like(x)).item() == pytest.approx(2 / 3)


def test_perceptual_is_mean_square_of_features_and_frames_are_folded() -> None:
    seen = []

    def doubled(frames: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(frames.shape))
        return 2 * frames

    x, y = torch.rand(2, 3, 5, 4, 6), torch.rand(2, 3, 5, 4, 6, requires_grad=True)
    loss = rec.perceptual(x.requires_grad_(), y, features=doubled)
    assert loss.item() == pytest.approx(4 * F.mse_loss(x, y).item(), rel=1e-5)
    assert seen == [(10, 3, 4, 6)] * 2
    loss.backward()
    assert x.grad is not None
    assert y.grad is None


def ramp(height: int, width: int, *, across: float, down: float) -> torch.Tensor:
    x, y = torch.arange(width)[None] * across, torch.arange(height)[:, None] * down
    return (x + y).expand(1, 3, 1, height, width)


@pytest.mark.parametrize("kernel", ["central", "sobel"])
def test_gradient_of_a_ramp(kernel: str) -> None:
    """Inside a ramp of slopes (a, b) both kernels give twice the slope; swapping height and width would swap a and b."""
    magnitude = rec.gradient_magnitude(ramp(6, 8, across=0.03, down=0.04), kernel=kernel, padding="replicate")
    assert magnitude.shape == (1, 1, 6, 8)
    assert magnitude[..., 1:-1, 1:-1].flatten().tolist() == pytest.approx([2 * GREY_SUM * 0.05] * 24, rel=1e-3)
    one_sided = ((GREY_SUM * 0.03) ** 2 + (2 * GREY_SUM * 0.04) ** 2 + 1e-6) ** 0.5
    assert magnitude[0, 0, 2, 0].item() == pytest.approx(one_sided, rel=1e-5)


def test_sobel_smooths_across_the_gradient() -> None:
    clip = torch.zeros(1, 3, 1, 5, 5)
    clip[..., 2, 3] = 1
    central, sobel = (rec.gradient_magnitude(clip, kernel=kernel, padding="zeros")[0, 0] for kernel in ("central", "sobel"))
    assert central[2, 2].item() == pytest.approx(GREY_SUM, rel=1e-3)
    assert sobel[2, 2].item() == pytest.approx(GREY_SUM / 2, rel=1e-3)
    assert central[1, 2].item() == pytest.approx(1e-3)
    assert sobel[1, 2].item() == pytest.approx(GREY_SUM * 2**0.5 / 4, rel=1e-3)


def test_zero_padding_makes_the_border_an_edge() -> None:
    flat = torch.ones(1, 3, 1, 4, 4)
    inner = rec.gradient_magnitude(flat, kernel="central", padding="replicate")
    assert inner.max().item() == pytest.approx(1e-3)
    bordered = rec.gradient_magnitude(flat, kernel="central", padding="zeros")
    assert bordered[0, 0, 0, 1].item() == pytest.approx(GREY_SUM, rel=1e-3)
    assert bordered[0, 0, 1, 1].item() == pytest.approx(1e-3)


def losses(prediction: tuple, target: tuple, **settings) -> dict[str, torch.Tensor]:
    count = len(target[0])
    return rec.rgba_reconstruction_loss(
        prediction,
        target,
        hard_colour=RENDER_COLOURS[[3] * count],
        soft_colour=RENDER_COLOURS[[6] * count],
        perceptual_features=lambda frames: frames,
        settings=rec.ReconstructionSettings(**settings),
    )


def clip_pair() -> tuple[tuple, tuple]:
    return tuple((torch.rand(2, 3, 2, 8, 12), torch.rand(2, 1, 2, 8, 12)) for _ in range(2))


def test_terms_are_the_nine_of_the_paper_and_total_is_their_sum() -> None:
    prediction, target = clip_pair()
    terms = losses(prediction, target)
    total = terms.pop("total")
    assert set(terms) == {f"{kind}_{pair}" for kind in ("l1", "perceptual", "edge") for pair in ("hard", "soft", "alpha")}
    assert total.item() == pytest.approx(sum(term.item() for term in terms.values()))


def test_terms_use_the_right_render_and_range() -> None:
    prediction, target = clip_pair()
    terms = losses(prediction, target, hard_threshold=0.5)
    hard = [hard_render(*clip, RENDER_COLOURS[[3, 3]], threshold=0.5) for clip in (prediction, target)]
    soft = [soft_render(*clip, RENDER_COLOURS[[6, 6]]) for clip in (prediction, target)]
    assert terms["l1_hard"].item() == pytest.approx(2 * (hard[0] - hard[1]).abs().mean().item(), rel=1e-5)
    assert terms["l1_soft"].item() == pytest.approx(2 * (soft[0] - soft[1]).abs().mean().item(), rel=1e-5)
    assert terms["l1_alpha"].item() == pytest.approx(2 * (prediction[1] - target[1]).abs().mean().item(), rel=1e-5)
    assert terms["perceptual_alpha"].item() == pytest.approx(F.mse_loss(prediction[1], target[1]).item(), rel=1e-5)


def test_one_alpha_channel_counts_as_three() -> None:
    (rgb, alpha), (true_rgb, true_alpha) = clip_pair()
    one = losses((rgb, alpha), (true_rgb, true_alpha))
    three = losses((rgb, alpha.expand(-1, 3, -1, -1, -1)), (true_rgb, true_alpha.expand(-1, 3, -1, -1, -1)))
    assert {k: v.item() for k, v in one.items()} == pytest.approx({k: v.item() for k, v in three.items()})


def test_perfect_reconstruction_costs_nothing_and_predictions_are_not_clamped() -> None:
    _, (rgb, alpha) = clip_pair()
    assert losses((rgb, alpha), (rgb, alpha))["total"].item() == 0
    assert losses((rgb, alpha + 1), (rgb, alpha))["l1_alpha"].item() == pytest.approx(2)


def test_without_features_there_is_no_perceptual_term() -> None:
    _, clip = clip_pair()
    terms = rec.rgba_reconstruction_loss(
        clip, clip, hard_colour=RENDER_COLOURS[:2], soft_colour=RENDER_COLOURS[:2], perceptual_features=None, settings=rec.REFERENCE
    )
    assert len(terms) == 7
    assert not any(name.startswith("perceptual") for name in terms)
