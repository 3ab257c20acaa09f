"""Writers: alpha comes back exactly, timing is true, nothing half-written stays."""

import io
import itertools
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from wan_alpha.errors import MediaError
from wan_alpha.media.atomic import beside, staging
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.read import read_rgba
from wan_alpha.media.verify import compare, verify_pair, verify_preview, verify_rgba
from wan_alpha.media.write import frame_durations_ms, webp_bytes, write_pair, write_png, write_png_sequence, write_preview_mp4, write_webp


def ladder_clip(*, frames: int = 3, height: int = 32, width: int = 64, fps: float = 16.0) -> RgbaClip:
    """All 256 alpha levels in single pixels (the worst case for a codec), smooth colour that is also there under alpha 0."""
    rng = np.random.default_rng(0)
    alpha = np.resize(np.arange(256), (frames, height, width)).astype(np.uint8)
    alpha = rng.permuted(alpha.reshape(frames, -1), axis=1).reshape(alpha.shape)
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.stack([40 + 2 * x, 60 + 3 * y, 200 - 2 * x], -1).astype(np.uint8)
    return RgbaClip(rgb=np.stack([np.roll(rgb, t, 1) for t in range(frames)]), alpha=alpha, fps=fps)


@pytest.mark.parametrize(("height", "width"), [(32, 64), (31, 33), (32, 33)])
def test_pair_is_exact_in_alpha(tmp_path, height, width):
    clip = ladder_clip(height=height, width=width)
    error = verify_pair(*write_pair(clip, tmp_path / "a"), clip)
    assert error.alpha_max_error == 0
    assert error.rgb_mean_error < 1.5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a_alpha.mp4", "a_rgb.mp4"]


def test_pair_tags_and_formats(tmp_path):
    rgb, alpha = write_pair(ladder_clip(fps=24000 / 1001), tmp_path / "a")
    with av.open(str(rgb)) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv444p10le")
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)
        assert float(container.streams.video[0].average_rate) == pytest.approx(24000 / 1001, abs=1e-6)
    with av.open(str(alpha)) as container:
        context = container.streams.video[0].codec_context
        assert context.color_range == 2
        assert context.pix_fmt in ("yuv420p", "yuvj420p")


def test_alpha_of_a_pair_survives_a_naive_rgb_reader(tmp_path):
    clip = ladder_clip()
    _, alpha = write_pair(clip, tmp_path / "a")
    with av.open(str(alpha)) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24")[..., 0] for frame in container.decode(video=0)])
    assert np.array_equal(frames, clip.alpha)


def test_colour_is_bt709(tmp_path):
    """Saturated colours come back: tags without converted pixels would be 30 levels off."""
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]], np.uint8)
    rgb = np.broadcast_to(colours.repeat(16, 0)[None, None], (2, 32, 64, 3))
    clip = RgbaClip(rgb=np.ascontiguousarray(rgb), alpha=np.full((2, 32, 64), 255, np.uint8), fps=16.0)
    assert verify_pair(*write_pair(clip, tmp_path / "a"), clip).rgb_max_error <= 12
    assert verify_pair(tmp_path / "a_rgb.mp4", tmp_path / "a_alpha.mp4", clip).rgb_mean_error < 1


@pytest.mark.parametrize("frames", [1, 17])
def test_webp_is_lossless_with_true_timing(tmp_path, frames):
    clip = ladder_clip(frames=frames)
    write_webp(clip, tmp_path / "a.webp")
    assert verify_rgba(tmp_path / "a.webp", clip).rgb_max_error == 0
    back = read_rgba(tmp_path / "a.webp")
    assert np.array_equal(back.rgb, clip.rgb), "colour under alpha 0"
    assert back.fps == 16


def test_webp_durations_and_loop(tmp_path):
    write_webp(ladder_clip(frames=5), tmp_path / "a.webp")
    with Image.open(tmp_path / "a.webp") as image:
        assert image.info["loop"] == 0
        durations = []
        for index in range(image.n_frames):
            image.seek(index)
            image.load()
            durations.append(image.info["duration"])
    assert durations == frame_durations_ms(5, fps=16.0) == [62, 63, 62, 63, 62]
    assert sum(frame_durations_ms(160, fps=16.0)) == 10_000


def test_webp_keeps_equal_frames(tmp_path):
    """libwebp's animation encoder would merge them."""
    clip = ladder_clip(frames=1)
    still = RgbaClip(rgb=clip.rgb.repeat(4, 0), alpha=clip.alpha.repeat(4, 0), fps=16.0)
    write_webp(still, tmp_path / "a.webp")
    assert verify_rgba(tmp_path / "a.webp", still).alpha_max_error == 0


def test_lossy_webp_keeps_alpha_exact():
    clip = ladder_clip(frames=3)
    data = webp_bytes(clip, quality=90)
    with Image.open(io.BytesIO(data)) as image:
        assert image.n_frames == 3
        for t in range(3):
            image.seek(t)
            frame = np.asarray(image.convert("RGBA"))
            assert np.array_equal(frame[..., 3], clip.alpha[t])
    assert not np.array_equal(frame[..., :3], clip.rgb[2])
    assert len(data) < len(webp_bytes(clip))


@pytest.mark.parametrize("fps", [5.0, 12.5, 23.976, 24.0, 25.0, 30.0, 60.0])
def test_webp_of_any_rate_verifies(tmp_path, fps):
    clip = ladder_clip(frames=7, height=4, width=4, fps=fps)
    write_webp(clip, tmp_path / "a.webp")
    assert verify_rgba(tmp_path / "a.webp", clip).alpha_max_error == 0


def test_png_sequence(tmp_path):
    clip = ladder_clip()
    write_png_sequence(clip, tmp_path / "a")
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["00000.png", "00001.png", "00002.png"]
    assert verify_rgba(tmp_path / "a", clip).rgb_max_error == 0
    write_png_sequence(ladder_clip(frames=2), tmp_path / "a")
    assert len(list((tmp_path / "a").iterdir())) == 2, "an older sequence is replaced as a whole"
    (tmp_path / "a" / "notes.txt").write_text("mine")
    with pytest.raises(MediaError, match=r"notes\.txt"):
        write_png_sequence(clip, tmp_path / "a")


def test_png_images(tmp_path):
    image = ladder_clip().rgba()[0]
    for array in (image, np.ascontiguousarray(image[..., :3]), np.ascontiguousarray(image[..., 3])):
        write_png(array, tmp_path / "new" / "a.png")
        with Image.open(tmp_path / "new" / "a.png") as written:
            assert np.array_equal(np.asarray(written), array)


def test_preview_of_odd_size(tmp_path):
    frames = ladder_clip(height=15, width=17).rgb
    write_preview_mp4(frames, tmp_path / "a.mp4", fps=16.0)
    verify_preview(tmp_path / "a.mp4", frames, fps=16.0)
    with pytest.raises(MediaError, match="after writing"):
        verify_preview(tmp_path / "a.mp4", frames[:2], fps=16.0)
    with pytest.raises(MediaError, match="frames per second"):
        verify_preview(tmp_path / "a.mp4", frames, fps=15.0)


def test_verification_notices_one_level(tmp_path):
    clip = ladder_clip()
    alpha = clip.alpha.copy()
    alpha[1, 2, 3] ^= 1
    with pytest.raises(MediaError, match="alpha off by up to 1"):
        compare(tmp_path / "a", RgbaClip(rgb=clip.rgb, alpha=alpha, fps=16.0), clip)
    with pytest.raises(MediaError, match="frames per second"):
        compare(tmp_path / "a", RgbaClip(rgb=clip.rgb, alpha=clip.alpha, fps=15.0), clip)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MediaError("x"), OSError()])
def test_nothing_half_written_stays(tmp_path, monkeypatch, error):
    """An error or Ctrl-C in the middle of any writer leaves the folder as it was."""
    clip = ladder_clip()
    count = itertools.count()

    def fails_later(*args: object, **kwargs: object) -> Image.Image:
        if next(count) % 3 == 2:
            raise error
        return real(*args, **kwargs)

    real = Image.fromarray
    monkeypatch.setattr("wan_alpha.media.write.Image.fromarray", fails_later)
    monkeypatch.setattr("wan_alpha.media.write.matte_frame", fails_later)
    monkeypatch.setattr("wan_alpha.media.write.png_bytes", fails_later)
    for write in (write_png_sequence, write_webp, write_pair):
        with pytest.raises(BaseException):  # noqa: B017 - KeyboardInterrupt among them
            write(clip, tmp_path / "new" / "a")
        assert list(tmp_path.iterdir()) == []


def test_beside_keeps_the_old_file(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(RuntimeError), beside(tmp_path / "a.txt") as partial:  # noqa: PT012
        partial.write_text("half")
        raise RuntimeError
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.txt", "old")]


def test_staging_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), staging(tmp_path / "x" / "y") as folder:  # noqa: PT012
        (folder / "file").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_unwritable_place_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MediaError, match="expected a folder that can be written"):
        write_png(np.zeros((2, 2), np.uint8), Path(tmp_path / "file" / "a.png"))
