"""prepare on many clips: several processes, damaged ones named, a kill in the middle, rate, size and windows, provenance."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from faults import clean_clip
from wan_alpha.config import PrepareConfig
from wan_alpha.data.conform import at_rate, at_size
from wan_alpha.errors import MediaError
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.read import read_pair
from wan_alpha.media.write import write_webp
from wan_alpha.prepare import prepare
from wan_alpha.processes import ProcessDied, run_all

CLIPS, DAMAGED = 60, ("clip_07", "clip_41")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """60 clips of 3 frames, two of them cut off."""
    folder = tmp_path_factory.mktemp("many") / "in"
    for index in range(CLIPS):
        rng = np.random.default_rng(index)
        rgba = rng.integers(0, 256, (3, 16, 16, 4), dtype=np.uint8)
        path = folder / f"clip_{index:02d}.webp"
        write_webp(RgbaClip(rgb=rgba[..., :3], alpha=rgba[..., 3], fps=16.0), path)
        if path.stem in DAMAGED:
            path.write_bytes(path.read_bytes()[:700])
    return folder


def settings(source: Path, output: Path, **others: object) -> PrepareConfig:
    return PrepareConfig(**{"source": source, "output_path": output, "on_bad_sample": "skip", **others})


def contents(folder: Path) -> dict[str, str]:
    """Hash of every file but run.json, which has the time; report.json without the folder's name."""
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "run.json"}
    files["report.json"] = files["report.json"].replace(str(folder).encode(), b"FOLDER")
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


@pytest.fixture(scope="module")
def undisturbed(source, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    report = prepare(settings(source, output))
    assert len(report.clips) == CLIPS - len(DAMAGED)
    return output


def test_damaged_clips_are_named_and_the_rest_is_done_in_any_process(source, undisturbed, tmp_path):
    report = prepare(settings(source, tmp_path / "out", num_workers=2))
    assert [name for name, _ in report.skipped] == list(DAMAGED)
    assert all(f"{name}.webp" in why for name, why in report.skipped)
    assert contents(tmp_path / "out") == contents(undisturbed)


def test_a_killed_run_goes_on_where_it_was(source, undisturbed, tmp_path, monkeypatch):
    output, records = tmp_path / "out", tmp_path / "out.partial" / "records"
    command = [sys.executable, "-m", "wan_alpha", "prepare", str(source), "--output_path", str(output), "--on_bad_sample", "skip"]
    process = subprocess.Popen(
        [*command, "--num_workers", "2"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    wait_for(lambda: records.is_dir() and len(list(records.glob("*.json"))) >= 5)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: not group_lives(process.pid))
    assert not output.exists()
    before = len(list(records.glob("*.json")))
    assert 5 <= before < CLIPS - len(DAMAGED)
    written = count_calls(monkeypatch, "wan_alpha.prepare.write_pair")
    prepare(settings(source, output))
    assert len(written) <= CLIPS - before
    assert contents(output) == contents(undisturbed)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def wait_for(condition, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def group_lives(group: int) -> bool:
    """Workers of a killed parent end by themselves."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def count_calls(monkeypatch, name: str) -> list[object]:
    from wan_alpha.media.write import write_pair

    calls: list[object] = []
    monkeypatch.setattr(name, lambda clip, stem: (calls.append(stem), write_pair(clip, stem))[1])
    return calls


@pytest.fixture
def two(tmp_path) -> Path:
    for name, seed in (("a", 6), ("b", 3)):
        write_webp(clean_clip(seed, side=32, num_frames=5), tmp_path / "in" / f"{name}.webp")
    return tmp_path / "in"


def interrupted(*arguments: object) -> None:
    raise KeyboardInterrupt


def stopped(config: PrepareConfig, monkeypatch) -> None:
    """A run that Ctrl-C ends after the last clip."""
    with monkeypatch.context() as patch:
        patch.setattr("wan_alpha.prepare.write_tables", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare(config)


@pytest.mark.parametrize(("on_stop", "left"), [("keep", ["in", "out.partial"]), ("clean", ["in"])])
def test_on_stop(two, tmp_path, monkeypatch, on_stop, left):
    stopped(settings(two, tmp_path / "out", on_stop=on_stop), monkeypatch)
    assert sorted(path.name for path in tmp_path.iterdir()) == left
    written = count_calls(monkeypatch, "wan_alpha.prepare.write_pair")
    assert len(prepare(settings(two, tmp_path / "out")).clips) == 2
    assert len(written) == (0 if on_stop == "keep" else 2)


def test_what_was_finished_is_made_again_when_something_changed(two, tmp_path, monkeypatch):
    config = settings(two, tmp_path / "out", on_stop="keep")
    stopped(config, monkeypatch)
    (two / "a.txt").write_text("another caption")
    (tmp_path / "out.partial" / "b_rgb.mp4").write_bytes(b"damaged meanwhile")
    written = count_calls(monkeypatch, "wan_alpha.prepare.write_pair")
    report = prepare(config)
    assert len(written) == 2
    assert [clip.prompt for clip in report.clips] == ["another caption", "b"]
    stopped(config, monkeypatch)
    assert prepare(settings(two, tmp_path / "out", resize="pad", height=48, width=32)).clips[0].height == 48


def test_provenance_says_source_hash_and_changes(two, tmp_path):
    prepare(settings(two, tmp_path / "out", resize="crop", height=16, width=32, rate="blend", fps=8.0))
    rows = [json.loads(line) for line in (tmp_path / "out" / "metadata.jsonl").read_text().splitlines()]
    assert [row["video"] for row in rows] == ["a", "b"]
    assert rows[0]["source"] == [str(two / "a.webp")]
    assert rows[0]["sha256"] == hashlib.sha256((two / "a.webp").read_bytes()).hexdigest()
    assert rows[0]["changes"] == ["rate: 16 to 8 frames per second, blend", "size: 32x32 to 32x16, crop"]
    assert (rows[0]["frames"], rows[0]["height"], rows[0]["width"], rows[0]["fps"]) == (2, 16, 32, 8.0)


def test_windows(tmp_path):
    first, second = clean_clip(6, side=32, num_frames=7), clean_clip(0, side=32, num_frames=6)
    film = RgbaClip(rgb=np.concatenate([first.rgb, second.rgb]), alpha=np.concatenate([first.alpha, second.alpha]), fps=16.0)
    write_webp(film, tmp_path / "in" / "film.webp")
    scenes = prepare(settings(tmp_path / "in", tmp_path / "scenes", windows="scenes"))
    assert [(clip.video, clip.start, clip.frames) for clip in scenes.clips] == [("film_00000", 0, 7), ("film_00007", 7, 6)]
    fixed = prepare(settings(tmp_path / "in", tmp_path / "fixed", windows="fixed", num_frames=5))
    assert [(clip.video, clip.frames, clip.changes) for clip in fixed.clips] == [
        ("film_00000", 5, ("frames 0 to 4 of 13",)),
        ("film_00005", 5, ("frames 5 to 9 of 13",)),
    ]
    out = tmp_path / "fixed"
    assert np.array_equal(read_pair(out / "film_00005_rgb.mp4", out / "film_00005_alpha.mp4").alpha, film.alpha[5:10])


def solid_square() -> RgbaClip:
    """A red square that is half covered by its edge columns, over green hidden colour."""
    rgb = np.full((2, 16, 16, 3), (0, 255, 0), np.uint8)
    alpha = np.zeros((2, 16, 16), np.uint8)
    rgb[:, 4:12, 4:12], alpha[:, 4:12, 4:12] = (255, 0, 0), 255
    return RgbaClip(rgb=rgb, alpha=alpha, fps=16.0)


@pytest.mark.parametrize("fill", ["crop", "pad"])
def test_resizing_lets_no_hidden_colour_in(fill):
    clip = at_size(solid_square(), height=32, width=48, fill=fill)
    assert clip.alpha.shape == (2, 32, 48)
    assert clip.rgb[clip.alpha > 0][:, 1].max() == 0
    if fill == "pad":
        assert clip.alpha[:, :, :8].max() == clip.alpha[:, :, 40:].max() == 0


def test_blended_frames_let_no_hidden_colour_in():
    still = solid_square()
    moved = RgbaClip(rgb=np.roll(still.rgb, 2, axis=2), alpha=np.roll(still.alpha, 2, axis=2), fps=16.0)
    pair = RgbaClip(rgb=np.stack([still.rgb[0], moved.rgb[0]]), alpha=np.stack([still.alpha[0], moved.alpha[0]]), fps=16.0)
    clip = at_rate(pair, fps=32.0, kind="blend")
    assert clip.alpha.shape[0] == 4
    assert clip.alpha[1, 8, 5] == 128
    assert clip.rgb[clip.alpha > 0][:, 1].max() == 0
    nearest = at_rate(pair, fps=32.0, kind="nearest")
    assert [int(frame[8, 4]) for frame in nearest.alpha] == [255, 255, 0, 0]


def test_a_process_that_dies_is_named():
    results = dict(run_all(die_on_three, [1, 2, 3, 4], num_workers=2))
    assert isinstance(results[2], ProcessDied)
    assert [results[index] for index in (0, 1, 3)] == [1, 4, 16]


def die_on_three(item: int) -> int:
    if item == 3:
        os._exit(9)
    return item * item


def test_links_and_paths_that_leave_the_folder(tmp_path, two):
    (tmp_path / "elsewhere").mkdir()
    (two / "a.webp").rename(tmp_path / "elsewhere" / "a.webp")
    (two / "a.webp").symlink_to(tmp_path / "elsewhere" / "a.webp")
    report = prepare(settings(two, tmp_path / "out"))
    assert [clip.video for clip in report.clips] == ["b"]
    assert "a link to" in report.skipped[0][1]
    assert len(prepare(settings(two, tmp_path / "both", links="follow")).clips) == 2
    (two / "manifest.json").write_text(json.dumps([{"file": "../elsewhere/a.webp"}]))
    skipped = dict(prepare(settings(two, tmp_path / "none")).skipped)
    assert sorted(skipped) == ["a", "manifest.json entry 1"]
    assert "which leaves" in skipped["manifest.json entry 1"]


def test_lengths_without_fix_are_an_error(tmp_path):
    from wan_alpha.media.write import write_pair

    clip = clean_clip(6, side=32, num_frames=5)
    write_pair(clip, tmp_path / "in" / "a")
    write_pair(RgbaClip(rgb=clip.rgb[:3], alpha=clip.alpha[:3], fps=16.0), tmp_path / "short")
    (tmp_path / "short_alpha.mp4").rename(tmp_path / "in" / "a_alpha.mp4")
    with pytest.raises(MediaError, match="3 frames, expected 5"):
        prepare(settings(tmp_path / "in", tmp_path / "out", on_bad_sample="error"))
    fixed = prepare(settings(tmp_path / "in", tmp_path / "out", fix=True))
    assert [(clip.frames, [change[:4] for change in clip.changes]) for clip in fixed.clips] == [(3, ["trim"])]
