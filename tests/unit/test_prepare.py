"""prepare: sources of every layout become checked pairs, a table and a report; failures leave nothing."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wan_alpha.config import PrepareConfig
from wan_alpha.data.manifest import read_manifest
from wan_alpha.errors import DatasetError, MediaError, UsageError
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.read import read_pair
from wan_alpha.media.write import write_pair, write_png_sequence, write_webp
from wan_alpha.prepare import prepare


def noise(frames: int = 3, height: int = 16, width: int = 16) -> RgbaClip:
    rng = np.random.default_rng(frames)
    alpha = rng.integers(0, 256, (frames, height, width), dtype=np.uint8)
    return RgbaClip(rgb=rng.integers(0, 256, (frames, height, width, 3), dtype=np.uint8), alpha=alpha, fps=12.0)


def pair(stem: Path, rgb_name: str, alpha_name: str, clip: RgbaClip | None = None) -> None:
    stem.parent.mkdir(parents=True, exist_ok=True)
    rgb, alpha = write_pair(clip or noise(), stem)
    rgb.rename(stem.parent / rgb_name)
    alpha.rename(stem.parent / alpha_name)


def run(tmp_path: Path, **settings: object):
    return prepare(PrepareConfig(**{"source": tmp_path / "in", "output_path": tmp_path / "out", **settings}))


def rows(folder: Path) -> list[list[str]]:
    return list(csv.reader((folder / "metadata.csv").read_text(encoding="utf-8").splitlines()))


@pytest.fixture
def mixed(tmp_path):
    """One clip of each layout, with captions of each kind."""
    source = tmp_path / "in"
    pair(source / "001", "001.mp4", "001_seg.mp4")
    (source / "001.txt").write_text("a red ball,\n  spinning\n")
    pair(source / "b", "b_fgr.mp4", "b_pha.mp4")
    pair(source / "c", "c_rgb.mp4", "c_alpha.mp4", noise(height=15, width=17))
    pair(source / "d", "d.mp4", "d_matte.mp4")
    pair(source / "more" / "e", "e.mp4", "e_mask.mp4")
    write_webp(noise(6), source / "blue_star-10.webp")
    write_png_sequence(noise(4), source / "frames")
    write_webp(noise(5), source / "blue_star-9.webp")
    (source / "frames.txt").write_text("")
    return source


def test_every_layout(tmp_path, mixed):
    report = run(tmp_path, fps=20.0)
    out = tmp_path / "out"
    assert rows(out) == [
        ["video", "prompt"],
        ["001", "a red ball, spinning"],
        ["b", "b"],
        ["blue_star-9", "blue star 9"],
        ["blue_star-10", "blue star 10"],
        ["c", "c"],
        ["d", "d"],
        ["e", "e"],
        ["frames", ""],
    ]
    frames = {clip.video: (clip.frames, clip.height, clip.width, clip.fps) for clip in report.clips}
    assert frames["blue_star-10"] == (6, 16, 16, 12.0)
    assert frames["c"] == (3, 15, 17, 12.0)
    assert frames["frames"] == (4, 16, 16, 20.0)
    assert all(clip.alpha_max_error == 0 for clip in report.clips)
    written = read_pair(out / "frames_rgb.mp4", out / "frames_alpha.mp4")
    assert np.array_equal(written.alpha, noise(4).alpha)
    assert np.array_equal(read_pair(out / "c_rgb.mp4", out / "c_alpha.mp4").alpha, noise(height=15, width=17).alpha)
    assert [entry.name for entry in read_manifest(out)] == [row[0] for row in rows(out)[1:]]
    assert len(list(out.iterdir())) == 2 * 8 + 5  # and metadata.csv, metadata.jsonl, report.json, run.json, dataset_sheet.png
    stored = json.loads((out / "report.json").read_text())
    assert len(stored["clips"][0]["sha256"]) == 64
    assert stored["skipped"] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_folders_of_mattes(tmp_path):
    pair(tmp_path / "in" / "x", "fgr.mp4", "pha.mp4")
    for name in ("fgr", "pha"):
        (tmp_path / "in" / name).mkdir()
        (tmp_path / "in" / f"{name}.mp4").rename(tmp_path / "in" / name / "7.mp4")
    assert [clip.video for clip in run(tmp_path).clips] == ["7"]


def test_a_folder_of_frames_is_one_clip(tmp_path):
    write_png_sequence(noise(4), tmp_path / "in")
    report = run(tmp_path)
    assert [(clip.video, clip.frames, clip.fps) for clip in report.clips] == [("in", 4, 16.0)]


def test_synthetic(tmp_path):
    settings = {"source": None, "synthetic": 2, "height": 32, "width": 48, "num_frames": 5, "seed": 7}
    report = run(tmp_path, **settings)
    assert [clip.video for clip in report.clips] == ["synthetic_0000", "synthetic_0001"]
    assert all((clip.frames, clip.height, clip.width) == (5, 32, 48) for clip in report.clips)
    assert all("background is transparent" in clip.prompt for clip in report.clips)
    again = run(tmp_path, **settings, output_path=tmp_path / "again")
    assert [clip.sha256 for clip in again.clips] == [clip.sha256 for clip in report.clips]


def test_a_folder_that_cannot_be_written_is_told_before_the_work(tmp_path, monkeypatch):
    """Root may write anywhere, so what the system says is put in its place."""
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != out)
    with pytest.raises(UsageError, match="out, where you may not write, expected another folder"):
        run(tmp_path, source=None, synthetic=1, height=16, width=16)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_again_into_the_same_folder(tmp_path):
    write_webp(noise(3), tmp_path / "in" / "a.webp")
    run(tmp_path)
    (tmp_path / "out" / "run.json").write_text("{}")
    write_webp(noise(4), tmp_path / "in" / "a.webp")
    assert run(tmp_path).clips[0].frames == 4
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "a_alpha.mp4",
        "a_rgb.mp4",
        "dataset_sheet.png",
        "metadata.csv",
        "metadata.jsonl",
        "report.json",
        "run.json",
    ]


def test_an_older_set_in_the_same_folder_goes_and_nothing_else(tmp_path, caplog):
    for name in ("a", "b", "c"):
        write_webp(noise(3), tmp_path / "in" / f"{name}.webp")
    run(tmp_path)
    out = tmp_path / "out"
    for name in ("mine_rgb.mp4", "mine_alpha.mp4", "notes.txt"):
        (out / name).write_text("mine")
    (tmp_path / "in" / "b.webp").rename(tmp_path / "in" / "d.webp")
    (tmp_path / "in" / "c.webp").write_bytes(b"broken")
    with pytest.raises(MediaError):
        run(tmp_path)
    assert (out / "b_rgb.mp4").is_file(), "a run that fails takes nothing"
    (tmp_path / "in" / "c.webp").unlink()
    run(tmp_path)
    assert sorted(path.name for path in out.glob("*.mp4")) == [f"{name}_{half}.mp4" for name in "ad" for half in ("alpha", "rgb")] + [
        "mine_alpha.mp4",
        "mine_rgb.mp4",
    ]
    assert (out / "notes.txt").is_file()
    assert "out: 4 files of an older set of clips are removed, such as b_rgb.mp4" in caplog.text


@pytest.mark.parametrize("report", ["[1]", "{", '{"clips": 5}', '{"clips": [1, {"video": "../in/x"}, {"video": 7}, {"video": ""}]}'])
def test_another_programs_report_takes_nothing(tmp_path, report):
    write_webp(noise(3), tmp_path / "in" / "a.webp")
    pair(tmp_path / "in" / "x", "x_rgb.mp4", "x_alpha.mp4")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.json").write_text(report)
    assert [clip.video for clip in run(tmp_path).clips] == ["a", "x"]
    assert (tmp_path / "in" / "x_rgb.mp4").is_file()


def test_a_source_is_never_replaced_by_its_copy(tmp_path):
    pair(tmp_path / "in" / "x", "x_rgb.mp4", "x_alpha.mp4")
    with pytest.raises(UsageError, match=r"x_rgb\.mp4 would be replaced, expected another folder"):
        run(tmp_path, source=tmp_path / "in" / "x_rgb.mp4", output_path=tmp_path / "in")


def test_output_inside_the_source_is_not_a_source(tmp_path):
    write_webp(noise(3), tmp_path / "in" / "a.webp")
    for _ in range(2):
        assert [clip.video for clip in run(tmp_path, output_path=tmp_path / "in" / "out").clips] == ["a"]


def test_splits(tmp_path):
    entries = []
    for name, split in (("a", "train"), ("b", "validation")):
        write_webp(noise(3), tmp_path / "in" / f"{name}.webp")
        entries.append({"file": f"{name}.webp", "caption": f"a clip named {name}", "frames": 3, "split": split})
    (tmp_path / "in" / "manifest.json").write_text(json.dumps(entries))
    assert [clip.prompt for clip in run(tmp_path, split="validation").clips] == ["a clip named b"]
    assert [clip.video for clip in run(tmp_path).clips] == ["a", "b"]
    with pytest.raises(DatasetError, match="did you mean 'train'"):
        run(tmp_path, split="trian")
    entries[0]["frames"] = 5
    (tmp_path / "in" / "manifest.json").write_text(json.dumps(entries))
    with pytest.raises(MediaError, match=r"a\.webp: got 3 frames, expected 5 \(manifest\.json\)"):
        run(tmp_path)
    entries[0]["file"] = "gone.webp"
    (tmp_path / "in" / "manifest.json").write_text(json.dumps(entries))
    with pytest.raises(DatasetError, match=r"gone\.webp"):
        run(tmp_path)


def test_real_clips(tmp_path, shared_clips):
    (tmp_path / "in").mkdir()
    for name in ("effect_piercer_explosion.webp", "effect_ionic_afterburner.webp"):
        (tmp_path / "in" / name).symlink_to(shared_clips / name)
    entries = [entry for entry in json.loads((shared_clips / "manifest.json").read_text()) if (tmp_path / "in" / entry["file"]).exists()]
    (tmp_path / "in" / "manifest.json").write_text(json.dumps(entries))
    with pytest.raises(DatasetError, match="a link to"):
        run(tmp_path)
    report = run(tmp_path, links="follow")
    assert [(clip.video, clip.frames) for clip in report.clips] == [("effect_ionic_afterburner", 6), ("effect_piercer_explosion", 10)]
    assert all(clip.alpha_max_error == 0 for clip in report.clips)


# Bad input: one line, and the place is left as it was.


def clean(tmp_path: Path) -> bool:
    return sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_missing_matte_and_missing_colour(tmp_path):
    pair(tmp_path / "in" / "a", "a.mp4", "a_seg.mp4")
    pair(tmp_path / "in" / "b", "b.mp4", "b_seg.mp4")
    (tmp_path / "in" / "b_seg.mp4").unlink()
    with pytest.raises(DatasetError, match=r"b\.mp4: got half a pair, expected b_alpha\.mp4 or b_seg\.mp4"):
        run(tmp_path)
    assert clean(tmp_path)
    report = run(tmp_path, on_bad_sample="skip")
    assert [clip.video for clip in report.clips] == ["a"]
    assert report.skipped[0][0] == "b"
    (tmp_path / "in" / "a.mp4").rename(tmp_path / "in" / "c.mp4")
    with pytest.raises(DatasetError, match=r"a_seg\.mp4: got half a pair, expected a_rgb\.mp4"):
        run(tmp_path)


def test_broken_clips_leave_nothing(tmp_path):
    write_webp(noise(6), tmp_path / "in" / "a.webp")
    write_webp(noise(6), tmp_path / "in" / "b.webp")
    path = tmp_path / "in" / "b.webp"
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(MediaError, match=r"b\.webp"):
        run(tmp_path, output_path=tmp_path / "new" / "deep" / "out")
    assert clean(tmp_path)


def test_ctrl_c_leaves_nothing(tmp_path, monkeypatch):
    for name in ("a", "b"):
        write_webp(noise(), tmp_path / "in" / f"{name}.webp")

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("wan_alpha.prepare.verify_pair", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert clean(tmp_path)


def test_lengths_and_sizes(tmp_path):
    pair(tmp_path / "in" / "a", "a.mp4", "other.mp4")
    pair(tmp_path / "in" / "b", "gone.mp4", "a_seg.mp4", noise(4))
    for name in ("other.mp4", "gone.mp4"):
        (tmp_path / "in" / name).unlink()
    with pytest.raises(MediaError, match=r"a_seg\.mp4: got 4 frames, expected 3"):
        run(tmp_path)
    pair(tmp_path / "in" / "b", "gone.mp4", "a_seg.mp4", noise(3, height=32))
    (tmp_path / "in" / "gone.mp4").unlink()
    with pytest.raises(MediaError, match=r"a_seg\.mp4: got 16x32, expected 16x16"):
        run(tmp_path)
    assert clean(tmp_path)


def test_clips_of_one_name(tmp_path):
    write_webp(noise(), tmp_path / "in" / "a.webp")
    write_webp(noise(4), tmp_path / "in" / "sub" / "A.webp")
    assert [(clip.video, clip.frames) for clip in run(tmp_path).clips] == [("a", 3), ("sub_A", 4)]
    pair(tmp_path / "in2" / "x", "x.mp4", "x_seg.mp4")
    pair(tmp_path / "in2" / "y", "y.mp4", "x_alpha.mp4")
    with pytest.raises(DatasetError, match=r"x\.mp4: got 2 mattes \(x_alpha, x_seg\)"):
        run(tmp_path, source=tmp_path / "in2")
    (tmp_path / "in2" / "y.mp4").unlink()
    write_webp(noise(), tmp_path / "in2" / "z.webp")
    assert [clip.video for clip in run(tmp_path, source=tmp_path / "in2", on_bad_sample="skip").clips] == ["z"]


def test_empty_and_unusable_sources(tmp_path):
    with pytest.raises(DatasetError, match="no such file or folder"):
        run(tmp_path)
    (tmp_path / "in").mkdir()
    with pytest.raises(DatasetError, match="an empty folder"):
        run(tmp_path)
    (tmp_path / "in" / "notes.psd").touch()
    with pytest.raises(DatasetError, match=r"files of \.psd only"):
        run(tmp_path)
    Image.new("RGB", (16, 16)).save(tmp_path / "in" / "0.png")
    with pytest.raises(MediaError, match="no alpha channel"):
        run(tmp_path)
    assert clean(tmp_path)


def test_settings_that_cannot_work(tmp_path):
    write_webp(noise(), tmp_path / "in" / "a.webp")
    for settings in (
        {"source": None},
        {"source": None, "synthetic": -1},
        {"source": None, "synthetic": 1, "num_frames": 6},
        {"output_path": tmp_path / "in"},
    ):
        with pytest.raises(UsageError):
            run(tmp_path, **settings)
    (tmp_path / "in" / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match=r"a\.txt.*UTF-8"):
        run(tmp_path)
    assert clean(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"rate": "blend", "fps": 10_000.0, "resize": "keep"},
            "got 2500 frames of 4096x16, expected at most .* GiB.*; use a lower --fps",
        ),
        ({"resize": "crop"}, "got 3 frames of 2097152x8192, expected sides of 1 to 16384 pixels; use a smaller --height and --width"),
        ({"resize": "pad", "height": 512, "width": 512}, "out of memory .*more than there is.*; use a smaller --height and --width"),
    ],
)
def test_copies_too_large_for_any_machine(tmp_path, monkeypatch, settings, message):
    """Small sources, large copies: the clip is named, as for other faults."""
    monkeypatch.setattr("wan_alpha.media.clip.MAX_BYTES", 2**28)
    write_webp(noise(width=4096), tmp_path / "in" / "wide.webp")

    def resize(*arrays: object, **size: int) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate more than there is")

    monkeypatch.setattr("wan_alpha.data.clips.resize", resize)
    with pytest.raises(MediaError, match=f"wide.*{message}"):
        run(tmp_path, **{"height": 8192, "width": 8192, **settings})
    assert clean(tmp_path)


def test_procedural_clips_beside_a_source(tmp_path):
    write_webp(noise(), tmp_path / "in" / "a.webp")
    report = run(tmp_path, synthetic=2, num_frames=5, height=32, width=32)
    assert [clip.video for clip in report.clips] == ["a", "synthetic_0000", "synthetic_0001"]
    assert "3 clips" in report.summary()[0]
