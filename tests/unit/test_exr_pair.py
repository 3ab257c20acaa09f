"""EXR colour beside a matte of its own: what was multiplied as light is divided as light, and coverage is not light."""

import json
from pathlib import Path

import numpy as np
import pytest

from wan_alpha.config import ExportConfig, PrepareConfig
from wan_alpha.export import export
from wan_alpha.media import exr, stills
from wan_alpha.media.clip import ALPHA_TAG, RgbaClip
from wan_alpha.media.read import ReadSettings, read_matte, read_pair, read_rgba
from wan_alpha.media.transfer import linear_to_srgb, srgb_to_linear
from wan_alpha.media.write import write_png_sequence
from wan_alpha.prepare import prepare

openexr = pytest.importorskip("OpenEXR", reason="needs the extra 'exr'")

ALPHA = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
COLOUR = np.array([200, 120, 40], np.uint8)


@pytest.fixture
def pair(tmp_path, request):
    """One colour times alpha, as light or as sRGB values, in EXR without alpha, and the matte as PNG: a_rgb/ and a_alpha/."""
    transfer = getattr(request, "param", "linear")
    values = srgb_to_linear(COLOUR / 255) if transfer == "linear" else COLOUR / 255
    premul = (values * (ALPHA[0, ..., None] / 255)).astype(np.float32)
    (tmp_path / "a_rgb").mkdir()
    header = {"compression": openexr.ZIP_COMPRESSION, "type": openexr.scanlineimage}
    header |= {exr.TRANSFER_ATTRIBUTE: transfer} if transfer == "display" else {}
    openexr.File(header, {"RGB": premul}).write(str(tmp_path / "a_rgb" / "0001.exr"))
    grey = RgbaClip(rgb=np.stack([ALPHA] * 3, -1), alpha=np.full_like(ALPHA, 255), fps=16.0)
    write_png_sequence(grey, tmp_path / "a_alpha")
    return tmp_path


@pytest.mark.parametrize("pair", ["linear", "display"], indirect=True)
@pytest.mark.parametrize("mode", ["premultiplied", "detect"])
@pytest.mark.parametrize("name", ["a_rgb", "a_rgb/0001.exr"])
def test_premultiplied_colour_comes_back(pair, mode, name):
    clip = read_pair(pair / name, pair / "a_alpha", settings=ReadSettings(alpha_mode=mode))
    assert (clip.bits, np.array_equal(clip.alpha, ALPHA)) == (8, True)
    assert np.abs(clip.rgb.astype(int) - COLOUR)[ALPHA >= 2].max() <= 1
    assert clip.rgb[ALPHA == 0].max() == 0


def test_straight_colour_stays(pair):
    """Without alpha of its own, and with a file that does not say premultiplied, colour is what the light in it looks like."""
    stored = linear_to_srgb(srgb_to_linear(COLOUR / 255) * (ALPHA[..., None] / 255))
    for mode in ("file", "straight"):
        got = read_pair(pair / "a_rgb", pair / "a_alpha", settings=ReadSettings(alpha_mode=mode)).rgb
        assert np.abs(got / 255 - stored).max() <= 0.51 / 255


def frames(folder: Path, *, said: tuple[str | None, ...]) -> Path:
    """EXR with alpha of its own, a frame for each word that its header says of it."""
    folder.mkdir(parents=True)
    pixels = np.dstack([np.full((16, 16, 3), 0.1), ALPHA[0] / 255]).astype(np.float16)
    for index, word in enumerate(said):
        header = {"compression": openexr.ZIP_COMPRESSION, "type": openexr.scanlineimage} | ({ALPHA_TAG: word} if word else {})
        openexr.File(header, {"RGBA": pixels}).write(str(folder / f"{index}.exr"))
    return folder


BY_CUSTOM, FILE_SAYS = "for EXR with alpha is premultiplied where it does not say otherwise", "for its file says that it is premultiplied"


@pytest.mark.parametrize(
    ("said", "mode", "why"),
    [
        ((None, None), "file", BY_CUSTOM),
        ((None, None), "detect", BY_CUSTOM),
        (("premultiplied",) * 2, "file", FILE_SAYS),
        (("straight",) * 2, "file", None),
        (("straight",) * 2, "premultiplied", "for it was called premultiplied"),
        ((None, None), "straight", None),
        ((None, "premultiplied", "straight"), "file", f"in 2 of 3 frames, {BY_CUSTOM} and {FILE_SAYS}"),
    ],
)
def test_what_was_divided_is_told(tmp_path, said, mode, why):
    """By prepare in its metadata, by export in its sidecar; of frames, and of a picture alone."""
    source = frames(tmp_path / "in" / "clip", said=said)
    told = [] if why is None else [f"unpremultiply: colour divided by alpha, {why}"]
    assert [*read_rgba(source, settings=ReadSettings(alpha_mode=mode)).reading] == told
    shared = {"source": tmp_path / "in", "source_alpha": mode, "output_path": tmp_path / "out"}
    assert [*prepare(PrepareConfig(**shared)).clips[0].changes] == told
    export(ExportConfig(**shared, formats=("webp",), fps=16.0))
    assert json.loads((tmp_path / "out" / "clip_export.json").read_text())["changes"] == told
    alone = read_rgba(source / "0.exr", settings=ReadSettings(alpha_mode=mode))
    assert bool(alone.reading) == ((said[0] != "straight" and mode != "straight") or mode == "premultiplied")


def test_frames_of_a_matte_are_read_once(tmp_path, monkeypatch):
    folder = frames(tmp_path / "a_alpha", said=(None, None))
    opened = []
    real = stills.read_bytes
    monkeypatch.setattr(stills, "read_bytes", lambda path: opened.append(path) or real(path))
    read_matte(folder)
    assert opened == [folder / "0.exr", folder / "1.exr"]


def test_export_of_such_a_pair(pair):
    clips = pair / "in"
    clips.mkdir()
    for half in ("a_rgb", "a_alpha"):
        (pair / half).rename(clips / half)
    export(ExportConfig(source=clips, output_path=pair / "out", formats=("webp",), source_alpha="premultiplied"))
    clip = read_rgba(pair / "out" / "a.webp")
    assert np.abs(clip.rgb.astype(int) - COLOUR)[ALPHA >= 2].max() <= 1


@pytest.mark.parametrize("channels", ["Y", "RGB", "RGBA"])
def test_a_matte_in_exr_is_coverage_as_it_stands(tmp_path, channels):
    """Neither turned into sRGB nor divided by an alpha of the matte's own file."""
    coverage = (ALPHA[0] / 255).astype(np.float32)
    pixels = coverage if channels == "Y" else np.stack([coverage] * len(channels), -1)
    header = {"compression": openexr.ZIP_COMPRESSION, "type": openexr.scanlineimage}
    openexr.File(header, {channels: pixels}).write(str(tmp_path / "a_alpha.exr"))
    assert np.array_equal(read_matte(tmp_path / "a_alpha.exr")[0], ALPHA)
    deep, _ = read_matte(tmp_path / "a_alpha.exr", bits=16)
    assert np.abs(deep.astype(int) - ALPHA.astype(int) * 257).max() <= 2
