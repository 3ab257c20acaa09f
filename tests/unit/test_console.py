import pytest

from wan_alpha import console, progress
from wan_alpha.console import install_progress
from wan_alpha.evaluate import grade


@pytest.fixture(autouse=True)
def no_display_before_or_after(monkeypatch):
    """The display is the process's: other tests run the command line, which installs one."""
    monkeypatch.setattr(progress, "_display", [progress._silent])


def test_lines_where_there_is_no_terminal(capsys, monkeypatch):
    monkeypatch.setattr(console, "LINE_EVERY_SECONDS", 0.0)
    install_progress()
    with progress.progress("training", total=4, done=2) as advance:
        advance(loss=0.25)
        advance(loss=0.125)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("training 3/4")
    assert lines[1].startswith("training 4/4")
    assert "loss 0.1250" in lines[1]


def test_a_library_user_sees_nothing(capsys):
    with progress.progress("caching", total=1) as advance:
        advance()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("rgb", "alpha", "word"), [(9.9, 4.9, "excellent"), (9.9, 5.1, "good"), (20.1, 1.0, "below the seed's 'good'")])
def test_the_seeds_grades(rgb, alpha, word):
    assert grade({"rgb_mae": rgb, "alpha_mae": alpha}) == word
