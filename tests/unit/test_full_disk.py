"""Writers when the disk is full, or something else is in the way: one line, nothing half-written, and what was there before stays."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from full_disk import full_after
from wan_alpha.config import ExportConfig, PrepareConfig, PreviewConfig
from wan_alpha.errors import DiskFull, MediaError
from wan_alpha.export import export
from wan_alpha.media.atomic import beside
from wan_alpha.media.clip import RgbaClip, media_errors
from wan_alpha.media.formats import FORMATS, WriteOptions, ending, write_format
from wan_alpha.media.write import write_png_sequence, write_preview_mp4
from wan_alpha.prepare import prepare
from wan_alpha.sheet import preview


def noise(*, seed: int = 0, side: int = 48) -> RgbaClip:
    levels = np.random.default_rng(seed).integers(0, 256, (3, side, side, 4), dtype=np.uint8)
    return RgbaClip(rgb=levels[..., :3], alpha=levels[..., 3], fps=16.0, record='{"prompt": "a star", "seed": 1}')


def write(clip: RgbaClip, stem: Path, *, name: str) -> None:
    if name == "exr":
        pytest.importorskip("OpenEXR")
    if name == "preview":
        write_preview_mp4(clip.with_bits(8).rgb, ending(stem, "_preview.mp4"), fps=16.0)
    else:
        write_format(clip, stem, name=name, options=WriteOptions())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("name", [*FORMATS, "preview"])
def test_whichever_byte_a_full_disk_refuses(tmp_path, name, bits):
    """The first, one in the middle, those of an index at the end, the last: of the largest file that there is to write."""
    clip = noise().with_bits(bits)
    write(clip, tmp_path / "first" / "a", name=name)
    size = max(len(data) for data in contents(tmp_path / "first").values())
    write(noise(seed=1), tmp_path / "old" / "a", name=name)
    before = contents(tmp_path / "old")
    for limit in (0, size // 2, size - 300, size - 1):
        for folder in ("new", "old"):
            with full_after(limit), pytest.raises(MediaError, match="a") as error:
                write(clip, tmp_path / folder / "a", name=name)
            assert "\n" not in str(error.value)
    assert contents(tmp_path / "old") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "old"]


def test_an_export_that_does_not_fit_changes_nothing(tmp_path):
    """The last of its files is refused: the others, which fitted, do not appear either."""
    write_png_sequence(noise(), tmp_path / "clip")
    config = ExportConfig(source=tmp_path / "clip", output_path=tmp_path / "out", formats=("pair", "zip"))
    export(config)
    before = contents(tmp_path / "out")
    largest = len(before["clip_png.zip"])
    assert largest > 1000 + max(len(before[f"clip_{half}.mp4"]) for half in ("rgb", "alpha"))
    write_png_sequence(noise(seed=1), tmp_path / "clip")
    with full_after(largest - 1000), pytest.raises(MediaError, match=r"clip_png\.zip"):
        export(config)
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("says", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), RuntimeError(f"a codec: {os.strerror(errno.ENOSPC)}.")])
def test_a_full_disk_is_no_clips_fault(tmp_path, monkeypatch, says):
    """With --on_bad_sample skip the clips that happened to fit passed for the whole set, after all the others had been tried."""
    for name in ("a", "b", "c"):
        write_png_sequence(noise(), tmp_path / "in" / name)
    tried = []

    def write(_clip, stem, *_more, **_settings):
        tried.append(Path(stem).name)
        with media_errors(stem, doing="write"):
            raise says

    monkeypatch.setattr("wan_alpha.prepare.write_pair", write)
    monkeypatch.setattr("wan_alpha.export.write_format", write)
    out = tmp_path / "out"
    with pytest.raises(DiskFull, match=os.strerror(errno.ENOSPC)):
        prepare(PrepareConfig(source=tmp_path / "in", output_path=out, on_bad_sample="skip"))
    with pytest.raises(DiskFull, match="check the folder and the free space"):
        export(ExportConfig(source=tmp_path / "in", output_path=out, on_bad_sample="skip", formats=("webp",)))
    assert tried == ["a", "a"]
    assert not out.exists()


def refused(path: Path) -> None:
    with beside(path) as partial:
        partial.touch()
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_report_that_does_not_fit_is_named(tmp_path):
    """Python's own error for a full disk names no file."""
    with pytest.raises(DiskFull, match=r"report\.json: got No space left on device"):
        refused(tmp_path / "sub" / "report.json")
    assert not [*tmp_path.iterdir()]


def test_a_disk_too_full_for_the_sheet_keeps_the_clips_and_the_record(tmp_path, caplog):
    write_png_sequence(noise(), tmp_path / "clip")
    with full_after(24576):
        export(ExportConfig(source=tmp_path / "clip", output_path=tmp_path / "out", formats=("webp",), webp_quality=0))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["clip.webp", "clip_export.json", "run.json"]
    assert [record.message for record in caplog.records if "no contact sheet" in record.message and "export_sheet.png" in record.message]


# What else is in the way


@pytest.mark.parametrize("name", ["webp", "zip", "prores", "webm", "png", "preview"])
def test_a_pipe_is_not_replaced(tmp_path, name):
    """Who reads from it would wait for ever."""
    write(noise(), tmp_path / "once" / "a", name=name)
    (place,) = (tmp_path / "once").iterdir()
    pipe = tmp_path / place.name
    os.mkfifo(pipe)
    with pytest.raises(MediaError, match=r"got a (pipe or a device|file)"):
        write(noise(), tmp_path / "a", name=name)
    assert pipe.is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["once", pipe.name])


def test_commands_replace_no_pipe_and_no_folder(tmp_path):
    write_png_sequence(noise(), tmp_path / "clip")
    os.mkfifo(tmp_path / "sheet.png")
    with pytest.raises(MediaError, match=r"sheet\.png: got a pipe or a device"):
        preview(PreviewConfig(source=tmp_path / "clip", output_path=tmp_path / "sheet.png"))
    (tmp_path / "out" / "clip.webp").mkdir(parents=True)
    (tmp_path / "out" / "clip.webp" / "mine.txt").write_text("kept")
    with pytest.raises(MediaError, match=r"clip\.webp: got a folder, expected nothing, or what may be replaced"):
        export(ExportConfig(source=tmp_path / "clip", output_path=tmp_path / "out", formats=("png", "webp")))
    assert contents(tmp_path / "out") == {"clip.webp/mine.txt": b"kept"}


def test_a_file_is_no_place_for_a_folder_and_a_link_to_nothing_is_one(tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(MediaError, match="got a file"), beside(tmp_path / "file") as partial:
        partial.mkdir()
    assert (tmp_path / "file").read_text() == "kept"
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with beside(tmp_path / "link") as partial:
        partial.write_text("new")
    assert (tmp_path / "link").read_text() == "new"
    assert not (tmp_path / "nowhere").exists()
