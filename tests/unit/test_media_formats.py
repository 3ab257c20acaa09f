"""Every readable format, with all 256 alpha levels. Files come from plain encoders, not from the project's own writers."""

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from plain_encoders import encode, ladder, luma, packed, planar, planes, png_16, prores, vp9
from wan_alpha.errors import MediaError
from wan_alpha.media.read import ReadSettings, count_frames, read_matte, read_pair, read_rgba
from wan_alpha.media.timeline import timing


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format", "make", "options"),
    [
        ("clip.mov", "qtrle", "argb", lambda image: packed(image, "argb"), {}),
        ("clip.mkv", "ffv1", "bgra", lambda image: packed(image, "bgra"), {"level": "3"}),
        ("ut.avi", "utvideo", "gbrap", planar, {}),
        ("magic.avi", "magicyuv", "gbrap", planar, {}),
        ("prores.mov", "prores_ks", "yuva444p10le", prores, {"alpha_bits": "16"}),
        ("clip.webm", "libvpx-vp9", "yuva420p", vp9, {"lossless": "1", "auto-alt-ref": "0"}),
    ],
)
def test_video_alpha_is_exact(tmp_path, name, codec, pixel_format, make, options):
    images = ladder()
    path = encode(tmp_path / name, [make(image) for image in images], codec=codec, pixel_format=pixel_format, options=options)
    clip = read_rgba(path)
    assert np.array_equal(clip.alpha, images[..., 3])
    assert clip.fps == 12
    assert count_frames(path) == 3
    if codec in ("qtrle", "ffv1", "utvideo", "magicyuv"):
        assert np.array_equal(clip.rgb, images[..., :3])
    window = read_rgba(path, start=1, count=2)
    assert np.array_equal(window.alpha, images[1:, ..., 3])


def test_animated_webp_keeps_alpha_and_rate(tmp_path):
    images = [Image.fromarray(image) for image in ladder(frames=8)]
    images[0].save(tmp_path / "a.webp", save_all=True, append_images=images[1:], duration=[62, 63] * 4, lossless=True)
    clip = read_rgba(tmp_path / "a.webp")
    assert clip.fps == 16
    assert np.array_equal(clip.alpha, ladder(frames=8)[..., 3])


def test_held_frames_are_repeated(tmp_path):
    a, b = (Image.fromarray(image) for image in ladder(frames=2))
    a.save(tmp_path / "a.webp", save_all=True, append_images=[b, b, b, a], duration=100, lossless=True)
    with Image.open(tmp_path / "a.webp") as image:
        assert image.n_frames == 3
    clip = read_rgba(tmp_path / "a.webp")
    assert (clip.num_frames, clip.fps) == (5, 10)
    assert count_frames(tmp_path / "a.webp") == 5
    assert np.array_equal(clip.alpha[1], clip.alpha[3])


@pytest.mark.parametrize(
    ("durations", "expected"),
    [
        ([66] * 6, ([1] * 6, 1000 / 66)),
        ([66.0, 264.0], ([1, 4], 1000 / 66)),
        ([62, 63, 62], ([1, 1, 1], 16.0)),
        ([100, 137, 100], ([1, 1, 1], 3000 / 337)),
        ([0, 0], ([1, 1], None)),
        ([62], ([1], 16.0)),
    ],
)
def test_timing(durations, expected):
    repeats, fps = timing([float(d) for d in durations])
    assert repeats == expected[0]
    assert fps == pytest.approx(expected[1])


def test_apng_and_gif(tmp_path):
    images = [Image.fromarray(image) for image in ladder()]
    images[0].save(tmp_path / "a.png", save_all=True, append_images=images[1:], duration=50)
    clip = read_rgba(tmp_path / "a.png")
    assert np.array_equal(clip.rgba(), ladder())
    assert clip.fps == 20
    binary = [image.convert("RGB").quantize(8) for image in images]
    binary[0].save(tmp_path / "a.gif", save_all=True, append_images=binary[1:], duration=50, transparency=0, disposal=2)
    gif = read_rgba(tmp_path / "a.gif")
    assert (gif.num_frames, gif.fps) == (3, 20)
    assert set(np.unique(gif.alpha)) == {0, 255}


def test_folder_in_natural_order(tmp_path):
    for index, image in zip((1, 2, 10), ladder(), strict=True):
        Image.fromarray(image).save(tmp_path / f"frame{index}.png")
    clip = read_rgba(tmp_path, settings=ReadSettings(fps_if_unknown=25.0))
    assert np.array_equal(clip.rgba(), ladder())
    assert clip.fps == 25
    assert np.array_equal(read_rgba(tmp_path, start=2, count=1).alpha, ladder()[2:, ..., 3])


def test_16_bit_png_is_rounded_not_truncated(tmp_path):
    values = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(4, 4, 4)
    clip = read_rgba(png_16(tmp_path / "a.png", values))
    assert np.array_equal(clip.rgba()[0], np.round(values / 257).astype(np.uint8))
    (tmp_path / "grey").mkdir()
    png_16(tmp_path / "grey" / "0.png", values[..., :1])
    matte, _ = read_matte(tmp_path / "grey")
    assert np.array_equal(matte[0], np.round(values[..., 0] / 257).astype(np.uint8))


@pytest.mark.parametrize(
    ("pixel_format", "tag", "full"),
    [("yuv420p", 1, False), ("yuv420p", 2, True), ("yuv420p", 0, False), ("yuv420p", 0, True), ("gray", 0, True)],
)
def test_matte_range(tmp_path, pixel_format, tag, full):
    """Limited luma is stretched, full luma taken as it is; an untagged file is told apart by what only full range can hold."""
    alpha = ladder()[..., 3].copy()
    alpha[:, :8], alpha[:, 24:] = 0, 255
    codes = alpha if full else np.round(16 + alpha * (219 / 255)).astype(np.uint8)
    path = encode(
        tmp_path / "a.mkv",
        [luma(c, pixel_format) for c in codes],
        codec="ffv1",
        pixel_format=pixel_format,
        options={"level": "3"},
        color_range=tag,
    )
    matte, fps = read_matte(path)
    assert np.abs(matte.astype(int) - alpha).max() <= (0 if full else 1)
    assert np.array_equal(matte == 0, codes == codes.min())
    assert fps == 12


@pytest.mark.parametrize(("codec", "grey"), [("utvideo", "yuv420p"), ("magicyuv", "gray")])
def test_pairs_of_lossless_codecs(tmp_path, codec, grey):
    """Colour as planar RGB, the matte as a grey plane (AVI has no tags: its solid and empty parts say full range), or as RGB."""
    images = ladder()
    images[:, :8, :, 3], images[:, 24:, :, 3] = 0, 255
    colour = encode(tmp_path / "a_rgb.avi", [planar(i[..., :3]) for i in images], codec=codec, pixel_format="gbrp")
    matte = encode(tmp_path / "a_alpha.avi", [luma(i[..., 3], grey) for i in images], codec=codec, pixel_format=grey, color_range=2)
    as_rgb = encode(tmp_path / "b.avi", [planar(i[..., [3, 3, 3]]) for i in images], codec=codec, pixel_format="gbrp")
    for alpha in (matte, as_rgb):
        assert np.array_equal(read_pair(colour, alpha).rgba(), images)
    assert np.array_equal(read_pair(colour, matte, start=2, count=1).rgba(), images[2:])


def test_magicyuv_says_that_its_luma_is_limited(tmp_path):
    alpha = ladder()[..., 3]
    codes = np.round(16 + alpha * (219 / 255)).astype(np.uint8)
    path = encode(tmp_path / "a.avi", [luma(c) for c in codes], codec="magicyuv", pixel_format="yuv420p")
    assert np.abs(read_matte(path)[0].astype(int) - alpha).max() <= 1


def test_magicyuv_with_alpha_beside_its_luma(tmp_path):
    """yuva444p: BT.601 limited grey of luma 126 is 128, alpha is exact."""
    images = ladder()
    flat = np.full(images.shape[1:3], 126, np.uint8)
    frames = [planes("yuva444p", 64, 32, [flat, 0 * flat + 128, 0 * flat + 128, i[..., 3]]) for i in images]
    clip = read_rgba(encode(tmp_path / "a.avi", frames, codec="magicyuv", pixel_format="yuva444p"))
    assert np.array_equal(clip.alpha, images[..., 3])
    assert np.abs(clip.rgb.astype(int) - 128).max() <= 1


def test_colour_of_a_pair_follows_its_tags(tmp_path):
    """Pure red as BT.709 limited (63, 102, 240) with the tag, and as BT.601 (81, 90, 240) without one."""
    for name, (y, u, v), tag in (("tagged", (63, 102, 240), 1), ("untagged", (81, 90, 240), 2)):
        frame = luma(np.full((32, 32), y, np.uint8))
        for part, value in zip(frame.planes[1:], (u, v), strict=True):
            part.update(np.full((part.height, part.line_size), value, np.uint8))
        frame.colorspace = tag
        matte = luma(np.full((32, 32), 235, np.uint8))
        with av.open(str(tmp_path / f"{name}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=8, options={"qp": "0"})
            stream.width = stream.height = 32
            stream.codec_context.colorspace = tag
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
        encode(tmp_path / "matte.mp4", [matte], codec="libx264", pixel_format="yuv420p", options={"qp": "0"})
        clip = read_pair(tmp_path / f"{name}.mp4", tmp_path / "matte.mp4")
        assert np.abs(clip.rgb.astype(int) - np.array([255, 0, 0])).max() <= 2, name
        assert clip.alpha.min() == 255


def test_real_clip_has_its_frames(shared_clips):
    clip = read_rgba(shared_clips / "effect_piercer_explosion.webp")
    assert (clip.num_frames, clip.height, clip.width) == (10, 128, 128)
    assert 0 < clip.alpha.mean() < 255


# Bad input: one line that names the file.


def test_half_transparent_series_is_refused(tmp_path):
    Image.fromarray(ladder()[0]).save(tmp_path / "0.png")
    Image.fromarray(ladder()[1, ..., :3]).save(tmp_path / "1.png")
    with pytest.raises(MediaError, match=r"1\.png: got no alpha channel"):
        read_rgba(tmp_path)


def test_frames_of_two_sizes(tmp_path):
    Image.fromarray(ladder()[0]).save(tmp_path / "0.png")
    Image.fromarray(ladder()[0, :16]).save(tmp_path / "1.png")
    with pytest.raises(MediaError, match=r"1\.png: got 64x16, expected 64x32"):
        read_rgba(tmp_path)


def test_no_alpha_channel(tmp_path):
    encode(tmp_path / "a.webm", [luma(np.full((32, 32), 90, np.uint8))], codec="libvpx-vp9", pixel_format="yuv420p")
    with pytest.raises(MediaError, match=r"no alpha channel.*a_alpha\.mp4"):
        read_rgba(tmp_path / "a.webm")


@pytest.mark.parametrize("name", ["a.webp", "a.png", "a.gif", "a.mp4", "a.webm"])
def test_garbage_is_one_line(tmp_path, name):
    (tmp_path / name).write_bytes(b"not a picture" * 30)
    with pytest.raises(MediaError, match=name) as error:
        read_rgba(tmp_path / name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("kind", ["webp", "png", "mp4", "webm", "mov"])
def test_truncated_files(tmp_path, kind, keep):
    """Cut anywhere, a file is refused: it never comes back as a shorter clip."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (12, 32, 32, 4), dtype=np.uint8)
    path = tmp_path / f"a.{kind}"
    if kind in ("webp", "png"):
        images = [Image.fromarray(image) for image in noise]
        images[0].save(path, save_all=True, append_images=images[1:], duration=50, **({"lossless": True} if kind == "webp" else {}))
    elif kind == "webm":
        encode(path, [vp9(image) for image in noise], codec="libvpx-vp9", pixel_format="yuva420p", options={"lossless": "1"})
    elif kind == "mov":
        encode(path, [packed(image, "argb") for image in noise], codec="qtrle", pixel_format="argb")
    else:
        encode(path, [luma(image[..., 0]) for image in noise], codec="libx264", pixel_format="yuv420p", options={"qp": "0"})
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(MediaError, match=path.name) as error:
        read_matte(path) if kind == "mp4" else read_rgba(path)
    assert "ValueError" not in str(error.value)
    assert kind != "webp" or f"got {int(len(data) * keep)} of the {len(data)} bytes" in str(error.value)


def test_truncated_fast_start_video(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (12, 32, 32), dtype=np.uint8)
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=8, options={"qp": "0"})
        stream.width = stream.height = 32
        for index, values in enumerate(noise):
            frame = luma(values)
            frame.pts, frame.time_base = index, Fraction(1, 8)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.7)])
    with pytest.raises(MediaError, match="truncated or damaged"):
        read_matte(path)


def test_lengths_and_sizes_of_a_pair(tmp_path):
    grey = np.full((32, 32), 90, np.uint8)
    for name, frames in (("a", [grey] * 3), ("short", [grey] * 2), ("small", [grey[:16, :16]] * 3)):
        encode(tmp_path / f"{name}.mp4", [luma(np.ascontiguousarray(g)) for g in frames], codec="libx264", pixel_format="yuv420p")
    with pytest.raises(MediaError, match=r"short\.mp4: got 2 frames, expected 3 as in a\.mp4"):
        read_pair(tmp_path / "a.mp4", tmp_path / "short.mp4")
    with pytest.raises(MediaError, match=r"small\.mp4: got 16x16, expected 32x32"):
        read_pair(tmp_path / "a.mp4", tmp_path / "small.mp4")
    with pytest.raises(MediaError, match=r"2 frames from frame 1 on, expected 5"):
        read_pair(tmp_path / "a.mp4", tmp_path / "a.mp4", start=1, count=5)


def test_unknown_extension_and_missing_file(tmp_path):
    (tmp_path / "a.psd").write_bytes(b"8BPS")
    with pytest.raises(MediaError, match=r"unknown extension \.psd.*\.webp"):
        read_rgba(tmp_path / "a.psd")
    for name in ("none.webp", "none.mp4", "none"):
        with pytest.raises(MediaError, match="no such file"):
            read_rgba(tmp_path / name)


def test_absurd_sizes_are_refused_before_decoding(tmp_path, monkeypatch):
    monkeypatch.setattr("wan_alpha.media.clip.MAX_SIDE", 48)
    Image.fromarray(ladder()[0]).save(tmp_path / "a.png")
    with pytest.raises(MediaError, match=r"64x32.*sides of 1 to 48"):
        read_rgba(tmp_path / "a.png")
    monkeypatch.undo()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(MediaError, match="DecompressionBomb"):
        read_rgba(tmp_path / "a.png")
