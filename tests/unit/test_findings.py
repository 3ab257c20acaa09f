"""Findings: each fault is found in a clip that has it, a clean clip has none, and measures are what their formulas say."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from faults import FAULTS, VP9, Fault, clean_clip, coded, contrast, material_clip, resized, with_alpha
from faults import boiling as boil
from wan_alpha.data.conform import at_size
from wan_alpha.findings.alpha import border_touch, hard_edge_share, limited_floor, noise_share
from wan_alpha.findings.boiling import boiling
from wan_alpha.findings.caption import caption_findings
from wan_alpha.findings.coding import lies_on_grid, rough_part
from wan_alpha.findings.colour import edge_pull, proportional_share
from wan_alpha.findings.duplicates import duplicate_findings, signature
from wan_alpha.findings.examine import Expected, examine
from wan_alpha.findings.filters import largest, median, smallest
from wan_alpha.findings.frame import held_share, scene_cuts
from wan_alpha.findings.repair import bleed, denoise, repair, stretch, unpremultiply
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.recode import recoded

EXPECTED = Expected(num_frames=17, fps=16.0)
STAR_MOVING_UP = 6
DISC_MOVING_RIGHT, TUFT_OF_HAIR, GLASS_BALL = 700_247, 700_139, 700_019
ROUGH_SMOKE, ROUGHER_SMOKE = 700_008, 700_014
H264 = {"crf": 23, "mbtree": 0}
"""The same each time: see media/recode.py."""


def names(clip: RgbaClip) -> list[str]:
    return [finding.name for finding in examine(clip, expected=EXPECTED)]


@pytest.fixture(scope="module")
def star() -> RgbaClip:
    return clean_clip(STAR_MOVING_UP, side=64)


def test_a_clean_clip_has_no_findings(star):
    assert names(star) == []


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.visible], ids=lambda fault: f"{fault.finding}, {fault.strength}")
def test_a_fault_that_is_seen_is_found(fault: Fault, star):
    found = names(fault.inject(star, np.random.default_rng(0)))
    assert fault.finding in found or (fault.finding == "delayed matte" and "shifted matte" in found)


def test_a_finding_says_where_how_bad_and_what_to_do(star):
    halo = next(fault for fault in FAULTS if fault.finding == "halo")
    finding = next(f for f in examine(halo.inject(star, np.random.default_rng(0)), expected=EXPECTED) if f.name == "halo")
    assert finding.value > finding.limit
    assert 0 <= finding.frame < 17
    assert "levels" in finding.says
    assert finding.line().startswith("warning: halo: edges are pulled by")


def test_timing(star):
    short = RgbaClip(rgb=star.rgb[:9], alpha=star.alpha[:9], fps=24.0)
    assert {"short clip", "frame rate"} <= set(names(short))


@pytest.mark.parametrize(
    ("caption", "found"),
    [
        ("", ["empty caption"]),
        ("a fox", ["caption form"]),
        ("A red fox. The background is transparent. Flat style. Close shot.", []),
    ],
)
def test_captions(caption, found):
    assert [finding.name for finding in caption_findings(caption)] == found


def ramp(width: int = 64) -> np.ndarray:
    """Alpha (1, 8, W) from 0 to 255."""
    return np.broadcast_to(np.rint(np.linspace(0, 255, width)).astype(np.uint8), (1, 8, width)).copy()


def test_proportional_colour_is_one_for_premultiplied_and_zero_for_straight():
    alpha = ramp()
    straight = np.full((*alpha.shape, 3), 200, np.uint8)
    premul = np.rint(straight * (alpha[..., None] / 255)).astype(np.uint8)
    assert proportional_share(premul, alpha).value == pytest.approx(1, abs=0.02)
    assert proportional_share(straight, alpha).value == 0
    assert proportional_share(np.zeros_like(premul), alpha) is None


def test_edge_pull_is_the_distance_to_the_background_times_its_share(star):
    """c = own + (1 - a) h (b - own) has the pull h |b - own|."""
    own, background = np.array([200.0, 100.0, 50.0]), np.array([0.0, 200.0, 50.0])
    share = 0.5 * (1 - star.alpha[..., None] / 255)
    rgb = np.rint(own + share * (background - own)).astype(np.uint8)
    expected = np.sqrt(np.mean((0.5 * (background - own)) ** 2))
    assert edge_pull(rgb, star.alpha).value == pytest.approx(expected, rel=0.1)


def test_flames_that_redden_where_they_are_thin_have_no_halo(star):
    """From white to colours that no mixture with one background gives: out of range at alpha 0, or not evenly."""
    a = star.alpha[..., None] / 255
    out_of_range = np.clip(np.array([255.0, 200.0, 120.0]) - 1.6 * (1 - a) * np.array([0, 90, 100]), 0, 255)
    early = np.array([255.0, 220.0, 180.0]) - np.array([0, 60, 90]) * (1 - a**4)
    for colour in (out_of_range, early):
        assert edge_pull(np.rint(colour).astype(np.uint8), star.alpha).value == 0
    evenly = np.array([255.0, 220.0, 180.0]) - np.array([0, 60, 90]) * (1 - a)
    assert edge_pull(np.rint(evenly).astype(np.uint8), star.alpha).value > 40


def test_measures_that_do_not_apply():
    glow = clean_clip(0, side=32)
    soft = with_alpha(glow, np.full(glow.alpha.shape, 100))
    assert hard_edge_share(soft.alpha) is None
    assert limited_floor(ramp()).value == 0
    assert noise_share(ramp()).value == 0


def test_stairs_around_what_is_soft_inside():
    """Glass: the ramp from its rim to its middle stays soft when the outline is hard; no ramp speaks for the outline."""
    glass = clean_clip(GLASS_BALL)
    assert "binary matte" in names(contrast(4)(glass, np.random.default_rng(0)))
    assert "binary matte" not in names(glass)


def test_held_frames_leave_still_clips_alone(star):
    still = np.repeat(star.alpha[:1], 8, axis=0)
    assert held_share(np.repeat(star.rgb[:1], 8, axis=0), still).value == 0


def test_scene_cuts_are_found_where_they_are(star):
    other = clean_clip(0, side=64)
    rgb, alpha = np.concatenate([star.rgb[:7], other.rgb[:6]]), np.concatenate([star.alpha[:7], other.alpha[:6]])
    assert scene_cuts(rgb, alpha) == [7]
    assert scene_cuts(star.rgb, star.alpha) == []
    assert scene_cuts(star.rgb[:1], star.alpha[:1]) == []


def test_duplicates_are_found_through_another_encoding_and_size(star):
    other = clean_clip(3, side=64)
    smaller = at_size(star, height=48, width=48, fill="crop")
    noisy = with_alpha(star, star.alpha + np.random.default_rng(0).normal(0, 2, star.alpha.shape))
    looks = [(name, signature(clip.rgb, clip.alpha)) for name, clip in (("a", star), ("b", other), ("c", noisy), ("d", smaller))]
    found = duplicate_findings(looks)
    assert sorted(found) == ["c", "d"]
    assert "same as a" in found["c"].says


def test_repairs_undo_their_fault(star):
    faults = {fault.finding: fault for fault in FAULTS}
    rng = np.random.default_rng(0)
    for name in ("matte range", "premultiplied colour", "noisy matte"):
        spoilt = faults[name].inject(star, rng)
        kinds = [finding.repair for finding in examine(spoilt, expected=EXPECTED) if finding.repair]
        assert name not in names(repair(spoilt, kinds)), name


def test_stretch_and_unpremultiply_are_exact():
    table = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    limited = np.rint(16 + table * (219 / 255)).astype(np.uint8)
    assert np.abs(stretch(limited).astype(int) - table).max() <= 1
    alpha = np.full((1, 4, 4), 51, np.uint8)
    assert unpremultiply(np.full((1, 4, 4, 3), 20, np.uint8), alpha).max() == 100


def test_denoise_keeps_soft_tails_and_edges(star):
    tail = ramp(256)
    middle = (tail > 2) & (tail < 253)
    assert np.array_equal(denoise(tail)[middle], tail[middle])
    changed = denoise(star.alpha).astype(int) - star.alpha
    assert np.abs(changed).max() <= 2


@pytest.mark.parametrize("seed", [ROUGH_SMOKE, ROUGHER_SMOKE])
@pytest.mark.parametrize("codec", [H264, VP9])
def test_what_is_drawn_rough_is_no_noise_until_it_is_coded(seed, codec):
    """Roughness near 0 alone says little here; the codec's grid tells them apart. The repaired matte is not reported again."""
    drawn = material_clip(seed, num_frames=9, side=64).alpha
    spoilt = coded(drawn, **codec)
    assert noise_share(drawn).value == 0
    assert noise_share(spoilt).value > 0.02
    assert noise_share(denoise(spoilt)).value < 0.0055


def test_a_matte_that_is_coded_and_then_made_smaller_is_found_and_one_that_is_drawn_so_is_not():
    drawn = material_clip(ROUGH_SMOKE, num_frames=9, side=96).alpha
    large = resized(drawn, (144, 144))
    assert noise_share(resized(large, (96, 96))).value == 0
    assert noise_share(resized(coded(large, **H264), (96, 96))).value > 0.0055


def test_ripples_beside_strands_are_noise_though_no_grid_is_left():
    """At 5/4 of the size no grid is looked for; antialiased strands are rough, but they are edges."""
    hair = clean_clip(TUFT_OF_HAIR, num_frames=9).alpha
    assert noise_share(hair).value < 0.002
    assert noise_share(resized(coded(resized(hair, (120, 120)), **H264), (96, 96))).value > 0.0055


@pytest.mark.parametrize(("coder", "codec"), [("H.264", H264), ("VP9", VP9)])
def test_coding_again_costs_less_on_the_grid_of_the_first_time(coder, codec):
    drawn = material_clip(ROUGH_SMOKE, num_frames=9, side=64).alpha
    spoilt = coded(drawn, **codec)
    assert not lies_on_grid(drawn, coder=coder, crf=20)
    assert lies_on_grid(spoilt, coder=coder, crf=20)
    assert not lies_on_grid(spoilt[:, 2:, 2:], coder=coder, crf=20)
    assert not lies_on_grid(np.zeros_like(drawn), coder=coder, crf=20)


@pytest.mark.parametrize("coder", ["H.264", "VP9"])
def test_coding_again_gives_the_same_each_time(coder):
    """With x264's mbtree under AVX-512 it does not: memory used before gets into the result."""
    matte = resized(material_clip(700, num_frames=9, side=64).alpha, (96, 96))
    results = set()
    for turn in range(12):
        assert [np.full(60_000 + 1_000 * extra, 37 * turn % 256, np.uint8) for extra in range(40)]
        results.add(recoded(matte, coder=coder, crf=18).tobytes())
    assert len(results) == 1


def test_filters_are_those_of_pillow():
    values = np.random.default_rng(0).integers(0, 256, (2, 9, 12), dtype=np.uint8)
    for ours, kind in ((largest, ImageFilter.MaxFilter), (smallest, ImageFilter.MinFilter), (median, ImageFilter.MedianFilter)):
        expected = [np.asarray(Image.fromarray(frame).filter(kind(3))) for frame in values]
        assert np.array_equal(ours(values), expected)
    assert np.array_equal(largest(values[:1], size=5)[0], np.asarray(Image.fromarray(values[0]).filter(ImageFilter.MaxFilter(5))))


def test_what_is_coded_again_is_where_the_matte_is_rough():
    rng = np.random.default_rng(0)
    large = np.zeros((17, 300, 600), np.uint8)
    large[6:, 270:, 520:584] = rng.integers(0, 9, (11, 30, 64))
    frames = list(range(0, 17, 2))
    part = rough_part(large, rough=large[frames] > 0, frames=frames)
    assert np.array_equal(part, large[6:15, 128:300, 448:600])


@pytest.mark.parametrize("side", [1, 7, 49, 107, 130, 201])
def test_a_part_at_three_halves_of_the_size_is_a_part_of_the_whole_at_that_size(side):
    rng = np.random.default_rng(0)
    matte = np.asarray(Image.fromarray(rng.integers(0, 256, (5, 5), dtype=np.uint8)).resize((side, side)))[None]
    part = rough_part(matte, rough=matte > 100, frames=[0], scale=1.5)
    whole = resized(matte, (round(1.5 * side),) * 2)
    y, x = (max(0, length - kept) // 64 * 64 for length, kept in zip(whole.shape[1:], part.shape[1:], strict=True))
    assert any(
        np.abs(part.astype(int) - whole[:, top : top + part.shape[1], left : left + part.shape[2]]).max() <= 1
        for top in {0, y}
        for left in {0, x}
    )


def test_bleed_changes_hidden_pixels_only(star):
    filled = bleed(star.rgb * (star.alpha[..., None] > 0).astype(np.uint8), star.alpha)
    seen = star.alpha > 0
    assert np.array_equal(filled[seen], star.rgb[seen])
    mean = star.rgb[star.alpha > 200].mean(axis=0)
    assert np.abs(filled[~seen].mean(axis=0) - mean).max() < 25


def test_boiling_edges_of_what_moves_before_a_backdrop():
    moving = clean_clip(DISC_MOVING_RIGHT)
    assert boiling(moving.rgb, moving.alpha).value < 0.02
    spoilt = boil(moving, np.random.default_rng(DISC_MOVING_RIGHT))
    assert boiling(spoilt.rgb, spoilt.alpha).value > 0.05


def test_a_faint_subject_at_the_border_is_cut():
    alpha = np.zeros((3, 32, 32), np.uint8)
    alpha[:, :10, 10:20] = 60
    assert border_touch(alpha).value == 10 / 32
    assert border_touch(np.where(alpha > 0, 20, 0).astype(np.uint8)).value == 0
