"""--matrix: YUV colour without a tag is read by the caller's word, tagged colour by its tag, alpha by neither; and it is said."""

import json
import logging
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from wan_alpha.config import DoctorConfig, ExportConfig, PrepareConfig, PreviewConfig
from wan_alpha.doctor import doctor
from wan_alpha.export import export
from wan_alpha.media.colour import planar_frame
from wan_alpha.media.read import ReadSettings, read_clip, read_pair, read_rgba
from wan_alpha.prepare import prepare
from wan_alpha.sheet import preview

WEIGHTS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020nc": (0.2627, 0.0593)}
"""Kr and Kb of ITU-R BT.601, BT.709 and BT.2020."""
CODES = {"bt601": 6, "bt709": 1, "bt2020nc": 9}
PATCHES = np.array(
    [[220, 40, 40], [40, 190, 60], [60, 50, 210], [190, 180, 40], [128, 128, 128], [40, 180, 190], [200, 120, 20], [90, 30, 130]]
)
SIDE, HEIGHT, WIDTH = 32, 64, 128
RGB = np.repeat(np.repeat(PATCHES.reshape(2, 4, 3), SIDE, 0), SIDE, 1)
ALPHA = np.resize(np.arange(256, dtype=np.uint8), (HEIGHT, WIDTH))
MIDDLES = np.ix_(*(np.arange(side) % SIDE == SIDE // 2 for side in (HEIGHT, WIDTH)))
"""Of the patches, where no neighbour reaches, neither by halved chroma nor by a codec."""


def to_yuv(rgb: np.ndarray, matrix: str) -> list[np.ndarray]:
    """Limited range, 8 bits, not rounded."""
    kr, kb = WEIGHTS[matrix]
    r, g, b = (rgb[..., i] / 255 for i in range(3))
    y = kr * r + (1 - kr - kb) * g + kb * b
    return [16 + 219 * y, 128 + 224 * (b - y) / (2 - 2 * kb), 128 + 224 * (r - y) / (2 - 2 * kr)]


def seen(stored: str, read: str) -> np.ndarray:
    """RGB levels when colour that was stored by one matrix is read by another."""
    kr, kb = WEIGHTS[read]
    y, cb, cr = to_yuv(RGB, stored)
    y, cb, cr = (y - 16) / 219, (cb - 128) / 224, (cr - 128) / 224
    r, b = y + (2 - 2 * kr) * cr, y + (2 - 2 * kb) * cb
    return 255 * np.stack([r, (y - kr * r - kb * b) / (1 - kr - kb), b], -1).clip(0, 1)


def write(path: Path, *, stored: str, tag: str | None, codec: str = "ffv1", pixel_format: str = "yuva444p", frames: int = 2) -> Path:
    """The patches, with ALPHA where the format has alpha; limited range."""
    path.parent.mkdir(parents=True, exist_ok=True)
    deep = pixel_format.endswith("10le")
    values = [*to_yuv(RGB, stored), *([ALPHA.astype(float)] if pixel_format.startswith("yuva") else [])]
    planes = [np.rint(v * 1023 / 255 if deep and i == 3 else v * (4 if deep else 1)) for i, v in enumerate(values)]
    if "420" in pixel_format:
        planes[1:3] = (part[::2, ::2] for part in planes[1:3])
    options = {"libx264": {"qp": "0"}, "libvpx": {"auto-alt-ref": "0", "crf": "4", "b": "10M"}, "libvpx-vp9": {"lossless": "1"}}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=16, options=options.get(codec, {}))
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = pixel_format
        if tag is not None:
            stream.codec_context.colorspace = CODES[tag]
        for index in range(frames):
            typed = [np.rint(part).astype(np.uint16 if deep else np.uint8) for part in planes]
            frame = planar_frame(typed, pixel_format, width=WIDTH, height=HEIGHT)
            frame.colorspace = 2 if tag is None else CODES[tag]
            frame.pts, frame.time_base = index, Fraction(1, 16)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_matte(path: Path) -> Path:
    """ALPHA as the full-range luma of an untagged H.264 video, whose chroma says green."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=16, options={"qp": "0"})
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = "yuv444p"
        stream.codec_context.color_range = 2
        for index in range(2):
            green = np.full((HEIGHT, WIDTH), 60, np.uint8)
            frame = planar_frame([ALPHA, green, green], "yuv444p", width=WIDTH, height=HEIGHT)
            frame.pts, frame.time_base = index, Fraction(1, 16)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


KINDS = [("a.mkv", "ffv1", "yuva444p"), ("a.mov", "prores_ks", "yuva444p10le"), ("a.webm", "libvpx-vp9", "yuva420p")]


@pytest.mark.parametrize("word", ["file", "bt601", "bt709", "bt2020nc"])
@pytest.mark.parametrize(("name", "codec", "pixel_format"), KINDS)
@pytest.mark.parametrize("bits", [8, 16])
def test_untagged_colour_is_read_as_said(tmp_path, name, codec, pixel_format, bits, word):
    path = write(tmp_path / name, stored="bt709", tag=None, codec=codec, pixel_format=pixel_format)
    clip = read_rgba(path, bits=bits, settings=ReadSettings(matrix=word))
    read = "bt601" if word == "file" else word
    assert clip.assumed_matrix == read
    assert np.abs(clip.rgb[0] * (255 / clip.top) - seen("bt709", read))[MIDDLES].max() <= 2.5
    assert np.abs(clip.alpha[0] * (255 / clip.top) - ALPHA).max() <= 0.2


@pytest.mark.parametrize("word", ["file", "bt601", "bt2020nc", "bt709"])
@pytest.mark.parametrize(("name", "codec", "pixel_format"), KINDS)
def test_tagged_colour_keeps_its_tag(tmp_path, name, codec, pixel_format, word):
    path = write(tmp_path / name, stored="bt709", tag="bt709", codec=codec, pixel_format=pixel_format)
    clip = read_rgba(path, settings=ReadSettings(matrix=word))
    assert clip.assumed_matrix is None
    assert np.abs(clip.rgb[0] - RGB)[MIDDLES].max() <= 2.5


def test_the_matrices_differ_by_more_than_these_tolerances():
    for read in ("bt601", "bt2020nc"):
        assert np.abs(seen("bt709", read) - RGB)[MIDDLES].max() > 9
    assert np.abs(seen("bt709", "bt709") - RGB).max() < 1e-6


def test_a_container_that_has_the_tag_which_its_codec_has_not(tmp_path):
    """VP8 has no place for a matrix, and its decoder says BT.601 of all; WebM has one."""
    tagged = write(tmp_path / "a.webm", stored="bt709", tag="bt709", codec="libvpx", pixel_format="yuva420p")
    clip = read_rgba(tagged, settings=ReadSettings(matrix="bt601"))
    assert clip.assumed_matrix is None
    assert np.abs(clip.rgb[0] - RGB)[MIDDLES].max() <= 4
    untagged = write(tmp_path / "b.webm", stored="bt709", tag=None, codec="libvpx", pixel_format="yuva420p")
    assert np.abs(read_rgba(untagged).rgb[0] - seen("bt709", "bt601"))[MIDDLES].max() <= 4


def test_the_luma_of_a_matte_is_alpha_whatever_the_word(tmp_path):
    write(tmp_path / "a_rgb.mp4", stored="bt2020nc", tag=None, codec="libx264", pixel_format="yuv444p")
    write_matte(tmp_path / "a_alpha.mp4")
    for word in ("file", "bt601", "bt709", "bt2020nc"):
        clip = read_pair(tmp_path / "a_rgb.mp4", tmp_path / "a_alpha.mp4", settings=ReadSettings(matrix=word))
        assert np.array_equal(clip.alpha[0], ALPHA)
        assert np.abs(clip.rgb[0] - seen("bt2020nc", "bt601" if word == "file" else word)).max() <= 2.5


@pytest.mark.parametrize("pixel_format", ["bgra", "gbrap10le"])
def test_rgb_has_no_matrix(tmp_path, pixel_format, caplog):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=16)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixel_format
        rgba = np.dstack([RGB, ALPHA]).astype(np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(rgba, format="rgba").reformat(format=pixel_format)))
        container.mux(stream.encode())
    with caplog.at_level(logging.INFO, logger="wan_alpha"):
        clip = read_rgba(path, settings=ReadSettings(matrix="bt2020nc"))
    assert (clip.assumed_matrix, "matrix" in caplog.text) == (None, False)
    assert np.abs(clip.rgb[0] - RGB).max() <= 1


@pytest.mark.parametrize(
    ("tag", "word", "said"),
    [
        (None, "file", "colour without a matrix tag, read as bt601 (the default; --matrix names another)"),
        (None, "bt709", "colour without a matrix tag, read as bt709 (--matrix bt709)"),
        ("bt709", "bt601", "colour is tagged bt709 and read so; --matrix bt601 is for untagged colour"),
        ("bt601", "bt601", None),
        ("bt709", "file", None),
    ],
)
def test_it_is_said_once_for_each_file(tmp_path, caplog, tag, word, said):
    """However many windows are read of it; and again of a file that has changed."""
    path = write(tmp_path / "a.mkv", stored="bt709", tag=tag, frames=4)
    with caplog.at_level(logging.INFO, logger="wan_alpha"):
        for start in range(4):
            read_clip(rgba=path, rgb=None, alpha=None, start=start, count=1, settings=ReadSettings(matrix=word))
    assert [record.getMessage() for record in caplog.records] == ([f"{path}: {said}"] if said else [])


def test_a_matrix_that_is_not_supported_is_warned_of(tmp_path, caplog, monkeypatch):
    path = write(tmp_path / "a.mkv", stored="bt601", tag="bt601")
    monkeypatch.setattr("wan_alpha.media.matrix.NAMES", {})
    read_rgba(path, settings=ReadSettings(matrix="bt709"))
    assert caplog.messages == [f"{path}: matrix tag 6 of H.273 is not supported; colour is read as bt601"]


@pytest.fixture
def source(tmp_path) -> Path:
    """BT.709 colour: without a tag, and with it."""
    write(tmp_path / "in" / "bare.mkv", stored="bt709", tag=None)
    write(tmp_path / "in" / "tagged.mkv", stored="bt709", tag="bt709")
    return tmp_path / "in"


@pytest.mark.parametrize(("word", "read"), [("file", "bt601"), ("bt709", "bt709")])
def test_prepare_doctor_and_export_say_what_was_assumed(source, tmp_path, word, read):
    said = {"source": source, "matrix": word}
    clips = {clip.video: clip for clip in prepare(PrepareConfig(**said, output_path=tmp_path / "set")).clips}
    assert {name: clip.assumed_matrix for name, clip in clips.items()} == {"bare": read, "tagged": None}
    rows = [json.loads(line) for line in (tmp_path / "set" / "metadata.jsonl").read_text().splitlines()]
    assert [row["assumed_matrix"] for row in rows] == [read, None]
    back = read_pair(tmp_path / "set" / "bare_rgb.mp4", tmp_path / "set" / "bare_alpha.mp4")
    assert np.abs(back.rgb[0] - seen("bt709", read))[MIDDLES].max() <= 6
    assert back.assumed_matrix is None, "what prepare writes is tagged"
    diagnoses = doctor(DoctorConfig(**said, output_path=tmp_path / "doctor")).diagnoses
    told = {one.name: [found.says for found in one.findings if found.name == "untagged colour"] for one in diagnoses}
    assert told == {"bare": [f"YUV colour without a matrix tag was read as {read}"], "tagged": []}
    export(ExportConfig(**said, output_path=tmp_path / "out", formats=("webp",)))
    sidecars = [json.loads((tmp_path / "out" / f"{name}_export.json").read_text()) for name in ("bare", "tagged")]
    assert [sidecar.get("assumed_matrix") for sidecar in sidecars] == [read, None]
    assert np.abs(read_rgba(tmp_path / "out" / "bare.webp").rgb[0] - seen("bt709", read))[MIDDLES].max() <= 2


def test_preview(source, tmp_path):
    sheets = []
    for word in ("file", "bt709"):
        preview(PreviewConfig(source=source / "bare.mkv", output_path=tmp_path / "x.png", matrix=word, frames=1))
        with Image.open(tmp_path / "x.png") as image:
            sheets.append(np.asarray(image.convert("RGB")).astype(int))
    assert np.abs(sheets[0] - sheets[1]).max() > 8
