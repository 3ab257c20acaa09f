"""Every export format with all 256 alpha levels, in 8 and 16 bits; hidden colour; conventions."""

import json
from dataclasses import replace

import av
import numpy as np
import pytest
from PIL import Image

from wan_alpha.config import ExportConfig, PreviewConfig
from wan_alpha.console import picture_sequence
from wan_alpha.errors import MediaError, UsageError
from wan_alpha.export import export
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.fill import bleed, fill_hidden
from wan_alpha.media.formats import FORMATS, WriteOptions, ending, write_format
from wan_alpha.media.read import ReadSettings, read_pair, read_rgba
from wan_alpha.media.write import write_png_sequence
from wan_alpha.sheet import preview

PATCHES = np.array(
    [
        *([255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [0, 255, 255], [255, 0, 255]),
        *([255, 255, 255], [128, 128, 128], [16, 16, 16], [200, 120, 40], [40, 120, 200], [90, 200, 90]),
    ],
    np.uint8,
)


def ladder(*, frames: int = 3, height: int = 24, fps: float = 16.0) -> RgbaClip:
    """Alpha 0..255 from left to right over rows of twelve colours; frame t is rolled by 8 t columns."""
    alpha = np.broadcast_to(np.arange(256, dtype=np.uint8), (height, 256))
    rgb = np.broadcast_to(PATCHES.repeat(height // 12, 0)[:, None], (height, 256, 3))
    turned = [np.roll(alpha, 8 * t, axis=1) for t in range(frames)]
    return RgbaClip(rgb=np.stack([rgb] * frames), alpha=np.stack(turned), fps=fps)


def deep_ladder() -> RgbaClip:
    clip = ladder(frames=2)
    alpha = np.linspace(0, 65535, clip.alpha.size).astype(np.uint16).reshape(clip.alpha.shape)
    return RgbaClip(rgb=clip.rgb * np.uint16(257), alpha=alpha, fps=16.0)


@pytest.mark.parametrize("name", FORMATS)
def test_ladder(tmp_path, name):
    """Alpha is exact in every format; colour within 2 levels inside patches, 3 where chroma is halved (their borders smear)."""
    if name == "exr":
        pytest.importorskip("OpenEXR")
    clip = ladder(height=192)
    written = write_format(clip, tmp_path / "a", name=name, options=WriteOptions())
    assert written.alpha_max_error == 0
    if FORMATS[name].colour is None:
        assert written.rgb_max_error == 0
        return
    paths = [ending(tmp_path / "a", text) for text in FORMATS[name].endings]
    back = read_pair(*paths) if name == "pair" else read_rgba(*paths)
    inside = np.abs(back.rgb.astype(int) - clip.rgb)[:, 8::16][back.alpha[:, 8::16] >= 16]
    assert inside.max() <= (3 if name in ("webm", "pair") else 2)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1)])
def test_ffv1_of_a_line_of_pixels(tmp_path, size):
    """Four slices need two pixels each way."""
    clip = RgbaClip(rgb=np.full((2, *size, 3), 7, np.uint8), alpha=np.full((2, *size), 200, np.uint8), fps=16.0)
    assert write_format(clip, tmp_path / "a", name="ffv1", options=WriteOptions()).alpha_max_error == 0


@pytest.mark.parametrize(
    ("name", "bound"), [("png", 0), ("zip", 0), ("apng", 0), ("ffv1", 0), ("prores", 43), ("exr", 17), ("webp", 0), ("webm", 0)]
)
def test_16_bit_mattes(tmp_path, name, bound):
    if name == "exr":
        pytest.importorskip("OpenEXR")
    written = write_format(deep_ladder(), tmp_path / "a", name=name, options=WriteOptions())
    assert written.alpha_max_error <= bound
    assert written.bits == FORMATS[name].bits


@pytest.mark.parametrize("name", ["prores", "webm", "ffv1", "apng", "pair"])
def test_odd_sizes_and_rates(tmp_path, name):
    clip = ladder(frames=5, fps=24000 / 1001)
    odd = RgbaClip(rgb=clip.rgb[:, :23, 100:175], alpha=clip.alpha[:, :23, 100:175], fps=clip.fps)
    assert write_format(odd, tmp_path / "a", name=name, options=WriteOptions()).alpha_max_error == 0


def test_tags_of_the_movies(tmp_path):
    for name in ("prores", "webm"):
        write_format(ladder(), tmp_path / "a", name=name, options=WriteOptions())
    with av.open(str(tmp_path / "a.mov")) as container:
        context = container.streams.video[0].codec_context
        assert (context.codec_tag, context.pix_fmt) == ("ap4h", "yuva444p12le")
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)
        assert container.metadata["wan_alpha_mode"] == "straight"
    with av.open(str(tmp_path / "a.webm")) as container:
        stream = container.streams.video[0]
        assert {k.lower(): v for k, v in stream.metadata.items()}["alpha_mode"] == "1"
        assert (stream.codec_context.colorspace, stream.codec_context.color_range) == (1, 1)


def test_webm_windows_have_their_alpha(tmp_path):
    """Colour and alpha have their key frames together, so that a window is exact."""
    clip = ladder(frames=40)
    write_format(clip, tmp_path / "a", name="webm", options=WriteOptions())
    assert np.array_equal(read_rgba(tmp_path / "a.webm", start=35, count=3).alpha, clip.alpha[35:38])


@pytest.mark.parametrize("name", ["prores", "ffv1", "pair"])
def test_premultiplied_files_say_so_and_come_back_straight(tmp_path, name):
    options = WriteOptions(alpha_mode="premultiplied")
    written = write_format(ladder(), tmp_path / "a", name=name, options=options)
    assert (written.alpha_mode, written.alpha_max_error) == ("premultiplied", 0)
    if name == "ffv1":
        assert written.rgb_max_error == 0, "16 bits hold premultiplied colour"
    if name != "pair":
        raw = read_rgba(ending(tmp_path / "a", FORMATS[name].endings[0]), settings=ReadSettings(alpha_mode="straight"))
        assert raw.rgb[raw.alpha == 0].max() <= 1


def test_export_of_everything_and_its_sidecar(tmp_path):
    write_png_sequence(ladder(), tmp_path / "clip")
    names = ("zip", "webp", "apng", "prores", "webm", "ffv1", "pair", "preview")
    config = ExportConfig(source=tmp_path / "clip", output_path=tmp_path / "out", formats=names, webp_quality=90)
    files = sorted(path.name for path in export(config).files)
    expected = ["clip.apng", "clip.mkv", "clip.mov", "clip.webm", "clip.webp", "clip_alpha.mp4", "clip_png.zip", "clip_preview.mp4"]
    assert files == sorted([*expected, "clip_rgb.mp4"])
    sidecar = json.loads((tmp_path / "out" / "clip_export.json").read_text())
    assert [line["format"] for line in sidecar["written"]] == list(names)
    assert {line.get("alpha_max_error", 0) for line in sidecar["written"]} == {0}
    assert (sidecar["frames"], sidecar["fps"], sidecar["matte_fill"]) == (3, 16.0, "bleed")


def test_16_bit_source_gives_16_bit_frames(tmp_path):
    write_png_sequence(deep_ladder(), tmp_path / "clip")
    export(ExportConfig(source=tmp_path / "clip", output_path=tmp_path / "a", formats=("png",), matte_fill="keep"))
    assert np.array_equal(read_rgba(tmp_path / "a" / "clip", bits=16).rgba(), deep_ladder().rgba())
    export(ExportConfig(source=tmp_path / "clip", output_path=tmp_path / "b", formats=("png",), bits="8"))
    assert (tmp_path / "b" / "clip" / "00000.png").read_bytes()[24] == 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha_mode": "premultiplied"}, r"--alpha_mode: got premultiplied with png webp.*--formats prores ffv1 pair exr"),
        ({"webp_quality": 101}, "--webp_quality: got 101, expected at most 100"),
        ({"preview_background": "#12345"}, "#RRGGBB"),
    ],
)
def test_settings_that_cannot_work(tmp_path, settings, message):
    with pytest.raises(UsageError, match=message):
        export(ExportConfig(source=tmp_path, output_path=tmp_path / "out", **settings))


def test_rates_that_a_format_cannot_state(tmp_path, monkeypatch):
    with pytest.raises(MediaError, match="WebP: got 2000 frames per second, expected at most 1000"):
        write_format(replace(ladder(), fps=2000.0), tmp_path / "a", name="webp", options=WriteOptions())
    monkeypatch.setattr("wan_alpha.media.write.frame_durations_ms", lambda num_frames, *, fps: [0] * num_frames)
    assert write_format(ladder(frames=1), tmp_path / "still", name="webp", options=WriteOptions()).alpha_max_error == 0
    monkeypatch.setattr("wan_alpha.media.formats.read_rgba", lambda path, *, bits, settings: replace(ladder(), fps=settings.fps_if_unknown))
    with pytest.raises(MediaError, match=r"0\.000 frames per second after writing, expected 16"):
        write_format(ladder(), tmp_path / "b", name="apng", options=WriteOptions())


def test_bleeding_continues_edges_and_leaves_visible_pixels():
    clip = ladder(frames=1, height=24)
    y, x = np.mgrid[0:24, 0:256]
    alpha = np.clip(255 - 40 * (np.hypot(x - 128, y - 12) - 6), 0, 255).astype(np.uint8)[None]
    rgb = np.where(alpha[..., None] > 0, np.uint8([200, 120, 40]), np.uint8([0, 0, 255]))
    for top in (1, 257):
        filled = bleed(rgb * clip.alpha.dtype.type(1) if top == 1 else rgb * np.uint16(257), alpha if top == 1 else alpha * np.uint16(257))
        assert np.abs(filled.astype(int) // top - np.array([200, 120, 40])).max() <= 1
    kept = replace(clip, rgb=rgb, alpha=alpha)
    assert fill_hidden(kept, "keep") is kept
    black = fill_hidden(kept, "black").rgb
    assert black[alpha == 0].max() == 0
    assert np.array_equal(black[alpha > 0], rgb[alpha > 0])


def test_scaled_edges_show_no_halo_after_bleeding():
    """Halving straight RGBA mixes hidden colour into the edge: a blue halo without the fill, none with it."""
    y, x = np.mgrid[0:64, 0:64]
    alpha = (np.hypot(x - 32, y - 32) < 20).astype(np.uint8)[None] * np.uint8(255)
    rgb = np.where(alpha[..., None] > 0, np.uint8([200, 120, 40]), np.uint8([0, 0, 255]))

    def worst(colour):
        half = [np.asarray(Image.fromarray(part).resize((31, 31), Image.Resampling.BILINEAR)).astype(int) for part in (colour[0], alpha[0])]
        return np.abs(half[0] - [200, 120, 40])[half[1] > 16].max()

    assert worst(rgb) > 100
    assert worst(bleed(rgb, alpha)) <= 2


# Preview sheets


def test_preview_sheet(tmp_path):
    write_png_sequence(ladder(), tmp_path / "in" / "a")
    write_png_sequence(ladder(frames=1, height=48), tmp_path / "in" / "b")
    result = preview(PreviewConfig(source=tmp_path / "in", output_path=tmp_path / "x.png", max_side=128))
    with Image.open(tmp_path / "x.png") as image:
        assert image.size == (12 * 128 + 11 * 2, 24 * 2 + 2)
    assert result.summary() == [f"{tmp_path / 'x.png'}: a, b"]
    with pytest.raises(UsageError, match=r"\.png"):
        preview(PreviewConfig(source=tmp_path / "in", output_path=tmp_path / "x.jpg"))


def test_pictures_on_terminals():
    png = bytes(4000)
    kitty = picture_sequence(png, {"TERM": "xterm-kitty"})
    assert kitty.startswith("\x1b_Ga=T,f=100,m=1;")
    assert kitty.count("\x1b_G") == 2
    assert kitty.endswith("\x1b\\")
    assert "m=0;" in kitty
    assert picture_sequence(png, {"TERM_PROGRAM": "iTerm.app"}).startswith("\x1b]1337;File=inline=1;size=4000:")
    assert picture_sequence(png, {"TERM": "xterm-256color"}) == ""
