"""Clips of variable frame rate: a pause stays a pause in prepared copies, and is said."""

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from wan_alpha.config import DoctorConfig, ExportConfig, PrepareConfig
from wan_alpha.data.conform import at_rate, at_size
from wan_alpha.doctor import doctor
from wan_alpha.export import export
from wan_alpha.findings.repair import repair
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.read import read_pair
from wan_alpha.media.write import write_webp
from wan_alpha.prepare import prepare

TIMES_MS = (0, 33, 66, 100, 1000, 1033, 1066, 1100)
"""A pause of 0.9 s after the fourth frame."""
HELD = [0, 1, 2, *[3] * 27, 4, 5, 6, 7]
"""Which frame is seen at 30 per second."""


@pytest.fixture
def source(tmp_path) -> Path:
    """QuickTime Animation; the alpha of frame i is 10 i, 255 in a corner."""
    folder = tmp_path / "in"
    folder.mkdir()
    with av.open(str(folder / "v.mov"), "w") as container:
        stream = container.add_stream("qtrle", rate=30)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "argb"
        stream.codec_context.time_base = Fraction(1, 1000)
        for index, time in enumerate(TIMES_MS):
            argb = np.full((16, 16, 4), 10 * index, np.uint8)
            argb[:2, :2, 0] = 255
            frame = av.VideoFrame.from_ndarray(argb, format="argb")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return folder


def shown(folder: Path) -> list[int]:
    clip = read_pair(folder / "v_rgb.mp4", folder / "v_alpha.mp4")
    return [int(alpha[-1, -1]) // 10 for alpha in clip.alpha]


@pytest.mark.parametrize(
    ("settings", "frames", "fps", "changes"),
    [
        ({}, HELD, 30, ["variable rate: 8 frames as 34 at 30 frames per second, hold"]),
        ({"rate": "nearest", "fps": 30.0}, HELD, 30, ["variable rate: 8 frames as 34 at 30 frames per second, hold"]),
        ({"variable_rate": "mean"}, list(range(8)), 80 / 11.33, ["variable rate: 8 frames as 8 at 7.05"]),
    ],
)
def test_a_pause_stays_a_pause(source, tmp_path, settings, frames, fps, changes):
    (clip,) = prepare(PrepareConfig(source=source, output_path=tmp_path / "out", **settings)).clips
    assert shown(tmp_path / "out") == frames
    assert clip.fps == pytest.approx(fps, rel=0.01)
    assert len(clip.changes) == len(changes)
    assert all(got.startswith(expected) for got, expected in zip(clip.changes, changes, strict=True))


def test_the_mean_rate_is_that_of_the_frames_not_what_the_header_says(source, tmp_path):
    """Matroska and WebM state the rate of the shortest frames: a clip of 1.1 s kept at it would last 0.27 s."""
    with av.open(str(source / "v.mov")) as movie, av.open(str(source / "v.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=30)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "bgra"
        stream.codec_context.time_base = Fraction(1, 1000)
        for frame in movie.decode(video=0):
            written = frame.reformat(format="bgra")
            written.pts, written.time_base = frame.pts * frame.time_base * 1000, Fraction(1, 1000)
            container.mux(stream.encode(written))
        container.mux(stream.encode())
    with av.open(str(source / "v.mkv")) as container:
        assert container.streams.video[0].average_rate == 30
    (source / "v.mov").unlink()
    (clip,) = prepare(PrepareConfig(source=source, output_path=tmp_path / "out", variable_rate="mean")).clips
    assert clip.fps == pytest.approx(8 / 1.133, rel=0.02)
    assert shown(tmp_path / "out") == list(range(8))


def test_the_sidecar_of_an_export_says_how_the_rate_was_made_constant(source, tmp_path, caplog):
    """And nothing for a clip whose rate was constant."""
    alpha = np.full((3, 16, 16), 128, np.uint8)
    write_webp(RgbaClip(rgb=np.zeros((3, 16, 16, 3), np.uint8), alpha=alpha, fps=16.0), source / "steady.webp")
    held = "variable rate: 8 frames as 34 at 30 frames per second, hold"
    for how, frames, expected in (("hold", 34, held), ("mean", 8, "variable rate: 8 frames as 8 at 7.05")):
        caplog.clear()
        export(ExportConfig(source=source, output_path=tmp_path / how, formats=("webp",), variable_rate=how))
        said = {name: json.loads((tmp_path / how / f"{name}_export.json").read_text()) for name in ("v", "steady")}
        assert said["v"]["frames"] == frames
        (change,) = said["v"]["changes"]
        assert change.startswith(expected)
        assert caplog.text.count(change) == 1
        assert said["steady"]["changes"] == []


def test_resampling_takes_frames_at_their_moments(source, tmp_path):
    prepare(PrepareConfig(source=source, output_path=tmp_path / "out", rate="nearest", fps=10.0))
    assert shown(tmp_path / "out") == [0, *[3] * 9, 4]


def test_doctor_measures_the_spread_and_prepared_copies_are_even(source, tmp_path):
    report = doctor(DoctorConfig(source=source, output_path=tmp_path / "out", fix=True))
    found = {finding.name: finding for finding in report.diagnoses[0].findings}["variable rate"]
    assert (found.severity, found.frame) == ("warning", 3)
    assert found.value == pytest.approx(27, abs=0.5)
    assert "33 to 900 ms" in found.says
    assert report.repaired is not None
    assert "variable rate" not in {finding.name for finding in report.repaired.diagnoses[0].findings}
    assert shown(tmp_path / "out" / "dataset")[3:30] == [3] * 27


def test_pixel_work_keeps_times_and_record():
    """What changes pixels says nothing of time."""
    alpha = np.full((3, 16, 16), 128, np.uint8)
    clip = RgbaClip(rgb=np.zeros((3, 16, 16, 3), np.uint8), alpha=alpha, fps=2.0, times=(0.0, 0.1, 1.0), record="{}")
    for changed in (repair(clip, ["denoise"]), at_size(clip, height=32, width=32, fill="pad")):
        assert (changed.times, changed.record) == (clip.times, "{}")
    even = RgbaClip(rgb=clip.rgb, alpha=alpha, fps=2.0, record="{}")
    assert at_rate(even, fps=4.0, kind="nearest").record == "{}"
