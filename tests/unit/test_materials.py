import numpy as np
import pytest

from wan_alpha.data.materials import CUTS_CAPTION, WISP_SHARE, frame_order, material_caption, render_cuts, render_material
from wan_alpha.data.sources import procedural_sources
from wan_alpha.geometry import ClipSize
from wan_alpha.prompts import prompt_problems

SIZE = {"num_frames": 5, "height": 32, "width": 48}


@pytest.mark.parametrize("seed", range(12))
def test_a_material_is_visible_and_straight(seed: int) -> None:
    colour, alpha = render_material(seed, **SIZE)
    assert colour.shape == (5, 32, 48, 3)
    assert alpha.shape == (5, 32, 48)
    assert colour.dtype == alpha.dtype == np.float32
    assert 0 <= min(colour.min(), alpha.min()) <= max(colour.max(), alpha.max()) <= 1
    assert 0.005 < alpha.mean() < 0.95
    assert prompt_problems(material_caption(seed)) == []


def test_a_material_is_a_function_of_its_seed() -> None:
    np.testing.assert_array_equal(render_material(3, **SIZE)[0], render_material(3, **SIZE)[0])
    assert np.abs(render_material(3, **SIZE)[0] - render_material(4, **SIZE)[0]).max() > 0.1


def test_circles_stay_round_in_wide_frames() -> None:
    """The middle square of a wide frame shows what a square frame of that height shows: pixels are square."""
    wide, square = render_material(5, num_frames=1, height=32, width=64), render_material(5, num_frames=1, height=64, width=64)
    np.testing.assert_allclose(wide[1][0], square[1][0, 16:48], atol=1e-4)


def test_rocks_are_solid_and_wisps_are_not() -> None:
    """The caption's kind is what is drawn, and both kinds come about as often as meant."""
    wisps = ["smoke" in material_caption(seed) for seed in range(60)]
    assert abs(np.mean(wisps) - WISP_SHARE) < 0.2
    soft = [np.mean((alpha := render_material(seed, **SIZE)[1])[alpha > 0.02] < 0.95) for seed in range(24)]
    assert np.mean([s for s, wisp in zip(soft, wisps, strict=False) if wisp]) > 0.6
    assert np.mean([s for s, wisp in zip(soft, wisps, strict=False) if not wisp]) < 0.3


def test_clips_that_stand_still_do() -> None:
    still = next(seed for seed in range(100) if "standing still" in material_caption(seed))
    colour, alpha = render_material(still, **SIZE)
    np.testing.assert_array_equal(alpha[0], alpha[-1])
    np.testing.assert_array_equal(colour[0], colour[-1])


def test_frames_come_in_the_order_that_is_told() -> None:
    """Put in order of time, half of what moves fast changes less from frame to frame; all else is in order."""
    size, ordered = {**SIZE, "num_frames": 9}, []
    for seed in range(40):
        order = frame_order(seed, **size)
        assert sorted(order) == list(range(9))
        if "fast" not in material_caption(seed):
            assert order == sorted(order)
            continue
        ordered.append(order == sorted(order))
        shown = render_material(seed, **size)[1]
        in_time = shown[np.argsort(order)]
        assert ordered[-1] or np.abs(np.diff(in_time, axis=0)).mean() < np.abs(np.diff(shown, axis=0)).mean()
    assert 0.2 < np.mean(ordered) < 0.8


def test_frames_of_cuts_share_little() -> None:
    """Neighbouring frames differ far more than those of materials that move fast, and every frame can be seen."""

    def change(colour: np.ndarray) -> float:
        return float(np.abs(np.diff(colour, axis=0)).mean())

    size = {**SIZE, "num_frames": 9}
    fast = [change(render_material(s, **size)[0]) for s in range(40) if "fast" in material_caption(s)]
    clips = [render_cuts(seed, **size) for seed in range(6)]
    assert np.mean([change(colour) for colour, _ in clips]) > 1.5 * np.mean(fast)
    for colour, alpha in clips:
        assert colour.shape == (9, 32, 48, 3)
        assert alpha.shape == (9, 32, 48)
        assert colour.dtype == alpha.dtype == np.float32
        assert 0 <= min(colour.min(), alpha.min()) <= max(colour.max(), alpha.max()) <= 1
    np.testing.assert_array_equal(render_cuts(2, **size)[1], render_cuts(2, **size)[1])
    assert prompt_problems(CUTS_CAPTION) == []


@pytest.mark.parametrize("kind", ["shapes", "materials", "cuts"])
def test_seeds_go_on_from_nothing_after_the_largest(kind: str) -> None:
    size = ClipSize(num_frames=1, height=16, width=16)
    first, second = procedural_sources(2, kind=kind, seed=2**64 - 1, size=size, fps=16.0)
    assert (first.seed, second.seed) == (2**64 - 1, 0)
    assert first.read().alpha.shape == (1, 16, 16)
