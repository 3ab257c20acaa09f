"""An encoder that changes colour, or forgets to say which colour it is, is caught; content that is hard for a codec is not."""

from dataclasses import replace

import numpy as np
import pytest

from wan_alpha.config import ExportConfig, PrepareConfig
from wan_alpha.errors import MediaError
from wan_alpha.export import export, over_background
from wan_alpha.media import encode, movies, write
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.colour_error import ColourBound, allowed_error, colour_error, half_chroma
from wan_alpha.media.formats import FORMATS, WriteOptions, write_format
from wan_alpha.media.verify import verify_preview
from wan_alpha.media.write import write_pair, write_png_sequence, write_preview_mp4
from wan_alpha.prepare import prepare

LOSSY = {
    "prores": WriteOptions(),
    "prores, premultiplied": WriteOptions(alpha_mode="premultiplied"),
    "webm": WriteOptions(),
    "pair": WriteOptions(),
    "pair, premultiplied": WriteOptions(alpha_mode="premultiplied"),
    "ffv1, premultiplied": WriteOptions(alpha_mode="premultiplied"),
    "exr": WriteOptions(),
    **{f"webp, quality {quality}": WriteOptions(webp_quality=quality) for quality in (0, 50, 100)},
}


def muted() -> RgbaClip:
    """A soft disc of a colour that is nearly grey: 24 levels between red and blue."""
    y, x = np.mgrid[:32, :48]
    alpha = np.rint(np.clip(14 - np.hypot(x - 24, y - 16), 0, 4) * 63.75).astype(np.uint8)
    rgb = np.broadcast_to(np.array([132, 120, 108], np.uint8), (32, 48, 3))
    return RgbaClip(rgb=np.stack([rgb] * 3), alpha=np.stack([np.roll(alpha, t, axis=1) for t in range(3)]), fps=16.0)


def broken(clip: RgbaClip, fault: str) -> RgbaClip:
    rgb = clip.rgb.copy()
    if fault == "green":
        rgb[...] = np.array([0, 200, 0]) * (clip.top // 255)
    elif fault == "swapped":
        rgb = rgb[..., ::-1]
    else:
        rgb[1] = 0  # one frame black
    return replace(clip, rgb=rgb)


def wrong_colour(monkeypatch, name, fault):
    spec = FORMATS[name]
    monkeypatch.setitem(FORMATS, name, replace(spec, write=lambda clip, stem, o: spec.write(broken(clip, fault), stem, o)))


# Lossy WebP's bound is wider than the 24 levels between this clip's red and blue.
FAULTS = [(label, fault) for label in LOSSY for fault in ("green", "black", *([] if label.startswith("webp") else ["swapped"]))]


@pytest.mark.parametrize(("label", "fault"), FAULTS)
def test_wrong_colour_is_an_error(tmp_path, monkeypatch, label, fault):
    name = label.split(",")[0]
    if name == "exr":
        pytest.importorskip("OpenEXR")
    wrong_colour(monkeypatch, name, fault)
    with pytest.raises(MediaError, match=r"colour of frame [01] off by .* expected at most"):
        write_format(muted(), tmp_path / "a", name=name, options=LOSSY[label])


@pytest.mark.parametrize("name", ["prores", "webm", "pair"])
def test_export_of_wrong_colour_leaves_nothing(tmp_path, monkeypatch, name):
    write_png_sequence(muted(), tmp_path / "clip")
    wrong_colour(monkeypatch, name, "swapped")
    with pytest.raises(MediaError, match="colour of frame 0 off by"):
        export(ExportConfig(source=tmp_path / "clip", output_path=tmp_path / "out", formats=("png", name)))
    assert [path.name for path in tmp_path.iterdir()] == ["clip"]


def test_a_preview_of_other_colours_is_an_error(tmp_path, monkeypatch):
    write_png_sequence(muted(), tmp_path / "clip")
    black = lambda frames, path, **settings: write_preview_mp4(np.zeros_like(frames), path, **settings)  # noqa: E731
    monkeypatch.setattr("wan_alpha.export.write_preview_mp4", black)
    with pytest.raises(MediaError, match=r"clip_preview\.mp4: got the colour of frame 0 off by"):
        export(ExportConfig(source=tmp_path / "clip", output_path=tmp_path / "out", formats=("preview",)))
    assert [path.name for path in tmp_path.iterdir()] == ["clip"]


def test_prepare_refuses_pairs_of_wrong_colour(tmp_path, monkeypatch):
    write_png_sequence(muted(), tmp_path / "in" / "clip")
    monkeypatch.setattr("wan_alpha.prepare.write_pair", lambda clip, stem: write_pair(broken(clip, "swapped"), stem))
    with pytest.raises(MediaError, match=r"clip_rgb\.mp4: got the colour of frame 0 off by"):
        prepare(PrepareConfig(source=tmp_path / "in", output_path=tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("name", ["prores", "pair", "preview", "webm"])
def test_movies_that_lose_their_tags_are_an_error(tmp_path, monkeypatch, name):
    def untagged(path, frames, *, clip, encoding):
        def bare():
            for frame in frames:
                frame.colorspace = 2
                frame.color_range = 0
                yield frame

        encode.encode_video(path, bare(), clip=clip, encoding=replace(encoding, color_range=0))

    for module in (movies, write):
        monkeypatch.setattr(module, "encode_video", untagged)
    monkeypatch.setattr(movies, "BT709", 5)  # BT.601's numbers, in WebM's own writer
    write_png_sequence(muted(), tmp_path / "clip")
    with pytest.raises(MediaError, match=r"got colour tags matrix .* expected matrix 1, primaries 1, transfer 1, range 1"):
        export(ExportConfig(source=tmp_path / "clip", output_path=tmp_path / "out", formats=(name,)))
    assert [path.name for path in tmp_path.iterdir()] == ["clip"]


def hard_clips() -> dict[str, RgbaClip]:
    """Noise, saturated edges in single pixels, few visible pixels over other hidden colour, faint alpha, tiny sizes."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:40, :48]

    def noise(*shape: int) -> np.ndarray:
        return rng.integers(0, 256, (2, *shape), dtype=np.uint8)

    def clip(rgb: np.ndarray, alpha: np.ndarray) -> RgbaClip:
        return RgbaClip(rgb=rgb, alpha=alpha, fps=16.0)

    def checks(one: tuple, other: tuple, mask: np.ndarray) -> RgbaClip:
        rgb = np.where(mask[..., None], np.array(one, np.uint8), np.array(other, np.uint8))
        return clip(np.stack([rgb] * 2), np.full((2, *mask.shape), 255, np.uint8))

    dots = np.where((y % 9 == 4) & (x % 11 == 5), 255, 0).astype(np.uint8)
    blue = checks((255, 0, 0), (0, 0, 255), dots > 0).rgb
    return {
        "noise": clip(noise(40, 48, 3), noise(40, 48)),
        "saturated noise": clip(noise(40, 48, 3) // 128 * 255, noise(40, 48) // 128 * 255),
        "red and blue checks": checks((255, 0, 0), (0, 0, 255), (x + y) % 2 > 0),
        "red and blue lines": checks((255, 0, 0), (0, 0, 255), x % 2 > 0),
        "red and green checks": checks((255, 0, 0), (0, 255, 0), (x + y) % 2 > 0),
        "red and cyan halves": checks((255, 0, 0), (0, 255, 255), x > 16),
        "red dots over hidden blue": clip(blue, np.stack([dots] * 2)),
        "dots of noise over hidden noise": clip(noise(40, 48, 3), np.stack([dots] * 2)),
        "one faint pixel": clip(noise(40, 48, 3), np.stack([(x == 7) & (y == 9)] * 2).astype(np.uint8)),
        "nothing visible": clip(noise(40, 48, 3), np.zeros((2, 40, 48), np.uint8)),
        "faint": clip(checks((200, 30, 90), (200, 30, 90), x > 0).rgb, np.full((2, 40, 48), 3, np.uint8)),
        **{f"noise of {w}x{h}": clip(noise(h, w, 3), noise(h, w) | 1) for h, w in ((1, 1), (2, 2), (1, 9), (3, 1), (7, 5))},
    }


@pytest.mark.parametrize("label", [*LOSSY, "preview"])
def test_hard_content_is_not_refused(tmp_path, label):
    name = label.split(",")[0]
    if name == "exr":
        pytest.importorskip("OpenEXR")
    for number, clip in enumerate(hard_clips().values()):
        if name == "preview":
            shown = over_background(clip, "checkerboard")
            write_preview_mp4(shown, tmp_path / "a.mp4", fps=16.0)
            verify_preview(tmp_path / "a.mp4", shown, fps=16.0)
            continue
        deep = clip.with_bits(16) if FORMATS[name].bits == 16 else clip
        for flat in {clip.bits: clip, deep.bits: deep}.values():
            written = write_format(flat, tmp_path / f"{number}", name=name, options=LOSSY[label])
            assert written.alpha_max_error <= (FORMATS[name].alpha_bound if flat.bits == 16 else 0)


def test_error_of_squares():
    """Grain cancels within 8 x 8 pixels, another colour does not; a pixel counts with its alpha, one of alpha 0 not at all."""
    written = np.full((8, 16, 3), 100, np.uint8)
    opaque = np.full((8, 16), 255, np.uint8)
    grain = written + np.where(np.indices((8, 16)).sum(axis=0) % 2, 40, -40)[..., None].astype(np.uint8)
    assert colour_error(grain, written, opaque) == 0
    assert colour_error(written + np.uint8(6), written, opaque) == pytest.approx(6)
    half, weak = written.copy(), opaque.copy()
    half[:, 8:] += np.uint8(9)
    weak[:, 8:] = 51
    assert colour_error(half, written, opaque) == pytest.approx(4.5)
    assert colour_error(half, written, weak) == pytest.approx(9 * 0.2 / 1.2)
    assert colour_error(half, written, np.where(weak == 51, 0, weak).astype(np.uint8)) == 0
    assert colour_error(half, written, np.zeros_like(weak)) == 0
    deep = (half.astype(np.uint16) * 257, written.astype(np.uint16) * 257, weak.astype(np.uint16) * 257)
    assert colour_error(*deep) == pytest.approx(1.5)


def test_what_a_bound_allows():
    alpha = np.zeros((4, 4), np.uint8)
    alpha[0] = 51
    grey = np.full((4, 4, 3), 90, np.uint8)
    bound = ColourBound(mean=3.0, pixel=20.0, rounding=0.5, halved=2.0)
    assert allowed_error(bound, grey, alpha) == pytest.approx(3 + 20 / 2 + 0.5 / 0.2)
    assert allowed_error(bound, grey, np.zeros_like(alpha)) == 3
    assert np.array_equal(half_chroma(grey), grey)
    lines = np.zeros((2, 4, 3), np.uint8)
    lines[:, ::2] = (255, 0, 0)
    lines[:, 1::2] = (0, 0, 255)
    luma = 255 * np.array([0.2126, 0.0722])
    red = luma + 1.5748 * 255 * (0.5 - 0.0722 / 1.5748) / 2  # the mean of both Cr
    assert half_chroma(lines)[0, :2, 0].tolist() == np.rint(red).tolist()
