import pytest
import torch
import torch.nn.functional as F

from wan_alpha import rgba


def test_signed_range_and_back() -> None:
    x = torch.tensor([0.0, 0.25, 1.0])
    assert rgba.to_signed(x).tolist() == [-1.0, -0.5, 1.0]
    assert torch.equal(rgba.from_signed(rgba.to_signed(x)), x)


def test_soft_render_by_hand() -> None:
    rgb, alpha = torch.full((1, 3, 1, 1, 1), 0.8), torch.full((1, 1, 1, 1, 1), 0.25)
    colour = torch.tensor([[1.0, 0.0, 0.5]])
    expected = [0.8 * 0.25 + 0.75 * c for c in (1.0, 0.0, 0.5)]
    assert rgba.soft_render(rgb, alpha, colour).flatten().tolist() == pytest.approx(expected)


def test_hard_render_threshold_is_strict_and_tolerates_codec_noise() -> None:
    alpha = torch.tensor([0, 1, 8, 9, 255]).float().view(1, 1, 1, 1, 5) / 255
    rgb, white = torch.zeros(1, 3, 1, 1, 5), torch.ones(1, 3)
    assert rgba.hard_render(rgb, alpha, white)[0, 0].flatten().tolist() == [1, 1, 1, 0, 0]
    assert rgba.hard_render(rgb, alpha, white, threshold=0.0)[0, 0].flatten().tolist() == [1, 0, 0, 0, 0]


def test_each_sample_has_its_own_colour() -> None:
    rgb, alpha = torch.rand(2, 3, 2, 4, 6), torch.zeros(2, 1, 2, 4, 6)
    rendered = rgba.soft_render(rgb, alpha, torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))
    assert rendered[0, :, 0, 0, 0].tolist() == [1, 0, 0]
    assert rendered[1, :, 0, 0, 0].tolist() == [0, 0, 1]


def test_gradient_reaches_alpha_through_the_soft_render_only() -> None:
    rgb, alpha, colour = torch.rand(1, 3, 1, 2, 2), torch.full((1, 1, 1, 2, 2), 0.5, requires_grad=True), torch.ones(1, 3)
    assert not rgba.hard_render(rgb, alpha, colour).requires_grad
    assert rgba.soft_render(rgb, alpha, colour).requires_grad


def test_colour_order_is_red_green_blue() -> None:
    assert rgba.RENDER_COLOURS.tolist()[:5] == [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1], [1, 0, 0]]
    assert len(rgba.METRIC_COLOURS) == 9
    assert rgba.METRIC_COLOURS["yellow"] == (1, 1, 0)


def test_unpremultiply_inverts_premultiply_where_visible() -> None:
    rgb, alpha = torch.rand(3, 2, 4, 6), torch.rand(1, 2, 4, 6).clamp(min=0.01)
    alpha[..., 0] = 0
    straight = rgba.unpremultiply(rgba.premultiply(rgb, alpha), alpha)
    torch.testing.assert_close(straight[..., 1:], rgb[..., 1:])
    assert (straight[..., 0] == 0).all()


def test_hidden_colour_does_not_bleed_through_premultiplied_resampling() -> None:
    """A red subject beside hidden green: averaged premultiplied it stays red; without unpremultiplying it would be dark."""
    rgb, alpha = torch.zeros(3, 1, 1, 2), torch.zeros(1, 1, 1, 2)
    rgb[0, ..., 0], rgb[1, ..., 1], alpha[..., 0] = 1, 1, 1
    premul, small_alpha = (F.avg_pool2d(x[:, 0], (1, 2))[:, None] for x in (rgba.premultiply(rgb, alpha), alpha))
    assert rgba.unpremultiply(premul, small_alpha).flatten().tolist() == [1, 0, 0]


def test_uint8_rounds_once_and_clamps() -> None:
    assert rgba.to_uint8(torch.tensor([-0.5, 0.0, 0.5, 254.6 / 255, 1.5])).tolist() == [0, 0, 128, 255, 255]
