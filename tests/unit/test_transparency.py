import math

import pytest
import torch

from wan_alpha.errors import UsageError
from wan_alpha.objectives import transparency as tr


def clip(num_frames: int = 5, height: int = 32, width: int = 48) -> torch.Tensor:
    return torch.zeros(1, 1, num_frames, height, width)


def test_cells_cover_eight_pixels_and_four_frames() -> None:
    """Frame 0 stands alone, frames 1-4 make the second latent frame; rows are y and columns x."""
    alpha = clip()
    alpha[:, :, 0, 8:16, 16:24] = 1
    alpha[:, :, 1:3, 24:32, 0:4] = 1
    share = tr.occupancy(alpha)
    assert share.shape == (1, 2, 4, 6)
    assert share[0, 0, 1, 2] == 1
    assert share[0, 0].sum() == 1
    assert share[0, 1, 3, 0] == 0.25
    assert share[0, 1].sum() == 0.25


@pytest.mark.parametrize(("rule", "boundary"), [("ours", 0), ("reference", -1)])
def test_mask_values(rule: str, boundary: int) -> None:
    alpha = clip()
    alpha[..., 0:8, 0:8] = 1
    alpha[..., 0:8, 8:16] = 0.5
    alpha[..., 0:8, 16:20] = 1
    mask = tr.three_valued_mask(alpha, rule=rule)
    assert mask.dtype == torch.int8
    assert mask.shape == (1, 2, 4, 6)
    assert mask[0, 0, 0].tolist() == [1, -1, boundary, -1, -1, -1]
    assert mask[0, 1, 0].tolist() == [1, -1, 0, -1, -1, -1]


def test_mask_tolerates_codec_noise_only_by_our_rule() -> None:
    alpha = clip()
    alpha[..., 0:8, 0:8] = 1
    alpha[..., 3, 3], alpha[..., 20, 20] = 250 / 255, 5 / 255
    ours, reference = tr.three_valued_mask(alpha), tr.three_valued_mask(alpha, rule="reference")
    assert (ours[0, :, 0, 0] == 1).all()
    assert (ours[0, :, 2, 2] == -1).all()
    assert reference[0, 1, 0, 0] == 0
    assert reference[0, 1, 2, 2] == 0
    assert (tr.three_valued_mask(alpha, tolerance=2 / 255)[0, :, 0, 0] == 0).all()


def test_one_hair_makes_a_cell_boundary() -> None:
    alpha = clip()
    alpha[..., 2:10, 10] = 1
    mask = tr.three_valued_mask(alpha)
    assert (mask[0, :, 0, 1] == 0).all()
    assert (mask[0, :, 1, 1] == 0).all()
    assert (mask[0, :, 0, 0] == -1).all()


def test_illegal_sizes_are_refused() -> None:
    for alpha in (clip(num_frames=6), clip(height=36), clip(width=50)):
        with pytest.raises(UsageError, match="4n\\+1"):
            tr.three_valued_mask(alpha)


def test_ellipse_of_a_bar_lies_along_it() -> None:
    cells = torch.zeros(9, 15, dtype=torch.bool)
    cells[4, 2:11] = True
    cx, cy, su, sv, degrees = tr.fit_ellipse(cells).tolist()
    assert (cx, cy, degrees) == pytest.approx((6, 4, 0), abs=1e-5)
    assert (su, sv) == pytest.approx((4, 1), abs=1e-5)
    tall = tr.fit_ellipse(cells.T)
    assert tall[:2].tolist() == pytest.approx([4, 6])
    assert abs(tall[4].item()) == pytest.approx(90)


def test_ellipse_turns_with_y_down() -> None:
    x = torch.arange(12)
    cells = (x[:, None] - x[None]).abs() <= 1  # a diagonal from the top left to the bottom right
    assert tr.fit_ellipse(cells)[4].item() == pytest.approx(45)
    assert tr.fit_ellipse(cells.flip(1))[4].item() == pytest.approx(-45)


def test_growth_stops_at_the_first_ellipse_that_covers() -> None:
    """A full square has its corners at radius sqrt(2) of its half range: 1.12^4 > sqrt(2) > 1.12^3."""
    cells = torch.zeros(12, 12, dtype=torch.bool)
    cells[3:8, 3:8] = True
    assert tr.fit_ellipse(cells)[2:4].tolist() == pytest.approx([2 * 1.12**4] * 2)


def test_axes_are_sub_pixel_and_one_cell_has_one() -> None:
    cells = torch.zeros(6, 6, dtype=torch.bool)
    cells[2, 3] = True
    assert tr.fit_ellipse(cells)[:4].tolist() == [3, 2, 1, 1]
    assert tr.fit_ellipse(torch.zeros(6, 6, dtype=torch.bool)).isnan().all()


def test_random_blobs_are_covered() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        cells = torch.rand(10, 14, generator=generator) < torch.rand((), generator=generator)
        if cells.any():
            cx, cy, su, sv, degrees = tr.fit_ellipse(cells).tolist()
            y, x = cells.nonzero(as_tuple=True)
            cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
            radius = (((x - cx) * cos + (y - cy) * sin) / su) ** 2 + (((y - cy) * cos - (x - cx) * sin) / sv) ** 2
            assert (radius <= 1 + 1e-4).float().mean() >= 0.98


def test_gaussian_values_by_hand() -> None:
    ellipse = torch.tensor([[4.0, 2.0, 2.0, 1.0, 0.0], [4.0, 2.0, 2.0, 1.0, 90.0], [torch.nan] * 5])
    gaussian = tr.gaussian_from_cells(ellipse, height=5, width=9)
    low = math.exp(-(4 + 4) / 2)

    def stretched(exponent: float) -> float:
        return (math.exp(exponent) - low) / (1 - low)

    assert gaussian.shape == (3, 5, 9)
    assert gaussian[0, 2, 4] == 1
    assert gaussian[0].min() == 0
    assert gaussian[0, 2, 6].item() == pytest.approx(stretched(-0.5))
    assert gaussian[0, 3, 4].item() == pytest.approx(stretched(-0.5))
    assert gaussian[1, 2, 5] < gaussian[1, 3, 4]  # turned: now narrow across x
    assert (gaussian[2] == 0).all()


def test_gaussian_ellipse_follows_the_subject() -> None:
    alpha = clip(num_frames=9)
    alpha[:, :, 0, 8:16, 8:24] = 1
    alpha[:, :, 1:5, 16:24, 24:40] = 1
    gaussian = tr.gaussian_ellipse(alpha)
    assert gaussian.shape == (1, 3, 4, 6)
    assert gaussian.dtype == torch.float32
    assert gaussian[0, 0].argmax().item() in (7, 8)
    assert gaussian[0, 1].argmax().item() in (15, 16)
    assert (gaussian[0, 2] == 0).all()
    faint = tr.gaussian_ellipse(0.7 * alpha)
    assert (faint == 0).all()


def test_ellipse_by_fractions() -> None:
    middle = tr.gaussian_from_ellipse(centre=(0.5, 0.5), axes=(0.5, 0.5), angle=0.0, shape=(2, 4, 6))
    assert middle.shape == (2, 4, 6)
    torch.testing.assert_close(middle, middle.flip(1).flip(2))
    assert torch.equal(middle[0], middle[1])
    assert middle[0, 1, 2] == 1
    corner = tr.gaussian_from_ellipse(centre=(0.75, 0.125), axes=(0.3, 0.3), angle=0.0, shape=(1, 4, 6))
    assert corner[0].argmax().item() == 4  # row 0, column 4 (x = 0.75 * 6 - 0.5 = 4)
    wide = tr.gaussian_from_ellipse(centre=(0.5, 0.5), axes=(1.0, 0.2), angle=0.0, shape=(1, 5, 5))[0]
    assert wide[2, 4] > wide[4, 2]


def test_ellipse_moves_in_a_straight_line() -> None:
    moving = tr.gaussian_from_ellipse(centre=(0.1, 0.5), path=((0.9, 0.5),), axes=(0.2, 0.4), angle=0.0, shape=(3, 5, 5))
    assert [frame.argmax().item() % 5 for frame in moving] == [0, 2, 4]
    there_and_back = tr.gaussian_from_ellipse(centre=(0.1, 0.5), path=((0.9, 0.5), (0.1, 0.5)), axes=(0.2, 0.4), angle=0.0, shape=(5, 5, 5))
    assert [frame.argmax().item() % 5 for frame in there_and_back] == [0, 2, 4, 2, 0]
    with pytest.raises(UsageError, match="ellipse_axes"):
        tr.gaussian_from_ellipse(centre=(0.5, 0.5), axes=(0.0, 0.5), angle=0.0, shape=(1, 4, 4))


def test_published_search_takes_whole_axes_and_the_best_trial() -> None:
    share = torch.zeros(12, 12)
    share[3:8, 3:8] = 1
    trials = []

    def box(centre: tuple[int, int], semi_axes: tuple[int, int], degrees: float) -> torch.Tensor:
        trials.append((centre, semi_axes))
        filled = torch.zeros(12, 12, dtype=torch.bool)
        filled[centre[1] - semi_axes[1] + 1 : centre[1] + semi_axes[1], centre[0] - semi_axes[0] + 1 : centre[0] + semi_axes[0]] = True
        return filled

    ellipse = tr.reference_ellipse(share, enlargements=8, rasterise=box)
    assert trials == [((5, 5), (2, 2))] * 2 + [((5, 5), (3, 3))]
    assert ellipse[2:4].tolist() == pytest.approx([2 * 1.12**2] * 2)
    assert tr.reference_ellipse(torch.zeros(4, 4), enlargements=8, rasterise=box).isnan().all()
    few = torch.zeros(8, 8)
    few[2, 1:5] = 1
    assert tr.reference_ellipse(few, enlargements=1, rasterise=lambda *_: torch.ones(8, 8, dtype=torch.bool)).tolist() == [
        2.5,
        2,
        1.5,
        1,
        0,
    ]
