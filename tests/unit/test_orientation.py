"""How a file wants its picture turned: quarter turns and mirrors are applied, other turns refused."""

import struct
from pathlib import Path

import av
import numpy as np
import pytest

from wan_alpha.errors import MediaError
from wan_alpha.media import colour
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.movies import write_webm
from wan_alpha.media.orientation import upright
from wan_alpha.media.read import read_rgba

ONE = 65536
TURNS = {  # how a matrix shows a picture
    (ONE, 0, 0, ONE): lambda x: x,
    (-ONE, 0, 0, ONE): np.fliplr,
    (ONE, 0, 0, -ONE): np.flipud,
    (-ONE, 0, 0, -ONE): lambda x: np.rot90(x, 2),
    (0, -ONE, ONE, 0): lambda x: np.rot90(x, 1),
    (0, ONE, -ONE, 0): lambda x: np.rot90(x, -1),
    (0, ONE, ONE, 0): lambda x: x.swapaxes(0, 1),
    (0, -ONE, -ONE, 0): lambda x: np.rot90(x, 2).swapaxes(0, 1),
}


def picture() -> np.ndarray:
    image = np.zeros((16, 32, 4), np.uint8)
    image[:8, :8] = (255, 0, 0, 255)
    image[:4, 24:] = (0, 255, 0, 128)
    return image


def write_mov(path: Path, *, degrees: int) -> None:
    frame = colour.planar_frame([picture()[..., [3, 0, 1, 2]]], "argb", width=32, height=16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("qtrle", rate=8)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "argb"
        stream.set_display_rotation(degrees)
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def turned(path: Path, turn: tuple[int, int, int, int]) -> Path:
    """A movie with this matrix in the header of its track (ISO/IEC 14496-12, tkhd), where its own was a half turn."""
    data = path.read_bytes()
    old = struct.pack(">5i", -ONE, 0, 0, 0, -ONE)
    assert data.count(old) == 1
    a, b, c, d = turn
    path.write_bytes(data.replace(old, struct.pack(">5i", a, b, 0, c, d)))
    return path


@pytest.mark.parametrize("turn", TURNS)
def test_quarter_turns_and_mirrors_are_applied(tmp_path, turn):
    write_mov(tmp_path / "a.mov", degrees=180)
    assert np.array_equal(read_rgba(turned(tmp_path / "a.mov", turn)).rgba()[0], TURNS[turn](picture()))


def test_other_turns_are_refused(tmp_path):
    write_mov(tmp_path / "a.mov", degrees=180)
    with pytest.raises(MediaError, match=r"a rotation tag of 0\.71 -0\.71 0\.71 0\.71, expected quarter turns"):
        read_rgba(turned(tmp_path / "a.mov", (46341, -46341, 46341, 46341)))
    with pytest.raises(MediaError, match="rotation tag"):
        upright(tmp_path, picture()[..., 3], (0, 0, 0, 0))


@pytest.mark.parametrize("degrees", [90, -90, 180])
def test_webm_with_alpha_is_turned(tmp_path, degrees):
    """Its alpha needs a second decoder, which does not see what the container says."""
    image = picture()
    write_webm(RgbaClip(rgb=image[None, ..., :3], alpha=image[None, ..., 3], fps=16.0), tmp_path / "level.webm")
    with av.open(str(tmp_path / "level.webm")) as source, av.open(str(tmp_path / "a.webm"), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        stream.metadata["alpha_mode"] = "1"
        stream.set_display_rotation(degrees)
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                container.mux(packet)
    level, lying = read_rgba(tmp_path / "level.webm"), read_rgba(tmp_path / "a.webm")
    assert np.array_equal(level.alpha[0], image[..., 3])
    assert np.array_equal(lying.rgba()[0], np.rot90(level.rgba()[0], degrees // 90))
