"""The exception tree and its one-line messages."""

import pytest

from wan_alpha import errors
from wan_alpha.errors import CacheError, CheckpointError, DatasetError, MediaError, UsageError, WanAlphaError, did_you_mean


def test_message_has_what_got_expected_do() -> None:
    error = WanAlphaError("clip.mp4", got="15 frames", expected="4n+1 frames", do="use --num_frames 13 or 17")
    assert str(error) == "clip.mp4: got 15 frames, expected 4n+1 frames; use --num_frames 13 or 17"


@pytest.mark.parametrize(
    ("details", "message"),
    [
        ({}, "clip.mp4"),
        ({"got": 0}, "clip.mp4: got 0"),
        ({"expected": "a matte"}, "clip.mp4: expected a matte"),
        ({"do": "run prepare"}, "clip.mp4; run prepare"),
        ({"got": "two\nlines"}, "clip.mp4: got two lines"),
        ({"got": "9" * 601}, f"clip.mp4: got {'9' * 300} ... (601 characters)"),
    ],
)
def test_message_stays_on_one_line(details: dict, message: str) -> None:
    assert str(WanAlphaError("clip.mp4", **details)) == message


def test_control_characters_of_names_are_shown() -> None:
    """What of a name would end the line, clear it, or write it backwards; letters of any script, and spaces, stay."""
    names = "clip\n1\r\x1b[2K\x85\u2028\u202e.png", "Löwe 猫\u3000نمر🦁\u200d.png"
    assert str(MediaError(names[0])) == "clip\\n1\\r\\x1b[2K\\x85\\u2028\\u202e.png"
    assert errors.one_line(names[1]) == names[1]
    assert str(MediaError("a.png", got="\x1b[2K")) == "a.png: got \\x1b[2K"


def test_every_error_is_of_the_tree_and_in_its_picture() -> None:
    tree = {UsageError, MediaError, DatasetError, CheckpointError, CacheError}
    assert set(WanAlphaError.__subclasses__()) == tree
    assert [kind.__name__ for kind in tree if kind.__name__ not in (errors.__doc__ or "")] == []


def test_did_you_mean() -> None:
    assert did_you_mean("tinny", ["tiny", "wan_14b"]) == "did you mean 'tiny'? known: tiny, wan_14b"
    assert did_you_mean("zebra", ["tiny", "wan_14b"]) == "known: tiny, wan_14b"
