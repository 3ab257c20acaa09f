import doctest

import pytest

from wan_alpha.data import buckets
from wan_alpha.data.buckets import bucket_of, lengths, shapes
from wan_alpha.errors import UsageError
from wan_alpha.geometry import ClipSize

BUDGET = ClipSize(num_frames=81, height=480, width=832)


def found(num_frames: int, height: int, width: int, by: buckets.Buckets = "aspect+length") -> tuple[int, int, int]:
    size = bucket_of(num_frames=num_frames, height=height, width=width, budget=BUDGET, by=by)
    return size.num_frames, size.height, size.width


def test_examples_in_the_docstrings() -> None:
    assert doctest.testmod(buckets).failed == 0


def test_every_bucket_is_legal_and_within_the_area() -> None:
    for budget in (BUDGET, ClipSize(num_frames=17, height=64, width=64), ClipSize(num_frames=1, height=16, width=16)):
        for height, width in shapes(budget):
            ClipSize(num_frames=1, height=height, width=width)
            assert height * width <= budget.height * budget.width
        assert all((length - 1) % 4 == 0 for length in lengths(budget))


@pytest.mark.parametrize(
    ("clip", "bucket"),
    [
        ((81, 1080, 1920), (81, 480, 832)),
        ((200, 1920, 1080), (81, 832, 480)),
        ((80, 512, 512), (65, 624, 640)),
        ((16, 803, 1920), (9, 416, 960)),  # 2.39 : 1, which the published cache refused
        ((1, 3000, 2000), (1, 768, 512)),
        ((2, 480, 832), (5, 480, 832)),  # too short for any: played back and forth
        ((33, 100, 10_000), (33, 416, 960)),
    ],
)
def test_closest_shape_and_longest_length(clip: tuple[int, int, int], bucket: tuple[int, int, int]) -> None:
    assert found(*clip) == bucket


def test_less_bucketing_keeps_the_budget() -> None:
    assert found(1, 3000, 2000, "none") == (81, 480, 832)
    assert found(1, 512, 512, "aspect") == (81, 624, 640)
    with pytest.raises(UsageError, match="at least one pixel"):
        found(0, 4, 4)
