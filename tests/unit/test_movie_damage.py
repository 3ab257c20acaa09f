"""Damage that a movie's decoder passes over in silence, and headers that lie: each is refused, or read as what is there."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from plain_encoders import encode, ladder, luma, packed, planar, vp9
from wan_alpha.errors import MediaError
from wan_alpha.media.read import count_frames, read_matte, read_rgba


def noise(frames: int, *, side: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, side, side, 4), dtype=np.uint8)


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def spoilt(path: Path, at: int, value: bytes) -> Path:
    data = bytearray(path.read_bytes())
    data[at : at + len(value)] = value
    path.write_bytes(data)
    return path


@pytest.fixture
def movie(tmp_path) -> Path:
    return encode(tmp_path / "a.mov", [packed(image, "argb") for image in ladder()], codec="qtrle", pixel_format="argb")


# Checksums


@pytest.mark.parametrize("options", [{"level": "3"}, {"level": "4", "slicecrc": "2", "strict": "experimental"}])
@pytest.mark.parametrize("place", [0.1, 0.5, 1.0], ids=["begin", "middle", "size of a slice"])
def test_ffv1_is_held_to_its_checksums(tmp_path, options, place):
    """FFmpeg says so in its log alone, and fills the slice from the frame before."""
    path = encode(tmp_path / "a.mkv", [packed(image, "bgra") for image in noise(3)], codec="ffv1", pixel_format="bgra", options=options)
    assert read_rgba(path).num_frames == 3
    packet = packets(path)[1]
    at = path.read_bytes().index(packet) + min(int(place * len(packet)), len(packet) - 7)
    spoilt(path, at, bytes([path.read_bytes()[at] ^ 4]))
    with pytest.raises(MediaError, match="damaged video with a broken packet"):
        read_rgba(path)


@pytest.mark.parametrize("options", [{"level": "3", "slicecrc": "0"}, {"level": "1"}])
def test_ffv1_without_checksums_is_read(tmp_path, options):
    images = ladder()
    path = encode(tmp_path / "a.mkv", [packed(image, "bgra") for image in images], codec="ffv1", pixel_format="bgra", options=options)
    assert np.array_equal(read_rgba(path).rgba(), images)


def test_png_pictures_in_a_movie_are_held_to_their_checksums(tmp_path):
    path = encode(tmp_path / "a.mov", [packed(image, "rgba") for image in noise(3)], codec="png", pixel_format="rgba")
    assert read_rgba(path).num_frames == 3
    packet = packets(path)[1]
    colour_type = path.read_bytes().index(packet) + packet.index(b"IHDR") + 13
    with pytest.raises(MediaError):
        read_rgba(spoilt(path, colour_type, b"\x04"))


# Alpha beside the picture


def beside(path: Path, colours: Path, mattes: Path | None, *, without: int | None = None) -> Path:
    """The colour of one WebM with the alpha that lies beside another's; frame WITHOUT has none."""
    taken: list[av.Packet] = []
    if mattes is not None:
        with av.open(str(mattes)) as container:
            taken = [packet for packet in container.demux(video=0) if packet.size]
    with av.open(str(colours)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        stream.metadata["alpha_mode"] = "1"
        for index, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
            kept = av.Packet(bytes(packet))
            kept.pts, kept.dts, kept.time_base, kept.is_keyframe = packet.pts, packet.dts, packet.time_base, packet.is_keyframe
            kept.stream = stream
            if taken and index != without:
                kept.set_sidedata(taken[index].get_sidedata("matroska_block_additional"))
            target.mux(kept)
    return path


def webm(path: Path, images: np.ndarray, *, codec: str = "libvpx-vp9", group: int = 100) -> Path:
    quality = {"crf": "4", "b": "1000000"} if codec == "libvpx" else {"lossless": "1"}
    options = {"auto-alt-ref": "0", "lag-in-frames": "0", "g": str(group), **quality}
    return encode(path, [vp9(image) for image in images], codec=codec, pixel_format="yuva420p", options=options)


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_alpha_whose_key_frames_are_elsewhere(tmp_path, codec):
    """Sought by the key frames of its colour, alpha cannot be decoded: then from the first frame on."""
    images = ladder(frames=9)
    colours, mattes = webm(tmp_path / "c.webm", images, codec=codec, group=3), webm(tmp_path / "m.webm", images, codec=codec)
    path = beside(tmp_path / "a.webm", colours, mattes)
    whole = read_rgba(path)
    assert np.abs(whole.alpha.astype(int) - images[..., 3]).max() <= (0 if codec == "libvpx-vp9" else 80)
    for start, count in ((0, 2), (3, 2), (4, 1), (7, 2)):
        assert np.array_equal(read_rgba(path, start=start, count=count).rgba(), whole.rgba()[start : start + count])


def test_alpha_that_is_missing_or_does_not_fit(tmp_path):
    colours = webm(tmp_path / "c.webm", noise(3))
    with pytest.raises(MediaError, match="no alpha channel"):
        read_rgba(beside(tmp_path / "one.webm", colours, colours, without=1))
    small = webm(tmp_path / "m.webm", noise(3, side=16))
    with pytest.raises(MediaError, match="got 16x16 of alpha at time stamp 0, expected 32x32 of it"):
        read_rgba(beside(tmp_path / "size.webm", colours, small))
    path = beside(tmp_path / "a.webm", colours, colours)
    data = path.read_bytes()
    matte = data.rindex(b"\x49\x83\x42")  # the start code of the last key frame, which is alpha's
    with pytest.raises(MediaError):
        read_rgba(spoilt(path, matte, b"\0"))


def test_a_picture_larger_than_its_movie_is_refused(tmp_path):
    """VP9 says its size in each key frame (bits 36 to 68), and asks for memory as that says."""
    path = webm(tmp_path / "a.webm", noise(3))
    packet = packets(path)[0]
    bits = int.from_bytes(packet[4:9], "big") | (2**32 - 1) << 4
    with pytest.raises(MediaError):
        read_rgba(spoilt(path, path.read_bytes().index(packet) + 4, bits.to_bytes(5, "big")))


# Frames and their times


def test_pictures_that_vp8_never_shows_are_none(tmp_path):
    """An encoder may put pictures between the others that only predict (a bit of their first byte says so)."""
    images = [luma(np.roll(ladder(1)[0, ..., 0], 2 * t, axis=0)) for t in range(6)]
    path = encode(tmp_path / "a.webm", images, codec="libvpx", pixel_format="yuv420p", options={"crf": "4", "b": "1000000"})
    before, _ = read_matte(path)
    packet = packets(path)[2]
    spoilt(path, path.read_bytes().index(packet), bytes([packet[0] & ~0x10]))
    whole, _ = read_matte(path)
    assert count_frames(path) == len(whole) == 5
    assert np.array_equal(whole, np.delete(before, 2, axis=0))
    assert np.array_equal(read_matte(path, start=2, count=2)[0], whole[2:4])


def test_frames_in_another_order_than_their_times_are_refused(tmp_path):
    path = encode(tmp_path / "a.mkv", [packed(image, "bgra") for image in noise(4)], codec="ffv1", pixel_format="bgra")
    time = path.read_bytes().index(packets(path)[1]) - 3
    assert path.read_bytes()[time : time + 2] == struct.pack(">h", 83)
    with pytest.raises(MediaError, match="time stamp 167 after one at 200"):
        read_rgba(spoilt(path, time, struct.pack(">h", 200)))


def test_an_index_that_leads_elsewhere_gives_no_other_frame(tmp_path):
    """The entry of an AVI's first frame is not a video's any more: every frame sought is one too far."""
    path = encode(tmp_path / "a.avi", [planar(image) for image in noise(4)], codec="utvideo", pixel_format="gbrap")
    spoilt(path, path.read_bytes().rindex(b"idx1") + 8, b"\x10")
    whole = read_rgba(path)
    assert whole.num_frames == 4
    for start in range(4):
        assert np.array_equal(read_rgba(path, start=start, count=1).rgba(), whole.rgba()[start : start + 1])


def test_pictures_that_build_on_each_other_and_do_not_say_so(tmp_path):
    """QuickTime Animation without a table of key frames, as where its name is damaged: each picture counts as one."""
    images = ladder(1).repeat(3, axis=0)
    images[1, 8:12], images[2, 20:24] = 77, 99
    path = encode(tmp_path / "a.mov", [packed(image, "argb") for image in images], codec="qtrle", pixel_format="argb")
    spoilt(path, path.read_bytes().index(b"stss"), b"free")
    assert np.array_equal(read_rgba(path).rgba(), images)
    for start in range(3):
        assert np.array_equal(read_rgba(path, start=start, count=1).rgba(), images[start : start + 1])


# Samples that are not there


@pytest.mark.parametrize("size", [0, 1])
def test_a_table_of_more_samples_than_bytes_is_refused(movie, size):
    """FFmpeg makes room for all of them: gigabytes, where the samples are all said to be of one size."""
    spoilt(movie, movie.read_bytes().index(b"stsz") + 8, struct.pack(">II", size, 80_000_000))
    with pytest.raises(MediaError, match=r"a header that tells of 80000000 samples in \d+ bytes"):
        read_rgba(movie)


def with_edits(movie: Path, edits: int) -> Path:
    """The movie shown so often, by as many edits, each of which begins at its first sample."""
    data = bytearray(movie.read_bytes())
    begin = data.index(b"elst") - 4
    size, entry = struct.unpack_from(">I", data, begin)[0], bytes(data[begin + 16 : begin + 28])
    table = struct.pack(">I4sII", 16 + 12 * edits, b"elst", 0, edits) + entry * edits
    data[begin : begin + size] = table
    for name in (b"edts", b"trak", b"moov"):
        at = data.index(name) - 4
        struct.pack_into(">I", data, at, struct.unpack_from(">I", data, at)[0] + len(table) - size)
    movie.write_bytes(data)
    return movie


def test_edits_that_show_all_samples_again(movie):
    """A few are good; a thousand of four thousand samples took 23 s and 2.5 GB."""
    assert read_rgba(with_edits(movie, 3)).num_frames == 9
    with pytest.raises(MediaError, match="tells of 400000 edits of 3 samples"):
        count_frames(with_edits(movie, 400_000))


def with_sound(path: Path, *, movflags: str) -> Path:
    """Five frames with their sound behind them, in a file whose packets say nothing of their lengths."""
    with av.open(str(path), "w", options={"movflags": movflags}) as container:
        video, sound = container.add_stream("qtrle", rate=16), container.add_stream("pcm_s16le", rate=48000, layout="mono")
        video.width, video.height, video.pix_fmt = 64, 32, "argb"
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 15000), np.int16), format="s16", layout="mono")
        silence.sample_rate, silence.pts = 48000, 0
        for index, image in enumerate(ladder(5)):
            frame = packed(image, "argb")
            frame.pts, frame.time_base = index, Fraction(1, 16)
            container.mux(video.encode(frame))
        container.mux([*video.encode(), *sound.encode(silence), *sound.encode()])
    return path


def test_a_frame_of_a_fragment_without_a_time_of_its_own(tmp_path):
    """FFmpeg writes the last two at one time, where each frame is a fragment, and leaves out the second of them when it reads the file."""
    path = with_sound(tmp_path / "a.mov", movflags="frag_every_frame+empty_moov")
    with av.open(str(path)) as container:
        assert len(list(container.decode(video=0))) == 4
    for read in (read_rgba, count_frames):
        with pytest.raises(
            MediaError, match=r"a\.mov: got two frames at time stamp \d+, of which one is shown, expected a time of its own"
        ):
            read(path)
    for movflags in ("frag_keyframe+empty_moov", "frag_keyframe", "faststart"):
        whole = with_sound(tmp_path / "b.mov", movflags=movflags)
        assert np.array_equal(read_rgba(whole).rgba(), ladder(5)), movflags


@pytest.mark.parametrize("options", [{"g": "12", "sc_threshold": "0"}, {"g": "1"}], ids=["decoded, not shown", "not even decoded"])
def test_frames_that_an_edit_hides_stay_hidden(tmp_path, options):
    """A clip's beginning, cut off as editors do without encoding again: its samples are in the file, and in the count of its header."""
    levels = np.arange(20, 240, 20, dtype=np.uint8)
    images = [luma(np.full((32, 32), level, np.uint8)) for level in levels]
    options = {"qp": "0", "bf": "0", **options}
    path = encode(tmp_path / "a.mp4", images, codec="libx264", pixel_format="yuv420p", color_range=2, options=options)
    data = path.read_bytes()
    ticks = struct.unpack_from(">I", data, data.index(b"stts") + 16)[0]
    at = data.index(b"elst") + 12
    duration, begin = struct.unpack_from(">II", data, at)
    spoilt(path, at, struct.pack(">II", duration * 6 // 11, begin + 5 * ticks))
    assert read_matte(path)[0][:, 0, 0].tolist() == levels[5:].tolist()
    assert count_frames(path) == 6
    assert read_matte(path, start=2, count=3)[0][:, 0, 0].tolist() == levels[7:10].tolist()


@pytest.mark.parametrize("frames", [1, 2, 3, 7])
def test_frames_that_the_decoder_holds_back_count_as_read(tmp_path, frames):
    """The last ones come without a time base, in a container that states its duration, and not its frames."""
    images = [luma(image) for image in noise(frames)[..., 0]]
    path = encode(tmp_path / "a.mkv", images, codec="libx264", pixel_format="yuv420p", options={"g": "12"})
    assert len(read_matte(path)[0]) == frames


def test_samples_of_a_fragment_are_counted(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w", options={"movflags": "frag_keyframe+empty_moov"}) as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width = stream.height = 32
        for index, image in enumerate(noise(3)):
            frame = luma(image[..., 0])
            frame.pts, frame.time_base = index, Fraction(1, 8)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert len(read_matte(path)[0]) == 3
    with pytest.raises(MediaError, match="tells of 4000000000 samples"):
        read_matte(spoilt(path, path.read_bytes().index(b"trun") + 8, struct.pack(">I", 4_000_000_000)))


def test_sound_of_many_samples_a_byte_is_no_lie(tmp_path):
    """IMA4 of QuickTime packs 64 samples into 34 bytes, and counts samples."""
    path = tmp_path / "a.mov"
    with av.open(str(path), "w") as container:
        video, sound = container.add_stream("qtrle", rate=8), container.add_stream("adpcm_ima_qt", rate=48000, layout="mono")
        video.width, video.height, video.pix_fmt = 64, 32, "argb"
        frame = packed(np.zeros((32, 64, 4), np.uint8), "argb")
        frame.pts, frame.time_base = 0, Fraction(1, 8)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 48000), np.int16), format="s16p", layout="mono")
        silence.sample_rate, silence.pts = 48000, 0
        container.mux([*video.encode(frame), *video.encode(), *sound.encode(silence), *sound.encode()])
    assert path.stat().st_size < 48000
    spoilt(path, path.read_bytes().rindex(b"stsz") + 8, struct.pack(">II", 1, 48000))
    assert read_rgba(path).num_frames == 1
