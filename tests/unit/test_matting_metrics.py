"""Matting metrics against hand-computed cases and plain loops over pixels that share nothing with the implementation."""

import math
from collections import deque

import numpy as np
import pytest
import torch

from wan_alpha.metrics import matting, regions, transparency

METRICS = (matting.sad, matting.mse, matting.gradient_error, matting.connectivity_error, matting.dtssd)


def frame(*rows: str) -> torch.Tensor:
    """One frame, a digit per pixel in tenths; x is 1."""
    return torch.tensor([[1.0 if c == "x" else int(c) / 10 for c in row] for row in rows])[None, None, None]


def soft(*, seed: int, shape: tuple[int, ...] = (2, 1, 3, 9, 14)) -> torch.Tensor:
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    return (noise * 1.6 - 0.3).clamp(0, 1)


def flood_fill(mask: np.ndarray) -> np.ndarray:
    """Largest 4-connected region of one picture, the first of equal ones."""
    seen, best = np.zeros_like(mask), []
    for start in zip(*np.nonzero(mask), strict=True):
        if seen[start]:
            continue
        seen[start], queue, found = True, deque([start]), []
        while queue:
            y, x = queue.popleft()
            found.append((y, x))
            for place in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                inside = 0 <= place[0] < mask.shape[0] and 0 <= place[1] < mask.shape[1]
                if inside and mask[place] and not seen[place]:
                    seen[place] = True
                    queue.append(place)
        if len(found) > len(best):
            best = found
    out = np.zeros_like(mask)
    for place in best:
        out[place] = True
    return out


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.6, 0.8, 1.0])
def test_largest_region_is_that_of_a_flood_fill(share: float) -> None:
    masks = np.random.default_rng(7).random((6, 13, 9)) < share
    assert np.array_equal(regions.largest_region(masks), np.stack([flood_fill(mask) for mask in masks]))


def test_regions_join_through_long_ways_and_not_by_corners_or_across_frames() -> None:
    spiral = np.array([list(row) for row in ("#######", "      #", "##### #", "#   # #", "# ### #", "#     #", "#######")]) == "#"
    assert np.array_equal(regions.largest_region(spiral[None])[0], spiral)
    corner = np.array([[[True, False, False], [False, True, True]]])
    assert regions.largest_region(corner).tolist() == [[[False, False, False], [False, True, True]]]
    two_frames = np.array([[[False, False], [True, False]], [[True, True], [False, False]]])
    assert np.array_equal(regions.largest_region(two_frames), two_frames)


def test_sums_by_hand() -> None:
    """Half of 4 x 6 pixels is off by 0.5, in one of two frames."""
    truth = torch.zeros(1, 1, 2, 4, 6)
    prediction = truth.clone()
    prediction[:, :, 1, :, :3] = 0.5
    assert matting.sad(prediction, truth).item() == pytest.approx(12 * 0.5 / 1000 / 2)
    assert matting.mse(prediction, truth).item() == pytest.approx(1000 * 0.25 * 12 / 48)
    assert matting.dtssd(prediction, truth).item() == pytest.approx(100 * math.sqrt(0.25 * 12 / 24))


def test_dtssd_sees_flicker_and_no_constant_error() -> None:
    truth = soft(seed=1)
    assert matting.dtssd(truth * 0 + 0.3, truth * 0).abs().max().item() < 1e-6
    blink = torch.zeros(1, 1, 3, 2, 2)
    blink[:, :, 1] = 0.2
    assert matting.dtssd(blink, blink * 0).item() == pytest.approx(20)


def test_gradient_magnitude_is_that_of_direct_sums() -> None:
    alpha = soft(seed=2, shape=(1, 1, 1, 7, 10))
    x = np.arange(-4, 5)
    gauss = np.exp(-(x**2) / (2 * 1.4**2)) / (1.4 * math.sqrt(2 * math.pi))
    kernel = np.outer(gauss, -x * gauss / 1.4**2)
    kernel /= math.sqrt((kernel**2).sum())
    picture = np.pad(alpha[0, 0, 0].numpy(), 4, mode="edge")
    expected = np.zeros((7, 10))
    for i in range(7):
        for j in range(10):
            window = picture[i : i + 9, j : j + 9]
            expected[i, j] = math.hypot((window * kernel).sum(), (window * kernel.T).sum())
    assert matting.gradient_magnitude(alpha)[0, 0, 0].numpy() == pytest.approx(expected, abs=1e-5)
    wrong = (alpha - 0.5).abs()
    difference = matting.gradient_magnitude(wrong) - matting.gradient_magnitude(alpha)
    assert matting.gradient_error(wrong, alpha).item() == pytest.approx((difference**2).sum().item() / 1000)


def test_connectivity_of_a_detached_piece() -> None:
    """A piece of alpha 0.8 beside the subject, where the truth has 0.3: neither is connected above 0, so |0.8 - 0.3| each."""
    truth = frame("xxx000", "xxx030", "xxx000")
    prediction = frame("xxx000", "xxx080", "xxx000")
    assert matting.connectivity_error(prediction, truth).item() == pytest.approx(0.5 / 1000, rel=1e-4)
    assert matting.connectivity_error(truth, truth).item() == 0


def test_connectivity_forgives_what_stays_near_the_connected_level() -> None:
    """Joined to the subject up to level 0.5, the prediction is 0.14 above it: below 0.15 it counts as connected."""
    truth, prediction = frame("xx500"), frame("xx500")
    prediction[..., 2] = 0.64
    assert matting.connectivity_error(prediction, truth).item() == 0
    prediction[..., 2] = 0.7
    assert matting.connectivity_error(prediction, truth).item() == pytest.approx(0.2 / 1000, rel=1e-4)


def test_connectivity_is_that_of_plain_loops() -> None:
    prediction, truth = soft(seed=3), soft(seed=4)
    total = []
    for p, t in zip(prediction.flatten(0, 2).numpy(), truth.flatten(0, 2).numpy(), strict=True):
        level, alive = np.zeros_like(t), np.ones_like(t, dtype=bool)
        for step in range(1, 11):
            alive &= flood_fill((p >= np.float32(step / 10)) & (t >= np.float32(step / 10)))
            level[alive] = step / 10
        phi = [1 - np.where(a - level >= 0.15, a - level, 0) for a in (p, t)]
        total.append(np.abs(phi[0] - phi[1]).sum() / 1000)
    assert matting.connectivity_error(prediction, truth).tolist() == pytest.approx(np.reshape(total, (2, 3)).mean(1).tolist(), rel=1e-4)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.__name__)
def test_every_metric_on_extreme_clips(metric) -> None:
    """Nothing, everything, one frame, one row: finite; zero for a perfect prediction, however far outside [0, 1] it is."""
    for shape in ((1, 1, 1, 4, 9), (1, 1, 3, 1, 5), (2, 1, 2, 6, 3)):
        zero, one = torch.zeros(shape), torch.ones(shape)
        for prediction, truth in ((zero, zero), (one, one), (one + 0.7, one), (zero - 0.7, zero)):
            assert metric(prediction, truth).tolist() == [0] * shape[0]
        assert bool(metric(one, zero).isfinite().all())
        assert bool(metric(zero, one).isfinite().all())


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.__name__)
def test_clips_of_a_batch_are_apart_and_height_counts_as_width(metric) -> None:
    """Turned, a clip has the same errors, but for Conn's choice among equally large regions."""
    prediction, truth = soft(seed=5), soft(seed=6)
    each = [metric(prediction[i : i + 1], truth[i : i + 1]).item() for i in range(2)]
    assert metric(prediction, truth).tolist() == pytest.approx(each, rel=1e-5)
    assert metric(prediction.transpose(-1, -2), truth.transpose(-1, -2)).tolist() == pytest.approx(each, rel=5e-3)


def test_edge_error_by_hand() -> None:
    """A hard edge between columns 4 and 5 of 10: the band is the two columns on either side."""
    truth = torch.zeros(1, 1, 1, 6, 10)
    truth[..., 5:] = 1
    prediction = truth.clone()
    prediction[..., 0] = 0.9  # outside of the band
    assert transparency.edge_error(prediction, truth).item() == 0
    prediction[..., 4], prediction[..., 6] = 0.4, 0.8
    assert transparency.edge_error(prediction, truth).item() == pytest.approx((0.4 + 0.2) / 4)
    assert transparency.edge_error(prediction, truth, reach=1).item() == pytest.approx(0.4 / 2)


def test_edge_error_counts_soft_regions_whole_and_nothing_without_an_edge() -> None:
    glow = torch.full((1, 1, 1, 5, 7), 0.5)
    assert transparency.edge_error(glow * 0.8, glow).item() == pytest.approx(0.1)
    for value in (0.0, 1.0):
        assert transparency.edge_error(glow, torch.full_like(glow, value)).item() == 0
