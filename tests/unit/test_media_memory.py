"""What readers and writers take of memory, and what is said where there is not enough."""

import gc
import tracemalloc

import av
import numpy as np
import pytest

from wan_alpha.data.sources import FileSource
from wan_alpha.diagnosis import diagnose
from wan_alpha.errors import MediaError
from wan_alpha.findings.examine import Expected
from wan_alpha.media import stack
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.fill import fill_hidden
from wan_alpha.media.find import find_clips
from wan_alpha.media.formats import FORMATS, WriteOptions, ending, write_format
from wan_alpha.media.read import BY_FILE, read_matte, read_pair, read_rgba
from wan_alpha.media.stack import FrameStack
from wan_alpha.media.write import write_apng

OWN_ALPHA = [name for name in ("png", "zip", "webp", "apng", "prores", "webm", "ffv1")]


def soft_clip(frames: int = 24, *, side: int = 96, bits: int = 8) -> RgbaClip:
    y, x = np.mgrid[:side, :side]
    alpha = np.stack([np.clip(300 - 6 * np.hypot(x - 30 - t, y - 48), 0, 255) for t in range(frames)]).astype(np.uint8)
    rgb = np.broadcast_to(np.stack([x, y, x + y], axis=-1).astype(np.uint8), (frames, side, side, 3)).copy()
    clip = RgbaClip(rgb=rgb, alpha=alpha, fps=24.0)
    return clip.with_bits(16) if bits == 16 else clip


def bytes_of(clip: RgbaClip) -> int:
    return clip.rgb.nbytes + clip.alpha.nbytes


def peak(work) -> int:
    """Bytes that Python and numpy hold at most while WORK runs, beyond what they held before."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        work()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", OWN_ALPHA)
def test_a_clip_is_read_into_its_own_room(tmp_path, name):
    """Frames that are collected and joined at the end would take twice the clip."""
    clip = soft_clip(48)
    write_format(clip, tmp_path / "clip", name=name, options=WriteOptions())
    path = ending(tmp_path / "clip", FORMATS[name].endings[0])
    read_rgba(path)
    assert bytes_of(clip) <= peak(lambda: read_rgba(path)) < 1.6 * bytes_of(clip)


def test_rounding_and_filling_take_the_new_clip_and_a_frame():
    clip = soft_clip(48, bits=16)
    assert peak(lambda: clip.with_bits(8)) < 0.7 * bytes_of(clip)
    assert peak(lambda: fill_hidden(clip, "bleed")) < 1.1 * bytes_of(clip)


def test_a_writer_takes_frames_one_by_one(tmp_path):
    clip = soft_clip(48)
    assert peak(lambda: write_apng(clip, tmp_path / "clip.apng")) < 0.7 * bytes_of(clip)


def test_decoded_frames_do_not_outlive_their_reading(tmp_path):
    """PyAV's side data and their frame hold each other, so that frames which were asked for them waited for the garbage collector."""
    write_format(soft_clip(), tmp_path / "clip", name="prores", options=WriteOptions())
    write_format(soft_clip(), tmp_path / "clip", name="pair", options=WriteOptions())
    gc.collect()
    gc.disable()
    try:
        read_rgba(tmp_path / "clip.mov")
        read_pair(tmp_path / "clip_rgb.mp4", tmp_path / "clip_alpha.mp4")
        alive = sum(issubclass(type(thing), av.VideoFrame) for thing in gc.get_objects())
    finally:
        gc.enable()
    assert alive <= 3  # the first of each file


@pytest.mark.parametrize("name", OWN_ALPHA)
def test_no_more_memory_is_an_error_of_the_file(tmp_path, monkeypatch, name):
    write_format(soft_clip(2), tmp_path / "clip", name=name, options=WriteOptions())
    path = ending(tmp_path / "clip", FORMATS[name].endings[0])

    def refuse(*_):
        raise MemoryError("Unable to allocate 9 GiB")

    monkeypatch.setattr(FrameStack, "add", refuse)
    for read in (read_rgba, read_matte):
        with pytest.raises(MediaError, match=r"clip.*got out of memory \(Unable to allocate 9 GiB\).*cut the clip into parts"):
            read(path)
    with pytest.raises(MediaError, match="out of memory"):
        read_pair(path, path)


def test_a_clip_beyond_free_memory_is_refused_before_any_is_taken(tmp_path, monkeypatch):
    write_format(soft_clip(8), tmp_path / "clip", name="ffv1", options=WriteOptions())
    monkeypatch.setattr(stack, "SMALL", 0)
    monkeypatch.setattr(stack, "stated_bytes", lambda *_: 8 * 96 * 96 * 3 - 1)
    with pytest.raises(MediaError, match=r"got 8 frames of 96x96, which take 0.0 GiB, expected what fits into the 0.0 GiB of free memory"):
        read_rgba(tmp_path / "clip.mkv")
    assert read_rgba(tmp_path / "clip.mkv", count=7).num_frames == 7


def test_a_measure_without_memory_is_a_finding_of_its_clip(tmp_path, monkeypatch):
    write_format(soft_clip(8), tmp_path / "clip", name="ffv1", options=WriteOptions())
    source = FileSource(name="clip", found=find_clips(tmp_path)[0], settings=BY_FILE)

    def refuse(*_, **__):
        raise MemoryError

    monkeypatch.setattr("wan_alpha.diagnosis.examine", refuse)
    found = diagnose(source, expected=Expected()).diagnosis.findings
    assert [one.name for one in found if "out of memory" in one.says] == ["unreadable file"]


def test_a_stack_has_room_for_more_and_for_fewer_frames_than_expected(tmp_path):
    frames = [np.full((2, 3), level, np.uint8) for level in range(7)]
    for count in (1, 3, 7, 100):
        stacked = FrameStack(tmp_path, count=count)
        for frame in frames:
            stacked.add(frame)
        assert len(stacked) == 7
        np.testing.assert_array_equal(stacked.joined(), np.stack(frames))
    with pytest.raises(MediaError, match="got frames of 4x2 of 8 bits, expected 3x2 of 8 bits as the first one"):
        stacked.add(np.zeros((2, 4), np.uint8))
    with pytest.raises(MediaError, match="no frames"):
        FrameStack(tmp_path, count=3).joined()
