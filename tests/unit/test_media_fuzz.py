"""Damaged and lying files: every reader gives a MediaError or a clip within its limits, quickly. Mutations are seeded, not random."""

import struct
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from wan_alpha.errors import MediaError
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.formats import FORMATS, WriteOptions, ending, write_format
from wan_alpha.media.read import count_frames, read_matte, read_rgba

MUTATIONS = 24
SECONDS = 5.0
"""Of one damaged file, on a busy machine; a good one takes milliseconds."""
FILES = {"zip": 0, "webp": 0, "apng": 0, "apng_16": 0, "prores": 0, "webm": 0, "ffv1": 0, "pair": 1}


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> dict[str, Path]:
    """One small file of each kind."""
    folder = tmp_path_factory.mktemp("good")
    levels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 4), dtype=np.uint8)
    clip = RgbaClip(rgb=levels[..., :3], alpha=levels[..., 3], fps=16.0)
    files = {}
    for name, index in FILES.items():
        kind, _, deep = name.partition("_")
        write_format(clip.with_bits(16) if deep else clip, folder / name, name=kind, options=WriteOptions())
        files[name] = ending(folder / name, FORMATS[kind].endings[index])
    return files


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Cut short, single bits turned, a field overwritten by an extreme number, or a piece repeated."""
    kind, at = int(rng.integers(4)), int(rng.integers(len(data)))
    if kind == 0:
        return data[:at]
    changed = bytearray(data)
    if kind == 1:
        for place in rng.integers(0, len(data), 4):
            changed[place] ^= 1 << int(rng.integers(8))
    elif kind == 2:
        head = int(rng.integers(min(len(data), 600)))
        changed[head : head + 4] = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", bytes(4), b"\x00\x00\x00\x01")[int(rng.integers(4))]
    else:
        changed[at:at] = data[at : at + 64]
    return bytes(changed)


@pytest.mark.parametrize("name", FILES)
def test_damage_is_an_error_or_a_clip(tmp_path, good, name):
    data = good[name].read_bytes()
    rng = np.random.default_rng(list(FILES).index(name))
    read = read_matte if name == "pair" else read_rgba
    refused: list[str] = []
    for number in range(MUTATIONS):
        path = tmp_path / f"{number}{good[name].suffix}"
        path.write_bytes(mutated(data, rng))
        started = time.process_time()
        try:
            count_frames(path)
            clip = read(path)
            frames = len(clip[0]) if name == "pair" else clip.num_frames
            assert frames >= 1
        except MediaError as error:
            refused.append(str(error))
        assert time.process_time() - started < SECONDS, number
    assert len(refused) > MUTATIONS // 4
    assert "\n" not in "".join(refused)


@pytest.mark.parametrize("name", ["a.png", "a.exr", "a.gif", "a.jpg"])
def test_damaged_stills(tmp_path, name):
    from PIL import Image

    from wan_alpha.media.exr import write_exr_sequence

    noise = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 4), dtype=np.uint8)
    if name == "a.exr":
        pytest.importorskip("OpenEXR")
        write_exr_sequence(RgbaClip(rgb=noise[..., :3], alpha=noise[..., 3], fps=16.0), tmp_path / "exr", transfer="linear")
        data = (tmp_path / "exr" / "00000.exr").read_bytes()
    else:
        exif = Image.Exif()
        exif[0x0112] = 6
        settings = {"exif": exif} if name == "a.jpg" else {}
        Image.fromarray(noise[0]).convert("RGB" if name == "a.jpg" else "RGBA").save(tmp_path / name, **settings)
        data = (tmp_path / name).read_bytes()
    rng = np.random.default_rng(7)
    refused = 0
    for number in range(MUTATIONS):
        path = tmp_path / f"{number}_{name}"
        path.write_bytes(mutated(data, rng))
        try:
            assert (len(read_matte(path)[0]) if name == "a.jpg" else read_rgba(path).num_frames) >= 1
        except MediaError:
            refused += 1
    assert refused


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


def test_a_codec_that_nobody_knows(tmp_path, good):
    (tmp_path / "a.mp4").write_bytes(good["pair"].read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(MediaError, match="unknown codec"):
        read_matte(tmp_path / "a.mp4")


def test_a_frame_held_for_ever_is_refused(tmp_path, good):
    """One ms, then 16 million: held on a constant grid that would be millions of frames."""
    data = bytearray(good["webp"].read_bytes())
    first = data.index(b"ANMF") + 8 + 12
    second = data.index(b"ANMF", first) + 8 + 12
    data[first : first + 3], data[second : second + 3] = b"\x01\x00\x00", b"\xff\xff\xff"
    (tmp_path / "a.webp").write_bytes(data)
    with pytest.raises(MediaError, match="at most 100000 frames"):
        read_rgba(tmp_path / "a.webp")
