"""Sheets of clips in files: preview by file and by folder, and the sheets that prepare and export leave beside their reports."""

import zipfile

import numpy as np
import pytest
from PIL import Image

from wan_alpha.config import ExportConfig, PrepareConfig, PreviewConfig
from wan_alpha.errors import MediaError, WanAlphaError
from wan_alpha.export import export
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.find import find_clips
from wan_alpha.media.write import write_pair, write_webp
from wan_alpha.prepare import prepare
from wan_alpha.sheet import Preview, preview


def noise(frames: int = 3) -> RgbaClip:
    levels = np.random.default_rng(frames).integers(0, 256, (frames, 16, 24, 4), dtype=np.uint8)
    return RgbaClip(rgb=levels[..., :3], alpha=levels[..., 3], fps=16.0)


def drawn(tmp_path, source) -> Preview:
    return preview(PreviewConfig(source=source, output_path=tmp_path / "sheet" / "x.png"))


def test_a_zip_without_pictures(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(MediaError, match=r"a\.zip: got no pictures, expected frames as \.png"):
        drawn(tmp_path, tmp_path / "a.zip")


@pytest.mark.parametrize("half", ["c_rgb.mp4", "c_alpha.mp4"])
def test_half_of_a_whole_pair_is_the_pair(tmp_path, half):
    """Beside RGBA files of the same name too, which stay clips of their own: all of them are what export writes into one folder."""
    write_pair(noise(), tmp_path / "c")
    write_webp(noise(4), tmp_path / "c.webp")
    write_webp(noise(5), tmp_path / "c.png.webp")
    write_webp(noise(4), tmp_path / "c.webm.webp")
    (found,) = find_clips(tmp_path / half)
    assert (found.name, found.rgb, found.alpha) == ("c", tmp_path / "c_rgb.mp4", tmp_path / "c_alpha.mp4")
    assert drawn(tmp_path, tmp_path / half).rows == ("c",)
    written = export(ExportConfig(source=tmp_path / half, output_path=tmp_path / "out", formats=("webp",))).files
    assert [path.name for path in written] == ["c.webp"]
    assert find_clips(tmp_path / "c.webp")[0].rgba == tmp_path / "c.webp"


def test_a_matte_of_another_ending_beside_a_plain_name(tmp_path):
    write_pair(noise(), tmp_path / "c")
    (tmp_path / "c_rgb.mp4").rename(tmp_path / "c.mp4")
    (tmp_path / "c_alpha.mp4").rename(tmp_path / "c_seg.mp4")
    for name in ("c.mp4", "c_seg.mp4"):
        (found,) = find_clips(tmp_path / name)
        assert (found.rgb, found.alpha) == (tmp_path / "c.mp4", tmp_path / "c_seg.mp4")


def test_one_bad_clip_is_named_and_the_rest_drawn(tmp_path):
    write_webp(noise(), tmp_path / "in" / "a.webp")
    write_webp(noise(4), tmp_path / "in" / "c.webp")
    (tmp_path / "in" / "b.webp").write_bytes((tmp_path / "in" / "a.webp").read_bytes()[:300])
    result = drawn(tmp_path, tmp_path / "in")
    assert result.rows == ("a", "c")
    assert len(result.problems) == 1
    assert f"not drawn: {tmp_path / 'in' / 'b.webp'}: got" in result.summary()[1]
    with Image.open(tmp_path / "sheet" / "x.png") as image:
        assert image.size == (12 * 24 + 11 * 2, 2 * 16 + 2)
    with pytest.raises(WanAlphaError, match=r"b\.webp"):
        drawn(tmp_path, tmp_path / "in" / "b.webp")


def test_prepare_and_export_leave_a_sheet_that_is_no_clip(tmp_path):
    write_webp(noise(), tmp_path / "in" / "a.webp")
    write_webp(noise(4), tmp_path / "in" / "b.webp")
    prepare(PrepareConfig(source=tmp_path / "in", output_path=tmp_path / "set"))
    export(ExportConfig(source=tmp_path / "in", output_path=tmp_path / "out", formats=("webp", "preview")))
    drawn(tmp_path, tmp_path / "in")
    sheets = [np.asarray(Image.open(path)) for path in (tmp_path / "out" / "export_sheet.png", tmp_path / "sheet" / "x.png")]
    assert np.array_equal(*sheets)
    alphas = [sheet[:, -3 * 26 :] for sheet in (sheets[1], np.asarray(Image.open(tmp_path / "set" / "dataset_sheet.png")))]
    assert np.array_equal(*alphas)
    assert [clip.name for clip in find_clips(tmp_path / "set")] == ["a", "b"]
    assert [clip.name for clip in find_clips(tmp_path / "out")] == ["a", "b"]
