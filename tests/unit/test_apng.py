"""Animated PNG of 8 and 16 bits, from files made chunk by chunk: levels, places, what pictures leave behind, damage."""

import struct
import zlib
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from wan_alpha.errors import MediaError
from wan_alpha.media import apng as module
from wan_alpha.media.clip import change_bits
from wan_alpha.media.read import count_frames, read_matte, read_pair, read_rgba, stated_rate

NONE, BACKGROUND, PREVIOUS = 0, 1, 2
SOURCE, OVER = 0, 1
COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def rows(image: np.ndarray) -> bytes:
    """(H, W, C) uint16, or uint8, as PNG compresses it, without filters."""
    wire = image.astype(">u2") if image.dtype == np.uint16 else image
    return zlib.compress(b"".join(b"\0" + row.tobytes() for row in wire))


def apng(
    path: Path, pictures: list[dict], *, size: tuple[int, int], before: np.ndarray | None = None, extra: bytes = b"", **changes
) -> Path:
    """pictures: image (H, W, C), and at = (left, top), dispose, blend, delay_ms. before: a still that is not part of the animation.

    changes: count (what the header says), order (added to the sequence numbers after the first).
    """
    height, width = size
    first = pictures[0]["image"]
    header = struct.pack(">IIBBBBB", width, height, 8 * first.itemsize, COLOUR_TYPES[first.shape[2]], 0, 0, 0)
    parts = [chunk(b"IHDR", header), extra, chunk(b"acTL", struct.pack(">II", changes.get("count", len(pictures)), 0))]
    if before is not None:
        parts.append(chunk(b"IDAT", rows(before)))
    order = 0
    for index, picture in enumerate(pictures):
        image, (left, top) = picture["image"], picture.get("at", (0, 0))
        control = struct.pack(">IIIIIHH", order, image.shape[1], image.shape[0], left, top, picture.get("delay_ms", 50), 1000)
        parts.append(chunk(b"fcTL", control + bytes([picture.get("dispose", NONE), picture.get("blend", SOURCE)])))
        order += 1 + changes.get("order", 0)
        if index == 0 and before is None:
            parts.append(chunk(b"IDAT", rows(image)))
        else:
            data = rows(image)
            for piece in (data[: len(data) // 2], data[len(data) // 2 :]):
                parts.append(chunk(b"fdAT", struct.pack(">I", order) + piece))
                order += 1
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b""))
    return path


def noise(frames: int, height: int = 6, width: int = 8, channels: int = 4) -> np.ndarray:
    return np.random.default_rng(frames).integers(0, 65536, (frames, height, width, channels), dtype=np.uint16)


def plain(value: tuple[int, ...], height: int = 6, width: int = 8) -> np.ndarray:
    return np.broadcast_to(np.uint16(value), (height, width, len(value))).copy()


@pytest.mark.parametrize("blend", [SOURCE, OVER])
@pytest.mark.parametrize("bits", [8, 16])
def test_every_bit_comes_back(tmp_path, blend, bits):
    """Over what a picture before it has cleared, both blends are the picture itself. (Pillow's OVER squares translucent alpha.)"""
    images = change_bits(noise(3), bits)
    images[..., 3] = np.maximum(images[..., 3], 1)
    path = apng(tmp_path / "a.png", [{"image": image, "blend": blend, "dispose": BACKGROUND} for image in images], size=(6, 8))
    clip = read_rgba(path, bits=16)
    assert clip.bits == bits
    assert np.array_equal(clip.rgba(), images)
    assert (clip.fps, count_frames(path)) == (20, 3)
    assert np.array_equal(read_rgba(path, bits=16, start=1, count=2).rgba(), images[1:])
    assert np.array_equal(read_rgba(path).rgba(), np.rint(images / (257 if bits == 16 else 1))), "rounded, not cut"


def test_what_pictures_leave_behind(tmp_path):
    """A patch at (3, 1) of 2 x 4 pixels, put down three times: left there, taken back, and cleared."""
    ground, patch, end = plain((1000, 2000, 3000, 60000)), plain((40000, 50000, 60000, 30001), 4, 2), plain((7, 8, 9, 10), 1, 1)
    for dispose, left_behind in ((NONE, patch), (PREVIOUS, ground[:4, :2]), (BACKGROUND, 0 * patch)):
        placed = {"image": patch, "at": (3, 1), "dispose": dispose}
        clip = read_rgba(apng(tmp_path / "a.png", [{"image": ground}, placed, {"image": end, "at": (7, 5)}], size=(6, 8)), bits=16)
        with_patch = ground.copy()
        with_patch[1:5, 3:5] = patch
        after = ground.copy()
        after[1:5, 3:5], after[5, 7] = left_behind, end
        assert np.array_equal(clip.rgba(), np.stack([ground, with_patch, after])), dispose


def test_blending_is_over_of_straight_colours(tmp_path):
    """Half of a colour over an opaque one; over a translucent one; over nothing; nothing over a colour."""
    below, above = plain((0, 0, 0, 0), 1, 4), plain((60000, 0, 30000, 0), 1, 4)
    below[0, 0], below[0, 1], below[0, 3] = (10000, 20000, 30000, 65535), (10000, 20000, 30000, 32768), (1, 2, 3, 4)
    above[0, :3, 3] = (32768, 32768, 4)
    path = apng(tmp_path / "a.png", [{"image": below}, {"image": above, "blend": OVER}], size=(1, 4))
    got = read_rgba(path, bits=16).rgba()[1, 0].astype(int)
    half = 32768 / 65535
    assert np.abs(got[0] - [10000 + half * 50000, 20000 * (1 - half), 30000, 65535]).max() <= 0.5
    alpha = half + half * (1 - half)
    share = half / alpha
    assert np.abs(got[1] - [10000 + share * 50000, 20000 * (1 - share), 30000, 65535 * alpha]).max() <= 0.5
    assert np.array_equal(got[2], above[0, 2])
    assert np.array_equal(got[3], [1, 2, 3, 4])


def test_taking_back_the_first_picture_leaves_nothing(tmp_path):
    images = [{"image": plain((5, 6, 7, 65535)), "dispose": PREVIOUS}, {"image": plain((9, 9, 9, 9), 1, 1)}]
    second = read_rgba(apng(tmp_path / "a.png", images, size=(6, 8)), bits=16).rgba()[1]
    assert second[0, 0].tolist() == [9, 9, 9, 9]
    assert second.reshape(-1, 4)[1:].max() == 0


def test_same_composition_as_ffmpeg(tmp_path):
    """Random places and ways, in levels that 8 bits hold exactly, whole or no alpha."""
    rng = np.random.default_rng(5)
    pictures = []
    for index in range(12):
        height, width = (6, 8) if index == 0 else (int(rng.integers(1, 6)), int(rng.integers(1, 8)))
        image = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
        image[..., 3] = 255 * rng.integers(0, 2, (height, width))
        image[image[..., 3] == 0] = 0
        at = (int(rng.integers(0, 9 - width)), int(rng.integers(0, 7 - height)))
        pictures.append({"image": image, "at": at, "dispose": int(rng.integers(3)), "blend": int(rng.integers(2))})
    shallow = apng(tmp_path / "8.png", pictures, size=(6, 8))
    deep = apng(tmp_path / "16.png", [{**p, "image": p["image"] * np.uint16(257)} for p in pictures], size=(6, 8))
    with av.open(str(shallow), format="apng") as container:
        composed = np.stack([frame.to_ndarray(format="rgba") for frame in container.decode(video=0)])
    for path in (deep, shallow):
        assert np.array_equal(read_rgba(path).rgba(), composed)
        for start in range(12):
            assert np.array_equal(read_rgba(path, start=start, count=1).rgba(), composed[start : start + 1]), start


def test_a_window_begins_at_the_last_picture_that_stands_alone(tmp_path, monkeypatch):
    """One that covers the canvas, is not laid over it, and does not bring back what was there."""
    whole, small = noise(7), noise(1, height=2, width=2)[0]
    pictures = [{"image": image} for image in whole]
    pictures[4], pictures[6] = {"image": small}, {"image": whole[6], "dispose": PREVIOUS}
    path = apng(tmp_path / "a.png", pictures, size=(6, 8))
    frames = read_rgba(path, bits=16).rgba()
    decoded = []
    real = module._pixels
    monkeypatch.setattr("wan_alpha.media.apng._pixels", lambda *args: decoded.append(args[-1]) or real(*args))
    for start, count, pictures_read in ((0, 1, 1), (3, 1, 1), (4, 1, 2), (5, 1, 1), (5, 2, 2), (6, 1, 2)):
        decoded.clear()
        assert np.array_equal(read_rgba(path, bits=16, start=start, count=count).rgba(), frames[start : start + count])
        assert len(decoded) == pictures_read, start


def test_a_still_before_the_animation_is_not_part_of_it(tmp_path):
    images = noise(2)
    path = apng(tmp_path / "a.png", [{"image": image} for image in images], size=(6, 8), before=plain((1, 1, 1, 1)))
    assert np.array_equal(read_rgba(path, bits=16).rgba(), images)


@pytest.mark.parametrize("bits", [8, 16])
def test_an_animation_of_one_picture_behind_a_still(tmp_path, bits):
    """Viewers show the picture; it has no rate, as any clip of one frame."""
    (image,), before = change_bits(noise(1), bits), change_bits(plain((1, 1, 1, 1)), bits)
    path = apng(tmp_path / "a.png", [{"image": image}], size=(6, 8), before=before)
    with av.open(str(path), format="apng") as container:
        shown = next(container.decode(video=0)).to_ndarray(format="rgba")
    assert np.abs(shown - change_bits(image, 8).astype(int)).max() <= 1, "FFmpeg shows it too"
    clip = read_rgba(path, bits=16)
    assert np.array_equal(clip.rgba(), image[None])
    assert np.array_equal(read_rgba(path).rgba(), change_bits(image, 8)[None])
    assert (clip.fps, count_frames(path), stated_rate(path)) == (16, 1, None)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(MediaError, match=r"a\.png"):
        read_rgba(path)


def test_a_still_that_is_the_only_picture(tmp_path):
    (image,) = noise(1)
    path = apng(tmp_path / "a.png", [{"image": image}], size=(6, 8))
    assert np.array_equal(read_rgba(path, bits=16).rgba(), image[None])


def test_colour_and_matte_as_two_animations(tmp_path):
    colour, matte = noise(2, channels=3), noise(2, channels=1)
    for name, images in (("a_rgb.png", colour), ("a_alpha.png", matte)):
        apng(tmp_path / name, [{"image": image} for image in images], size=(6, 8))
    clip = read_pair(tmp_path / "a_rgb.png", tmp_path / "a_alpha.png", bits=16)
    assert np.array_equal(clip.rgb, colour)
    assert np.array_equal(clip.alpha, matte[..., 0])
    assert np.array_equal(read_matte(tmp_path / "a_alpha.png", bits=16)[0], matte[..., 0])
    with pytest.raises(MediaError, match="no alpha channel"):
        read_rgba(tmp_path / "a_rgb.png")


def test_a_colour_that_stands_for_transparent(tmp_path):
    images = noise(2, channels=3)
    images[:, 0, 0] = (1, 2, 3)
    keyed = apng(tmp_path / "a.png", [{"image": i} for i in images], size=(6, 8), extra=chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3)))
    alpha = read_rgba(keyed, bits=16).alpha
    assert np.array_equal(alpha == 0, (images == (1, 2, 3)).all(axis=-1))
    assert set(np.unique(alpha)) == {0, 65535}


def test_pillow_agrees_that_the_files_are_sound(tmp_path):
    path = apng(tmp_path / "a.png", [{"image": image} for image in noise(3)], size=(6, 8))
    with Image.open(path) as image:
        assert (image.n_frames, image.size) == (3, (8, 6))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ({"count": 3}, r"2 pictures, expected 3"),
        ({"order": 1}, r"out of order"),
        ({"at": (5, 0)}, r"up to \(13, 6\).*inside 8x6"),
        ({"checksum": True}, r"wrong checksum"),
        ({"cut": True}, r"a\.png"),
    ],
)
def test_damage_is_named(tmp_path, spoil, message):
    first, second = noise(2)
    changes = {key: spoil[key] for key in ("count", "order") if key in spoil}
    path = apng(tmp_path / "a.png", [{"image": first}, {"image": second, "at": spoil.get("at", (0, 0))}], size=(6, 8), **changes)
    data = bytearray(path.read_bytes())
    if "checksum" in spoil:
        data[data.index(b"fdAT") + 12] ^= 1
    path.write_bytes(data[:-20] if "cut" in spoil else data)
    with pytest.raises(MediaError, match=message):
        read_rgba(path, bits=16)


def test_rows_that_are_missing_are_an_error(tmp_path):
    """A picture whose data ends early, in a file that is whole: decoders give the missing rows as black."""
    first, second = noise(2)
    path = apng(tmp_path / "a.png", [{"image": first}, {"image": second}], size=(6, 8))
    short = apng(tmp_path / "b.png", [{"image": first}, {"image": second[:3]}], size=(6, 8))
    control = path.read_bytes()[slice(*(path.read_bytes().rindex(b"fcTL") + at for at in (-4, 34)))]
    data, at = short.read_bytes(), short.read_bytes().rindex(b"fcTL") - 4
    short.write_bytes(data[:at] + control + data[at + 38 :])
    with pytest.raises(MediaError, match=r"b\.png"):
        read_rgba(short, bits=16)
