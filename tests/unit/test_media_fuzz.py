"""Damaged and lying files: every reader gives a MediaError or a clip within its limits, quickly. Mutations are seeded, not random."""

import json
import os
import struct
import subprocess
import sys
import zipfile
import zlib

import pytest

import damaged
from wan_alpha.errors import MediaError
from wan_alpha.media.read import read_matte, read_rgba

PEAK_MIB = 300
"""Beyond a good file's memory: the damaged and lying ones are of 16 x 16 pixels. Readers that believed them took gigabytes."""


@pytest.mark.parametrize("kind", damaged.KINDS)
def test_damage_and_lies_are_an_error_or_a_clip(tmp_path, kind):
    if kind == "EXR":
        pytest.importorskip("OpenEXR", reason="the extra 'exr' is not installed")
    words = [sys.executable, "-W", "error", damaged.__file__, kind, str(tmp_path)]
    done = subprocess.run(words, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    found = damaged.Result(**json.loads((tmp_path / "result.json").read_text()))
    assert found.broken == []
    assert found.refused > damaged.MUTATIONS // 4
    assert found.read > 0
    assert found.peak_mib < PEAK_MIB


def png_header(width: int, height: int, bits: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, bits, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("width", "height"), [(16000, 16000), (2**31 - 1, 1), (0, 4)])
def test_bombs_are_refused_before_memory_is_taken(tmp_path, bits, width, height):
    (tmp_path / "a.png").write_bytes(png_header(width, height, bits))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("0.png", png_header(width, height, bits))
    for name in ("a.png", "a.zip"):
        with pytest.raises(MediaError):
            read_rgba(tmp_path / name)


def test_a_codec_that_nobody_knows(tmp_path):
    good = damaged.KINDS["matte of a pair"](tmp_path)
    (tmp_path / "a.mp4").write_bytes(good.read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(MediaError, match="unknown codec"):
        read_matte(tmp_path / "a.mp4")


def test_a_frame_held_for_ever_is_refused(tmp_path):
    """One ms, then 16 million: held on a constant grid that would be millions of frames."""
    data = bytearray(damaged.KINDS["animated WebP"](tmp_path).read_bytes())
    first = data.index(b"ANMF") + 8 + 12
    second = data.index(b"ANMF", first) + 8 + 12
    data[first : first + 3], data[second : second + 3] = b"\x01\x00\x00", b"\xff\xff\xff"
    (tmp_path / "a.webp").write_bytes(data)
    with pytest.raises(MediaError, match="at most 100000 frames"):
        read_rgba(tmp_path / "a.webp")
