"""Mattes beside the colour in space and time: measured in pixels and frames, and not where there is nothing to measure."""

import numpy as np
import pytest

from faults import clean_clip, shifted, then_lossless_webp
from wan_alpha.findings.delay import time_lag
from wan_alpha.findings.finding import Measure
from wan_alpha.findings.outline import colour_ends, flat_colour, outline
from wan_alpha.findings.shift import agreed_shift, space_shift

STAR_MOVING_UP, DISC_MOVING_RIGHT, TUFT_OF_HAIR, TRIANGLE_OVER_CLOUDS, GLASS_BALL_GROWING = 6, 700_247, 700_139, 700_000, 700_019
DISC_MOVING_RIGHT_ON_WEBP, STAR_GROWING = 700_014, 700_042
Clip = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def star():
    return clean_clip(STAR_MOVING_UP, side=64)


def disc(radius: float = 20, *, centre: tuple[float, float] = (48, 48), softness: float = 3) -> np.ndarray:
    """Alpha of nine equal frames: a disc whose edge falls over SOFTNESS pixels."""
    y, x = np.mgrid[0:96, 0:96]
    distance = np.hypot(y - centre[0], x - centre[1])
    return np.broadcast_to(np.clip(255 * (0.5 + (radius - distance) / softness), 0, 255).astype(np.uint8), (9, 96, 96))


def painted(alpha: np.ndarray, *, inside: int = 200, outside: int = 0) -> np.ndarray:
    """Colour that ends where ALPHA does."""
    return np.broadcast_to(np.where(alpha[..., None] > 0, inside, outside).astype(np.uint8), (*alpha.shape, 3))


def value(measured: Measure | None) -> float:
    return 0.0 if measured is None else measured.value


def test_shift_is_measured_below_a_pixel(star):
    moved = np.rint(0.25 * star.alpha + 0.75 * np.roll(star.alpha, 1, axis=2)).astype(np.uint8)
    measured = space_shift(star.rgb, moved)
    assert measured.value == pytest.approx(0.75, abs=0.15)
    assert measured.detail.startswith(("+0.7", "+0.8"))
    assert space_shift(star.rgb, star.alpha).value == 0


@pytest.mark.parametrize("outside", [0, 90], ids=["black", "grey"])
@pytest.mark.parametrize(("down", "across"), [(0, 0.7), (-1.5, 2), (5, -4), (0, 7)])
def test_a_disc_beside_its_colour(down, across, outside):
    rgb = painted(disc(), outside=outside)
    measured = space_shift(rgb, disc(centre=(48 + down, 48 + across)))
    assert measured.value == pytest.approx(np.hypot(down, across), abs=0.35)


@pytest.mark.parametrize("seed", [STAR_MOVING_UP, DISC_MOVING_RIGHT], ids=["star", "disc"])
def test_half_a_pixel_is_a_shift_and_none_is_not(seed):
    clip = clean_clip(seed)
    assert space_shift(clip.rgb, clip.alpha).value == 0
    moved = shifted(0.5)(clip, np.random.default_rng(seed))
    assert 0.4 < space_shift(moved.rgb, moved.alpha).value < 0.7


@pytest.mark.parametrize("pixels", [1, 2, 4])
def test_strands_of_hair_beside_their_colour(pixels):
    hair = clean_clip(TUFT_OF_HAIR)
    moved = shifted(pixels)(hair, np.random.default_rng(0))
    assert space_shift(moved.rgb, moved.alpha).value == pytest.approx(pixels, abs=0.5)


def test_a_body_in_the_light_of_one_side_on_black():
    """Its shade, black from a third of its width on, is no end of the matte; two pixels beside it are."""
    alpha = disc(24)
    light = np.clip((np.arange(96) - 32) * 8, 0, 255).astype(np.uint8)[:, None]
    rgb = np.minimum(painted(alpha, inside=255), light)
    assert value(space_shift(rgb, alpha)) == 0
    assert space_shift(rgb, np.roll(alpha, 2, axis=2)).value == pytest.approx(2, abs=0.4)


def test_chroma_beside_luma_is_no_shift():
    """Half a pixel to the right, as 4:2:0 read with another idea of where its samples lie."""
    clip = clean_clip(TRIANGLE_OVER_CLOUDS)
    luma = (clip.rgb @ np.array([0.2126, 0.7152, 0.0722]))[..., None]
    chroma = clip.rgb - luma
    rgb = np.clip(np.rint(luma + (chroma + np.roll(chroma, 1, axis=2)) / 2), 0, 255).astype(np.uint8)
    assert space_shift(rgb, clip.alpha).value < 0.3


def test_a_ring_of_colour_around_the_matte_is_no_shift():
    assert value(space_shift(painted(disc(24)), disc(20))) == 0


@pytest.mark.parametrize("seed", [DISC_MOVING_RIGHT_ON_WEBP, STAR_GROWING], ids=["disc", "star"])
def test_what_a_lossless_webp_leaves_under_alpha_0_is_no_end(seed):
    """Its encoder lets the colour go on here and end there, in blocks and lines that no matte has."""
    clip = then_lossless_webp(lambda clip, rng: clip)(clean_clip(seed, hidden="black"), np.random.default_rng(0))
    assert value(space_shift(clip.rgb, clip.alpha)) == 0
    assert value(time_lag(clip.rgb, clip.alpha)) == 0


def test_half_a_pixel_where_black_lies_around_a_lit_body():
    """A body lit from one side seems moved by a fraction; half a pixel more is beyond that."""
    light = np.clip((np.arange(96) - 32) * 8, 0, 255).astype(np.uint8)[:, None]
    rgb = np.minimum(painted(disc(24), inside=255), light)
    moved = (disc(24).astype(np.uint16) + np.roll(disc(24), 1, axis=2) + 1) // 2
    assert value(space_shift(rgb, disc(24))) == 0
    assert space_shift(rgb, moved.astype(np.uint8)).value == pytest.approx(0.5, abs=0.2)


def test_colour_without_ends_says_nothing(star):
    grey = np.full_like(star.rgb, 128)
    ramp = np.broadcast_to(np.linspace(0, 255, 64).astype(np.uint8)[:, None], star.rgb.shape)
    noise = np.random.default_rng(0).integers(0, 256, star.rgb.shape, np.uint8)
    for rgb in (grey, ramp, noise):
        assert value(space_shift(rgb, star.alpha)) == 0
        assert value(time_lag(rgb, star.alpha)) == 0


@pytest.mark.parametrize("alpha", [np.zeros((9, 64, 64), np.uint8), np.full((9, 64, 64), 255, np.uint8), np.full((9, 8, 8), 255, np.uint8)])
def test_mattes_without_an_outline_say_nothing(alpha):
    rgb = np.zeros((*alpha.shape, 3), np.uint8)
    assert space_shift(rgb, alpha) is None
    assert time_lag(rgb, alpha) is None


def test_an_edge_of_one_direction_cannot_tell_a_shift_from_a_rim():
    alpha = np.broadcast_to(np.repeat(np.array([255, 0], np.uint8), 48)[:, None], (9, 96, 96))
    rgb = painted(alpha, inside=200, outside=50)
    assert value(space_shift(rgb, np.roll(alpha, 1, axis=1))) == 0


def test_the_colour_ends_where_it_was_put():
    alpha = disc(softness=1)
    lines = outline(alpha, [0])
    assert np.allclose(np.hypot(*(lines.start + lines.normal * lines.matte_end[:, None] - 48).T), 20.6, atol=0.25)
    assert np.allclose(lines.normal, (lines.start - 48) / np.hypot(*(lines.start - 48).T)[:, None], atol=0.06)
    rgb = painted(disc(23, softness=1))
    flat = flat_colour(rgb, alpha, [0])
    assert flat.tolist() == [0, 0, 0]
    assert np.median(colour_ends(rgb, lines, flat=flat)) == pytest.approx(2.9, abs=0.3)
    assert np.median(colour_ends(rgb, lines, flat=None)) == pytest.approx(2.9, abs=0.3)


def test_most_agree_although_many_do_not():
    """Two fifths of the ends lie anywhere."""
    rng = np.random.default_rng(0)
    angles = rng.uniform(0, 2 * np.pi, 1000)
    normals = np.stack([np.sin(angles), np.cos(angles)], axis=1)
    beyond = 0.4 - normals @ np.array([1.5, -2.0])
    beyond[:400] = rng.uniform(-8, 8, 400)
    found = agreed_shift(normals, beyond)
    assert (*found.shift, found.rim) == pytest.approx((1.5, -2.0, 0.4), abs=0.03)
    assert found.agreement == pytest.approx(0.6 + 0.4 * 0.5 * np.pi**0.5 / 16 * 2, abs=0.05)
    assert found.counts


@pytest.mark.parametrize(("frames", "late"), [(7, 1), (9, 2), (9, -2)])
def test_a_delay_is_seen_in_short_clips(frames, late):
    clip = clean_clip(DISC_MOVING_RIGHT)
    spans = slice(4, 4 + frames), slice(4 - late, 4 - late + frames)
    assert time_lag(clip.rgb[spans[0]], clip.alpha[spans[0]]).value == 0
    measured = time_lag(clip.rgb[spans[0]], clip.alpha[spans[1]])
    assert (measured.value, measured.detail) == (abs(late), "behind" if late > 0 else "ahead of")
    assert time_lag(clip.rgb[:6], clip.alpha[:6]) is None


def test_a_delay_of_what_turns_in_its_place():
    """No side of it leads: only the outline's own form tells."""
    y, x = np.mgrid[-48:48, -48:48]
    angle, distance = np.arctan2(y, x), np.hypot(y, x)
    alpha = np.stack([np.clip(128 + 60 * (30 + 6 * np.sin(5 * angle - 0.25 * t) - distance), 0, 255) for t in range(13)]).astype(np.uint8)
    rgb = painted(alpha, outside=60)
    assert time_lag(rgb, alpha).value == 0
    assert time_lag(rgb[2:], alpha[:-2]).value == 2


def test_what_grows_shows_no_delay():
    """Its rim of colour alone would be late: that of a glass ball."""
    clip = clean_clip(GLASS_BALL_GROWING)
    assert value(time_lag(clip.rgb, clip.alpha)) == 0
