"""Flicker of the whole matte is found, whatever its rhythm and whatever the content does; content alone is none."""

import numpy as np
import pytest

from faults import clean_clip, flickering, material_clip, pulsing
from wan_alpha.findings.flicker import _irregular_flicker, _steady_flicker, flicker
from wan_alpha.media.clip import RgbaClip

TUFT_OF_HAIR = 700_139
SMOKE_COMING_AND_GOING, SMOKE_TURNING = 700_215, 700_238


@pytest.mark.parametrize("growth", [0.7, 1.0, 1.4])
def test_flicker_is_seen_in_clips_that_grow_or_shrink(growth):
    """The sum of alpha rises or falls all the time, so that no step turns back."""
    grown = discs(list(400 * growth ** np.arange(8)))
    assert flicker(grown.alpha).value < 0.05
    spoilt = flickering(0.15)(grown, np.random.default_rng(0))
    assert 0.1 < flicker(spoilt.alpha).value < 0.2


def discs(areas: list[float], *, x: list[int] | None = None) -> RgbaClip:
    """A solid disc per frame, of AREAS pixels, at column X of 128."""
    radius = np.sqrt(np.array(areas) / np.pi)[:, None, None]
    row, column = np.mgrid[0:128, 0:128]
    distance = np.hypot(column - np.array(x or [64] * len(areas))[:, None, None], row - 64)
    alpha = np.clip(255 * (radius + 0.5 - distance), 0, 255).astype(np.uint8)
    return RgbaClip(rgb=np.zeros((*alpha.shape, 3), np.uint8), alpha=alpha, fps=16.0)


def test_flicker_of_a_burst_is_seen_in_its_level():
    """The area doubles, halves and jumps, the solid inside stays solid."""
    burst = discs([300, 700, 1900, 4000, 4700, 3800, 2900, 1700, 900])
    assert flicker(burst.alpha).value < 0.02
    for depth in (0.06, 0.15):
        assert flicker(flickering(depth)(burst, np.random.default_rng(0)).alpha).value == pytest.approx(depth, rel=0.2)


def test_another_picture_in_every_frame_is_no_flicker():
    """As in effects drawn frame by frame: the sums go up and down, and the matte is elsewhere each time."""
    drawn = discs([1000, 750, 950, 800, 760, 900, 700, 930], x=[20, 64, 108, 40, 90, 25, 70, 110])
    assert flicker(drawn.alpha).value < 0.02
    same_place = discs([1000, 750, 950, 800, 760, 900, 700, 930])
    assert flicker(same_place.alpha).value > 0.05


def test_chance_is_no_flicker():
    """Sums that jump about by a fifth without a rhythm: one in a hundred may look like one."""
    totals = np.random.default_rng(1).uniform(0.8, 1, (300, 17))
    assert np.mean([_steady_flicker(total) > 0 for total in totals]) <= 0.02


@pytest.mark.parametrize("draw", range(5))
@pytest.mark.parametrize("kind", ["disc", "hair", "fast smoke", "burst"])
def test_a_gain_without_rhythm_is_found(kind, draw):
    clip = {
        "disc": lambda: discs([1000] * 17, x=list(range(20, 88, 4))),
        "hair": lambda: clean_clip(TUFT_OF_HAIR, side=64),
        "fast smoke": lambda: material_clip(SMOKE_TURNING),
        "burst": lambda: discs([300, 700, 1900, 4000, 4700, 4600, 4500, 4300, 3800, 3400, 2900, 1700, 900]),
    }[kind]()
    assert flicker(clip.alpha).value < 0.04
    assert flicker(pulsing(0.3)(clip, np.random.default_rng(draw)).alpha).value > 0.05


def test_the_depth_of_a_gain_without_rhythm_is_two_standard_deviations():
    gain = np.exp(np.random.default_rng(0).normal(0, 0.1, 500))
    depth, where = _irregular_flicker(np.outer([1.0, 2.0], gain), shown=np.ones(500, bool))
    assert depth == pytest.approx(1 - np.exp(-0.2), rel=0.1)
    assert where.shape == (497,)


def test_what_series_do_not_have_in_common_is_no_gain():
    gains = np.exp(np.random.default_rng(0).normal(0, 0.1, (3, 500)))
    assert _irregular_flicker(gains, shown=np.ones(500, bool))[0] < 0.04
    exponential, linear = 0.8 ** np.arange(12), np.linspace(1, 0.05, 12)
    for fade in (exponential, linear):
        assert _irregular_flicker(fade[None], shown=np.ones(12, bool))[0] < 1e-6


@pytest.mark.parametrize("seed", [SMOKE_COMING_AND_GOING, SMOKE_TURNING])
def test_smoke_that_turns_into_another_and_fades_is_no_flicker(seed):
    """Its sum, or its level, alone has a frame that is 9 or 32 % below both neighbours."""
    assert flicker(material_clip(seed).alpha).value < 0.03


def test_a_short_effect_that_fades_unevenly_is_no_flicker():
    """Levels and shares of a real explosion drawn frame by frame: too short to tell its fading from a gain."""
    areas, levels = [1570, 2960, 3610, 4370, 5430, 3660, 2280], [251, 242, 208, 173, 185, 141, 98]
    burst = discs(areas)
    alpha = np.round(burst.alpha / 255 * np.array(levels)[:, None, None]).astype(np.uint8)
    assert flicker(alpha).value < 0.05
