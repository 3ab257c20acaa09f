"""Folders that nobody planned: every file is read, named as another format, told as left out, or a problem; none is lost or used twice."""

import logging
import random
from collections import Counter
from pathlib import Path, PurePath

import pytest
from PIL import Image

from wan_alpha.media.find import find_clips

STEMS = ("a", "0001", "0002", "rgb", "alpha", "a_rgb", "a_alpha", "A_ALPHA", "a_mask")
SUFFIXES = (".mp4", ".mov", ".webm", ".webp", ".png", ".jpg", ".zip")
FOLDERS = ("", "walk", "fgr", "pha", "Alpha", "fgr/train", "pha/train", "walk/fgr", "a_alpha")
LAYOUTS = 40


def layout(root: Path, rng: random.Random) -> set[Path]:
    files = {root / rng.choice(FOLDERS) / (rng.choice(STEMS) + rng.choice(SUFFIXES)) for _ in range(rng.randint(1, 14))}
    for path in sorted(files):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".png", ".jpg", ".webp"):
            Image.new("RGB" if path.suffix == ".jpg" or rng.random() < 0.5 else "RGBA", (2, 2)).save(path)
        else:
            path.touch()
    return files


@pytest.mark.parametrize("seed", range(LAYOUTS))
def test_no_file_is_lost_or_used_twice(tmp_path, caplog, seed):
    caplog.set_level(logging.INFO)
    files = layout(tmp_path, random.Random(seed))
    Image.new("RGBA", (2, 2)).save(tmp_path / "clip.webp")  # without any clip there is nothing to find
    clips = find_clips(tmp_path)
    assert len({clip.name.casefold() for clip in clips}) == len(clips)
    named = [path for clip in clips for path in (*clip.files, *clip.others)]
    seen = {inner for path in named for inner in ([path, *path.iterdir()] if path.is_dir() else [path])}
    left_out = {line.split(": ")[0] for line in caplog.messages if "left out" in line}
    assert [path for path in files - seen if not {str(path), str(path.parent)} & left_out] == []
    assert max(Counter(path for clip in clips if clip.problem is None for path in clip.files).values(), default=1) == 1


def test_the_work_grows_as_the_folder_does(tmp_path, monkeypatch):
    """A set of tens of thousands of clips is found in seconds: no path is compared with every other one."""
    number = 150
    for index in range(number):
        for name in (f"p{index}_rgb.mp4", f"p{index}_alpha.mp4", f"m{index}.mov", f"o{index}x.jpg"):
            (tmp_path / name).touch()
        (tmp_path / f"f{index}").mkdir()
        (tmp_path / f"f{index}" / "0.png").touch()
    compared = []
    equal = PurePath.__eq__
    monkeypatch.setattr(PurePath, "__eq__", lambda one, other: compared.append(1) or equal(one, other))
    assert len(find_clips(tmp_path)) == 3 * number
    assert len(compared) < 60 * number
