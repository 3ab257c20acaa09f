"""Windows, depth, rotation, time and convention: what a reader must find out before its pixels can be trusted."""

import itertools
import zipfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from wan_alpha.errors import MediaError
from wan_alpha.media import colour, exr, yuv
from wan_alpha.media.alpha_mode import evidence, premultiplied, unpremultiplied
from wan_alpha.media.clip import RgbaClip, change_bits
from wan_alpha.media.find import find_clips
from wan_alpha.media.read import ReadSettings, count_frames, read_pair, read_rgba
from wan_alpha.media.timeline import constant_rate, timeline
from wan_alpha.media.transfer import linear_to_srgb, srgb_to_linear
from wan_alpha.media.webp import cut_webp
from wan_alpha.media.write import webp_bytes, write_png_sequence


def numbered(frames: int, *, height: int = 16, width: int = 32) -> list[np.ndarray]:
    """Grey frames whose level is their number."""
    return [np.full((height, width), 16 + 4 * t, np.uint8) for t in range(frames)]


def encode(path: Path, frames: list[av.VideoFrame], *, codec: str, options: dict, times: list[int] | None = None, rate: int = 16) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, frames[0].format.name
        stream.codec_context.color_range = colour.FULL
        stream.time_base = Fraction(1, 1000)
        stream.codec_context.time_base = Fraction(1, 1000)
        for index, frame in enumerate(frames):
            frame.pts = times[index] if times else round(1000 * index / rate)
            frame.time_base = Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def grey_frame(level: np.ndarray, pixel_format: str = "yuv420p") -> av.VideoFrame:
    return colour.matte_frame(level, pixel_format)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {"qp": "0", "g": "8", "bf": "2"}),
        ("open.mp4", "libx264", {"qp": "0", "g": "8", "bf": "2", "x264-params": "open-gop=1"}),
        ("a.mkv", "ffv1", {"level": "3"}),
        ("a.webm", "libvpx-vp9", {"lossless": "1", "g": "8"}),
    ],
)
def test_windows_are_exact(tmp_path, name, codec, options):
    """Frame i of a window is frame i of the whole file, wherever the keyframes are."""
    path = encode(tmp_path / name, [grey_frame(level) for level in numbered(30)], codec=codec, options=options)
    whole = read_pair(path, path).alpha
    assert count_frames(path) == len(whole) == 30
    assert np.array_equal(np.unique(whole), np.unique(np.stack(numbered(30))))
    for start, count in ((0, 3), (7, 3), (8, 1), (13, 9), (29, 1)):
        assert np.array_equal(read_pair(path, path, start=start, count=count).alpha, whole[start : start + count]), (start, count)
    with pytest.raises(MediaError, match="no frame 30"):
        read_pair(path, path, start=30, count=1)


def test_a_window_decodes_only_its_neighbourhood(tmp_path, monkeypatch):
    path = encode(tmp_path / "a.mp4", [grey_frame(level) for level in numbered(48)], codec="libx264", options={"qp": "0", "g": "8"})
    seen = []
    real = colour.frame_rgb
    monkeypatch.setattr("wan_alpha.media.video.frame_rgb", lambda frame, **kw: seen.append(frame.pts) or real(frame, **kw))
    decoded = []
    monkeypatch.setattr("wan_alpha.media.video.check_size", lambda *a, **kw: decoded.append(kw))
    read_pair(path, path, start=41, count=2)
    assert len(seen) == 2
    assert len(decoded) < 20, "three openings (matte, its range, colour), each at most a group of pictures"


def test_webp_window_is_cut_out_of_the_file(tmp_path):
    rgba = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 4), dtype=np.uint8)
    clip = RgbaClip(rgb=rgba[..., :3], alpha=rgba[..., 3], fps=16.0)
    data = webp_bytes(clip)
    begin, cut = cut_webp(data, first=5, last=6)
    assert begin == 5
    assert len(cut) < 0.4 * len(data)
    (tmp_path / "a.webp").write_bytes(data)
    assert np.array_equal(read_rgba(tmp_path / "a.webp", start=5, count=2).rgba(), rgba[5:7])
    frames = [Image.fromarray(frame) for frame in rgba]
    for name in ("b.webp", "b.png"):  # frames that build on those before them
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=50, lossless=True, minimize_size=True)
        assert np.array_equal(read_rgba(tmp_path / name, start=5, count=2).rgba(), read_rgba(tmp_path / name).rgba()[5:7])
        assert count_frames(tmp_path / name) == 9


def test_16_bits_are_kept_where_asked_for(tmp_path):
    deep = np.random.default_rng(0).integers(0, 65536, (4, 16, 16, 4), dtype=np.uint16)
    order = {"gbrap16le": [1, 2, 0, 3]}["gbrap16le"]
    frames = [colour.planar_frame([f[..., i] for i in order], "gbrap16le", width=16, height=16) for f in deep]
    path = encode(tmp_path / "a.mkv", frames, codec="ffv1", options={"level": "3"})
    clip = read_rgba(path, bits=16)
    assert clip.bits == 16
    assert np.array_equal(clip.rgba(), deep)
    assert np.array_equal(read_rgba(path).rgba(), np.rint(deep / 257).astype(np.uint8))
    assert np.array_equal(clip.with_bits(8).alpha, read_rgba(path).alpha)


def test_bits_there_and_back():
    levels = np.arange(256, dtype=np.uint8)
    assert np.array_equal(change_bits(change_bits(levels, 16), 8), levels)
    deep = np.arange(65536).astype(np.uint16)
    assert np.array_equal(change_bits(deep, 8), np.rint(deep / 257))
    assert (colour.full_levels(10, 16)[1023], colour.limited_levels(10, 16)[940], colour.limited_levels(8, 8)[16]) == (65535, 65535, 0)


def test_deep_yuv_comes_back():
    """10-bit 4:4:4 holds 8-bit colour exactly, through our own matrices both ways; 235, 128, 128 is white."""
    rgb = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    planes = yuv.from_rgb(change_bits(rgb, 16), bits=10)
    back = yuv.to_rgb(planes, bits=10, matrix=1, full_range=False)
    assert np.array_equal(change_bits(back, 8), rgb)
    red = yuv.from_rgb(np.array([[[65535, 0, 0]]], np.uint16), bits=8)
    assert [int(p[0, 0]) for p in red] == [63, 102, 240]
    white = [np.array([[v]], np.uint16) for v in (940, 512, 512)]
    assert yuv.to_rgb(white, bits=10, matrix=2, full_range=False).min() == 65535


def test_exif_orientation_of_a_still(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (4, 6, 4), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(image).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_rgba(tmp_path / "a.png").rgba()[0], np.rot90(image, -1))


def test_variable_rate_keeps_its_times(tmp_path):
    times = [0, 50, 100, 250, 300, 350]
    path = encode(tmp_path / "a.mkv", [grey_frame(g) for g in numbered(6)], codec="ffv1", options={"level": "3"}, times=times)
    clip = read_pair(path, path)
    assert clip.num_frames == 6
    assert clip.times == pytest.approx([t / 1000 for t in times])
    assert read_pair(path, path, start=2, count=3).times == pytest.approx([0, 0.15, 0.2])
    steady, _ = constant_rate(clip, path)
    assert (steady.fps, steady.num_frames, steady.times) == (20, 8, None)
    assert [int(a[0, 0]) for a in steady.alpha] == [16, 20, 24, 24, 24, 28, 32, 36]
    even = encode(tmp_path / "b.mkv", [grey_frame(g) for g in numbered(6)], codec="ffv1", options={"level": "3"})
    assert timeline(even).times is None, "62 and 63 ms are a constant rate"


def test_uneven_animation_keeps_its_times(tmp_path):
    frames = [Image.fromarray(np.full((4, 4, 4), 40 * t + 9, np.uint8)) for t in range(3)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], duration=[100, 170, 100], lossless=True)
    assert read_rgba(tmp_path / "a.webp").times == pytest.approx([0, 0.1, 0.27])


# Zips and EXR


def test_zip_of_stills(tmp_path, monkeypatch):
    rgba = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 4), dtype=np.uint8)
    write_png_sequence(RgbaClip(rgb=rgba[..., :3], alpha=rgba[..., 3], fps=16.0), tmp_path / "frames")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for index, file in enumerate(sorted((tmp_path / "frames").iterdir())):
            archive.write(file, f"clip/frame{index + 9}.png")
        archive.writestr("__MACOSX/clip/._frame9.png", b"junk")
        archive.writestr("clip/readme.txt", b"text")
    assert np.array_equal(read_rgba(tmp_path / "a.zip").rgba(), rgba)
    assert np.array_equal(read_rgba(tmp_path / "a.zip", start=1, count=1).rgba(), rgba[1:2])
    opened = []
    monkeypatch.setattr("zipfile.ZipFile", lambda path, real=zipfile.ZipFile: opened.append(path) or real(path))
    read_rgba(tmp_path / "a.zip")
    assert len(opened) == 1, "the table of an archive is read once, not for every frame"
    assert count_frames(tmp_path / "a.zip") == 3
    assert [clip.name for clip in find_clips(tmp_path)] == ["a", "frames"]


def test_zip_of_several_clips_and_lying_sizes(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/0.png", b"")
        archive.writestr("b/0.png", bytes(10_000))
    with pytest.raises(MediaError, match="stills in 2 folders"):
        read_rgba(tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("b/0.png", bytes(10_000))
    monkeypatch.setattr("wan_alpha.media.stills.MAX_STILL_BYTES", 1000)
    with pytest.raises(MediaError, match=r"b\.zip/b/0\.png.*unpacked"):
        read_rgba(tmp_path / "b.zip")


@pytest.mark.parametrize("transfer", ["linear", "display"])
def test_exr_is_premultiplied_half_float(tmp_path, transfer):
    openexr = pytest.importorskip("OpenEXR")
    rgba = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 4), dtype=np.uint8)
    rgba[0, 0, 0] = (255, 128, 0, 51)
    rgba[0, 0, 1] = (9, 9, 9, 0)
    exr.write_exr_sequence(RgbaClip(rgb=rgba[..., :3], alpha=rgba[..., 3], fps=16.0), tmp_path / "a", transfer=transfer)
    pixels = openexr.File(str(tmp_path / "a" / "00000.exr")).channels()["RGBA"].pixels
    half = 0.2158605 if transfer == "linear" else 128 / 255
    assert pixels.dtype == np.float16
    assert pixels[0, 0] == pytest.approx([0.2, 0.2 * half, 0, 0.2], abs=2e-4)
    clip = read_rgba(tmp_path / "a")
    assert np.array_equal(clip.alpha, rgba[..., 3])
    visible = clip.alpha >= 16
    assert np.abs(clip.rgb.astype(int) - rgba[..., :3])[visible].max() <= 1
    assert clip.rgb[0, 0, 1].max() == 0
    assert count_frames(tmp_path / "a") == 2


@pytest.mark.parametrize("transfer", ["linear", "display"])
def test_exr_says_what_its_colour_is_and_the_caller_may_say_otherwise(tmp_path, transfer):
    openexr = pytest.importorskip("OpenEXR")
    rgb, alpha = np.full((1, 8, 8, 3), (200, 120, 40), np.uint8), np.full((1, 8, 8), 51, np.uint8)
    exr.write_exr_sequence(RgbaClip(rgb=rgb, alpha=alpha, fps=16.0), tmp_path / "a", transfer=transfer)
    file = openexr.File(str(tmp_path / "a" / "00000.exr"))
    header = file.header()
    assert header["wan_alpha_mode"] == "premultiplied"
    for path in (tmp_path / "a", tmp_path / "a" / "00000.exr"):
        for mode in ("file", "premultiplied", "detect"):
            assert np.abs(read_rgba(path, settings=ReadSettings(alpha_mode=mode)).rgb.astype(int) - rgb).max() <= 1, (path, mode)
    share = 0.2 * (rgb / 255 if transfer == "display" else srgb_to_linear(rgb / 255))
    stored = 255 * (share if transfer == "display" else linear_to_srgb(share))
    assert np.abs(read_rgba(tmp_path / "a", settings=ReadSettings(alpha_mode="straight")).rgb - stored).max() <= 1
    kept = {"compression": openexr.ZIP_COMPRESSION, "type": openexr.scanlineimage, exr.TRANSFER_ATTRIBUTE: transfer}
    openexr.File({**kept, "wan_alpha_mode": "straight"}, file.channels()).write(str(tmp_path / "a" / "00000.exr"))
    assert np.abs(read_rgba(tmp_path / "a").rgb - stored).max() <= 1, "the file's own word"
    assert np.abs(read_rgba(tmp_path / "a", settings=ReadSettings(alpha_mode="premultiplied")).rgb.astype(int) - rgb).max() <= 1


def test_exr_data_window_lands_in_the_display_window():
    header = {"dataWindow": ((2, -1), (5, 1)), "displayWindow": ((0, 0), (3, 3))}
    placed = exr._windowed(Path("a"), np.arange(1, 13, dtype=np.float32).reshape(3, 4), header)
    assert placed.tolist() == [[0, 0, 5, 6], [0, 0, 9, 10], [0, 0, 0, 0], [0, 0, 0, 0]]
    header["displayWindow"] = ((-8, -8), (-4, -4))
    for x, y in ((-8, -20), (-8, 2), (-20, -8), (2, -8), (9, 9)):  # wholly beside it, on each side
        header["dataWindow"] = ((x, y), (x + 3, y + 2))
        assert not exr._windowed(Path("a"), np.ones((3, 4), np.float32), header).any()


# Straight and premultiplied


def disc(*, level: int = 200) -> RgbaClip:
    y, x = np.mgrid[0:64, 0:64]
    alpha = np.clip(255 - 9 * (np.hypot(x - 32, y - 32) - 8), 0, 255).astype(np.uint8)
    rgb = np.stack([np.full((64, 64), level), 2 * x, 2 * y], -1).astype(np.uint8)
    return RgbaClip(rgb=rgb[None], alpha=alpha[None], fps=16.0)


def test_the_pixels_say_which_convention():
    straight = disc()
    premul = premultiplied(straight).with_bits(8)
    assert not evidence(straight).premultiplied
    assert evidence(premul).premultiplied
    assert "brighter than their alpha" in str(evidence(straight))
    black = RgbaClip(rgb=np.zeros_like(straight.rgb), alpha=straight.alpha, fps=16.0)
    assert not evidence(black).premultiplied
    opaque = RgbaClip(rgb=straight.rgb, alpha=np.full_like(straight.alpha, 255), fps=16.0)
    assert "too few" in str(evidence(opaque))


def test_premultiplied_sources_are_made_straight(tmp_path, caplog):
    straight, path = disc(), tmp_path / "a"
    write_png_sequence(premultiplied(straight).with_bits(8), path)
    assert np.array_equal(read_rgba(path).rgb, premultiplied(straight).with_bits(8).rgb), "PNG says straight"
    visible = straight.alpha >= 16
    for mode in ("premultiplied", "detect"):
        with caplog.at_level("INFO"):
            back = read_rgba(path, settings=ReadSettings(alpha_mode=mode))
        assert np.abs(back.rgb.astype(int) - straight.rgb)[visible].max() <= 8
        assert back.rgb[back.alpha == 0].max() == 0
    assert "read as premultiplied" in caplog.text


def test_premultiplication_at_16_bits_is_undone():
    straight = disc()
    back = unpremultiplied(premultiplied(straight).rgb, change_bits(straight.alpha, 16))
    assert np.array_equal(change_bits(back, 8)[straight.alpha > 0], straight.rgb[straight.alpha > 0])


def test_a_pair_is_divided_at_the_bits_of_its_files(tmp_path):
    """12-bit colour times alpha, as FFV1, and an 8-bit matte: within a level of 255, where 8 bits would be 7 off."""
    alpha = np.arange(256, dtype=np.uint8).repeat(2).reshape(16, 32)
    straight = np.array([200, 120, 40])
    premul = np.rint(straight / 255 * (alpha[..., None] / 255) * 4095).astype(np.uint16)
    coloured = colour.planar_frame([premul[..., c] for c in (1, 2, 0)], "gbrp12le", width=32, height=16)
    encode(tmp_path / "a.mkv", [coloured], codec="ffv1", options={"level": "3"})
    encode(tmp_path / "a_alpha.mkv", [grey_frame(alpha)], codec="ffv1", options={"level": "3"})
    for mode in ("premultiplied", "detect"):
        clip = read_pair(tmp_path / "a.mkv", tmp_path / "a_alpha.mkv", settings=ReadSettings(alpha_mode=mode))
        assert clip.bits == 8
        assert np.abs(clip.rgb[0].astype(int) - straight)[alpha >= 16].max() <= 1
    shallow = unpremultiplied(np.rint(premul / 4095 * 255).astype(np.uint8)[None], alpha[None])
    assert np.abs(shallow[0].astype(int) - straight)[alpha >= 16].max() >= 7


def test_window_of_times_counts_from_its_own_start():
    from wan_alpha.media.video import window_times

    assert window_times(None, 1, 2) is None
    assert window_times(tuple(itertools.accumulate([0.0, 0.5, 0.25])), 1, 2) == (0.0, 0.25)
