"""The rate of frames in folders and zips: what the record beside them states; an assumed one is told."""

import json
from importlib.util import find_spec

import numpy as np
import pytest

from wan_alpha.config import DoctorConfig, ExportConfig, PrepareConfig
from wan_alpha.doctor import doctor
from wan_alpha.errors import UsageError
from wan_alpha.export import export
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.movies import write_ffv1
from wan_alpha.media.read import ReadSettings, read_rgba, stated_rate
from wan_alpha.media.write import write_png_sequence
from wan_alpha.prepare import prepare

SERIES = {"png": "a", "zip": "a_png.zip", "exr": "a_exr"}


def clip(frames: int = 8, fps: float = 24.0) -> RgbaClip:
    y, x = np.mgrid[:16, :16]
    alpha = np.stack([np.clip(6 - np.hypot(x - 4 - t, y - 8), 0, 1) * 255 for t in range(frames)]).astype(np.uint8)
    return RgbaClip(rgb=np.full((frames, 16, 16, 3), 90, np.uint8), alpha=alpha, fps=fps)


@pytest.mark.parametrize("name", SERIES)
def test_exported_frames_keep_their_rate(tmp_path, caplog, name):
    if name == "exr" and not find_spec("OpenEXR"):
        pytest.skip("no OpenEXR")
    write_ffv1(clip(), tmp_path / "a.mkv", alpha_mode="straight")
    export(ExportConfig(source=tmp_path / "a.mkv", output_path=tmp_path / "out", formats=(name,)))
    frames = tmp_path / "out" / SERIES[name]
    assert (stated_rate(frames), read_rgba(frames).fps) == (24.0, 24.0)
    export(ExportConfig(source=frames, output_path=tmp_path / "movie", formats=("ffv1",)))
    (movie,) = (tmp_path / "movie").glob("*.mkv")
    assert read_rgba(movie).fps == 24
    assert "assumed" not in caplog.text


def test_export_tells_an_assumed_rate(tmp_path, caplog):
    write_png_sequence(clip(), tmp_path / "a")
    for fps, told in ((None, True), (16.0, False), (25.0, False)):
        caplog.clear()
        export(ExportConfig(source=tmp_path / "a", output_path=tmp_path / f"out_{fps}", formats=("ffv1",), fps=fps))
        sidecar = json.loads((tmp_path / f"out_{fps}" / "a_export.json").read_text())
        assert (sidecar["fps"], bool(sidecar["changes"])) == (fps or 16, told)
        assert ("no rate stated, 16 frames per second assumed; --fps names it" in caplog.text) == told
    caplog.clear()
    write_png_sequence(clip(frames=1), tmp_path / "still")
    export(ExportConfig(source=tmp_path / "still", output_path=tmp_path / "one", formats=("png",)))
    assert "assumed" not in caplog.text, "one picture has no rate"


def test_generated_frames_have_the_rate_of_their_record(tmp_path):
    write_png_sequence(clip(), tmp_path / "000_a")
    (tmp_path / "000_a.json").write_text(json.dumps({"prompt": "A disc.", "seed": 1, "fps": 30.0}))
    assert read_rgba(tmp_path / "000_a").fps == 30
    (tmp_path / "000_a.json").write_text(json.dumps({"caption": "A disc.", "fps": 30.0}))
    assert stated_rate(tmp_path / "000_a") is None


WRITTEN = '"written": [{"files": ["a"]}]'
STRANGE = {
    "broken": b'{"fps": 24',
    "a list": b"[24]",
    "deep": b"[" * 100_000,
    "not text": b"\xff\xfe\x00",
    "too long": b'{"fps": 24, ' + WRITTEN.encode() + b"}" + b" " * (1 << 20),
    "of other files": b'{"fps": 24, "written": [{"files": ["b"]}, 7, {"files": "a"}, {}]}',
    "lists nothing": b'{"fps": 24, "written": {"files": ["a"]}}',
    "a link to nothing": None,
}


@pytest.mark.parametrize("kind", STRANGE)
def test_strange_records_are_left_alone(tmp_path, kind):
    write_png_sequence(clip(), tmp_path / "a")
    if STRANGE[kind] is None:
        (tmp_path / "a_export.json").symlink_to(tmp_path / "none")
    else:
        (tmp_path / "a_export.json").write_bytes(STRANGE[kind])
    assert stated_rate(tmp_path / "a") is None
    assert read_rgba(tmp_path / "a", settings=ReadSettings(fps_if_unknown=12.0)).fps == 12


@pytest.mark.parametrize("fps", ["0", "-24", "true", '"24"', "null", "NaN", "Infinity", "1e9", "1" + "0" * 400, "[24]"])
def test_rates_that_are_none_are_told_and_left_alone(tmp_path, caplog, fps):
    write_png_sequence(clip(), tmp_path / "a")
    (tmp_path / "a_export.json").write_text(f'{{"fps": {fps}, {WRITTEN}}}')
    assert stated_rate(tmp_path / "a") is None
    assert "a_export.json: its fps is no number from 0.01 to 10000" in caplog.text


def set_of(tmp_path, name, **settings):
    return prepare(PrepareConfig(source=tmp_path / "in", output_path=tmp_path / name, rate="nearest", fps=12.0, **settings))


def test_prepare_resamples_frames_from_their_own_rate(tmp_path):
    """--fps is the rate of the result, --source_fps that of frames which state none."""
    write_png_sequence(clip(), tmp_path / "in" / "a")
    told, assumed = set_of(tmp_path, "told", source_fps=24.0), set_of(tmp_path, "assumed")
    assert [(report.clips[0].frames, report.clips[0].fps) for report in (told, assumed)] == [(4, 12.0), (8, 12.0)]
    found = [[f for f in report.diagnoses[0].findings if f.name == "assumed rate"] for report in (told, assumed)]
    assert found[0] == []
    assert [(f.severity, f.value, "taken for 12 a second" in f.says, f.do) for f in found[1]] == [
        ("note", 12.0, True, "--source_fps names theirs")
    ]
    (tmp_path / "in" / "a_export.json").write_text(f'{{"fps": 24, {WRITTEN}}}')
    stated = set_of(tmp_path, "stated", source_fps=48.0)
    assert (stated.clips[0].frames, [f for f in stated.diagnoses[0].findings if f.name == "assumed rate"]) == (4, [])


def test_doctor_notes_an_assumed_rate_of_clips_not_of_pictures(tmp_path):
    for name, frames in (("a", 8), ("b", 1)):
        write_png_sequence(clip(frames=frames), tmp_path / "in" / name)
    report = doctor(DoctorConfig(source=tmp_path / "in", output_path=tmp_path / "out"))
    assert ["assumed rate" in [f.name for f in one.findings] for one in report.diagnoses] == [True, False]


def test_a_run_that_goes_on_sees_another_rate(tmp_path, monkeypatch):
    write_png_sequence(clip(), tmp_path / "in" / "a")
    write_png_sequence(clip(), tmp_path / "in" / "b")

    def stopped(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr("wan_alpha.prepare.write_tables", stopped)
        with pytest.raises(KeyboardInterrupt):
            set_of(tmp_path, "set", on_stop="keep")
    (tmp_path / "in" / "a_export.json").write_text(f'{{"fps": 24, {WRITTEN}}}')
    assert [one.frames for one in set_of(tmp_path, "set").clips] == [4, 8]


def test_bounds_of_the_setting():
    with pytest.raises(UsageError, match="--source_fps"):
        PrepareConfig(source_fps=0.0)
