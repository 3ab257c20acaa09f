"""Sizes of clips and latents."""

import pytest

from wan_alpha.errors import UsageError
from wan_alpha.geometry import ClipSize, latent_frames, nearest_num_frames


@pytest.mark.parametrize(
    ("num_frames", "height", "width", "latent_shape", "num_tokens"),
    [
        (17, 64, 64, (5, 8, 8), 80),
        (17, 272, 272, (5, 34, 34), 1445),
        (81, 480, 832, (21, 60, 104), 32760),  # the published token count of 480p, 81 frames
        (1, 16, 32, (1, 2, 4), 2),
    ],
)
def test_shapes(num_frames: int, height: int, width: int, latent_shape: tuple[int, int, int], num_tokens: int) -> None:
    size = ClipSize(num_frames=num_frames, height=height, width=width)
    assert size.latent_shape == latent_shape
    assert size.latent_frames == latent_shape[0]
    assert size.num_tokens == num_tokens


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_frames": 16}, r"num_frames: got 16, expected 4n\+1; use --num_frames 13 or 17"),
        ({"num_frames": 0}, r"num_frames: got 0, expected 4n\+1; use --num_frames 1 or 5"),
        ({"num_frames": -3}, r"num_frames: got -3, expected 4n\+1; use --num_frames 1 or 5"),
        ({"height": 100}, "height: got 100, expected a multiple of 16; use --height 96 or 112"),
        ({"width": 8}, "width: got 8, expected a multiple of 16; use --width 16 or 32"),
        ({"width": 0}, "width: got 0"),
        ({"height": 100_000}, "--height: got 100000, expected at most 16384"),
        ({"num_frames": 100_001}, "--num_frames: got 100001, expected at most 100000"),
        ({"height": 16384, "width": 8192}, "--height and --width: got 16384 x 8192, expected at most 64 million pixels"),
        ({"height": 2048, "width": 2048, "num_frames": 513}, "got 513 frames of 2048x2048, expected at most 8 GiB as 8-bit RGBA"),
    ],
)
def test_illegal_sizes_name_the_nearest_legal_ones(change: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ClipSize(**{"num_frames": 17, "height": 64, "width": 64} | change)


def test_latent_frames_invert_the_legal_frame_counts() -> None:
    assert [latent_frames(4 * n + 1) for n in range(6)] == [1, 2, 3, 4, 5, 6]


def test_nearest_num_frames_are_legal_and_enclose() -> None:
    for count in range(1, 30):
        lower, upper = nearest_num_frames(count)
        assert lower <= count < upper
        assert lower % 4 == upper % 4 == 1
