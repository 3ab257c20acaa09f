"""An .mp4 whose codec carries alpha is an RGBA clip; HEVC's alpha layer, which nothing here decodes, is named."""

import base64
import zlib

import av
import numpy as np
import pytest

from wan_alpha.errors import MediaError
from wan_alpha.media import colour
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.find import find_clips
from wan_alpha.media.hevc import has_alpha_layer
from wan_alpha.media.read import read_pair, read_rgba
from wan_alpha.media.write import write_pair

# One frame of 16 x 16, from FFmpeg 9.0.2: -f lavfi -i "color=red@0.5:s=16x16:r=16,format=yuva420p" -frames:v 1 -c:v libx265
# -x265-params info=0 -tag:v hvc1 -fflags +bitexact -map_metadata -1 a.mp4, deflated. PyAV's wheels cannot write such files.
HEVC_WITH_ALPHA = (
    "eNqNUs1r1EAUf5MEm5UFt1CxwrKsUnFBPbRY7UHZUCsEkYIHK4hoszsTEptpQjIN6sW9CHoLSEU8VcHznrwJfiAeFMH/QI/e1oOHCtX4Jt0l2W0VHzPzvn7v"
    "zZs3DwCqtrgduJHPARSQHPcMD05OA4Buh4whb3BqCeSVBuke7PR6R9Lk48/mjRe/JaZRevh+uUe+AqgJ9/0YbR6PHQpDpH7DowkE5MqJDKNGdQP+SQquLyK0"
    "VlC+JlayO9VdsjV3RP7PvZX+BphiVETIq8yLRCGimccqVzh1LRTqnI6+XWbT4PK7TDnhUC8ceGKXsiJyCXXftFapxyRGUbi7aqMwEfMsabHMKbrtq9KQ2YWi"
    "ymuhV9+WydtItDzk1yMR0RxDFp24Pf2XVshHV8BEbg4Q5YtW3K57buvWzKnZ3T5iMk3x/IBZzxGyjGKSmWvfYevX5ibAPm0D7zltkPJ4mkqAKhGqXLX1x/tf"
    "1SaBjGlzczo2asvIPD8c6MA9uHThk/kUP7oxT8hI4Mb984+Wbr7sEkeXenZ0DKjNl0aR5uFxtv6ke+z1VTCeYbI9C+RN9PkBjC2UzANn9OQoFldaJM81gLtJ"
    "Bwvfa7vMyxpTCawo6HdJ7omWCMWgTYPXRyIbD8hxmpSr2PX2sD3Pg747fV89t7X9Av447rNrVMixmuUs45IOFUcIxy60gsArfofu4pz+AVHBi9M="
)


def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 32, 32, 4), dtype=np.uint8)


def write_mp4(path, codec: str, pixel_format: str, order: list[int]) -> None:
    with av.open(str(path), "w", options={"strict": "experimental"}) as container:
        stream = container.add_stream(codec, rate=16, options={"strict": "experimental"})
        stream.width, stream.height, stream.pix_fmt = 32, 32, pixel_format
        for picture in frames():
            if pixel_format == "yuv420p":
                frame = colour.video_frame(picture[..., :3], "yuv420p")
            else:
                frame = colour.planar_frame([picture[..., order]], pixel_format, width=32, height=32)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.parametrize(("codec", "pixel_format", "order"), [("png", "rgba", [0, 1, 2, 3]), ("ffv1", "bgra", [2, 1, 0, 3])])
def test_rgba_in_mp4_is_a_clip(tmp_path, codec, pixel_format, order):
    path = tmp_path / "a.mp4"
    write_mp4(path, codec, pixel_format, order)
    for source in (path, tmp_path):
        (clip,) = find_clips(source)
        assert (clip.rgba, clip.problem) == (path, None)
    assert np.array_equal(read_rgba(path).rgba(), frames())


def test_opaque_mp4_still_lacks_its_matte(tmp_path):
    for name, codec, pixel_format in (("a", "libx264", "yuv420p"), ("b", "png", "rgb24")):
        write_mp4(tmp_path / f"{name}.mp4", codec, pixel_format, [0, 1, 2])
    (tmp_path / "c.mp4").write_bytes(b"no video")
    assert [str(clip.problem).split(": ")[1].split(",")[0] for clip in find_clips(tmp_path)] == ["got half a pair"] * 3


def test_pairs_are_not_opened(tmp_path, monkeypatch):
    """Listing a large set of pairs costs no look into its files."""
    picture = frames()
    write_pair(RgbaClip(rgb=picture[..., :3], alpha=picture[..., 3], fps=16.0), tmp_path / "a")
    monkeypatch.setattr("wan_alpha.media.pairs.holds_alpha", lambda path: pytest.fail(f"{path} was opened"))
    (clip,) = find_clips(tmp_path)
    assert (clip.rgb, clip.alpha) == (tmp_path / "a_rgb.mp4", tmp_path / "a_alpha.mp4")


def write_hevc(path):
    path.write_bytes(zlib.decompress(base64.b64decode(HEVC_WITH_ALPHA)))
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_the_alpha_layer_of_hevc_is_named(tmp_path, suffix):
    path = write_hevc(tmp_path / f"a{suffix}")
    assert find_clips(path)[0].rgba == path
    with pytest.raises(MediaError, match=r"HEVC, whose alpha layer cannot be decoded here.*ProRes 4444"):
        read_rgba(path)
    data, alpha_info = path.read_bytes(), b"\x4e\x01\xa5"
    assert data.count(alpha_info) == 1
    path.write_bytes(data.replace(alpha_info, b"\x4e\x01\x90"))  # now about light levels
    assert find_clips(path)[0].rgba == (path if suffix == ".mov" else None)
    with pytest.raises(MediaError, match="got no alpha channel"):
        read_rgba(path)


def test_colour_of_a_pair_may_have_such_a_layer(tmp_path):
    alpha = np.full((1, 16, 16), 77, np.uint8)
    _, matte = write_pair(RgbaClip(rgb=np.zeros((1, 16, 16, 3), np.uint8), alpha=alpha, fps=16.0), tmp_path / "b")
    assert np.array_equal(read_pair(write_hevc(tmp_path / "a.mov"), matte).alpha, alpha)


def test_messages_of_a_header():
    def record(*units: bytes) -> bytes:
        sized = b"".join(len(unit).to_bytes(2, "big") + unit for unit in units)
        return bytes([1, *[0] * 20, 3, 1]) + b"\x27" + len(units).to_bytes(2, "big") + sized

    sei = bytes([39 << 1, 1])
    other = bytes([255, 10, 2, 7, 7])
    assert has_alpha_layer(record(sei + bytes([165, 1, 0])), b"")
    assert has_alpha_layer(record(sei + other + bytes([165, 1, 0])), b"")
    assert has_alpha_layer(record(sei + bytes([4, 3, 0, 0, 3, 9, 165, 1, 0])), b""), "the 3 after two zeros is no part of the message"
    assert not has_alpha_layer(record(sei + other, bytes([33 << 1, 1, 165, 1, 0])), b"")
    packet = sei + bytes([165, 1, 0])
    assert has_alpha_layer(record(), len(packet).to_bytes(4, "big") + packet)
    for cut in range(40):
        assert not has_alpha_layer(record(sei + other * 3)[:cut], bytes(cut))
