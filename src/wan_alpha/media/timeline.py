"""When the frames of a file begin, and what that makes of its rate."""

import itertools
import logging
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from wan_alpha.errors import MediaError
from wan_alpha.media.boxes import check_samples
from wan_alpha.media.clip import ALPHA_TAG, MAX_PIXELS, RgbaClip, check_size, media_errors
from wan_alpha.media.packets import is_shown

log = logging.getLogger(__name__)

COMMON_RATES = (*range(1, 61), 23.976, 29.97, 59.94, 90, 100, 120)
LARGEST_CONSTANT_RATE = 120.0
# A picture's own header may claim another size than its file's. Codecs pad sides, hence the room.
DECODER_OPTIONS = {"max_pixels": str(2 * MAX_PIXELS)}
# Their pictures may change parts of the one before; in a file that calls each a key frame (it has no table of them) that is not known.
DELTA_CODECS = ("qtrle",)
VariableRate = Literal["hold", "mean"]


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """The frames of a video in the order in which they are shown, from one pass over its packets without decoding."""

    count: int
    fps: float | None
    """The rate that the file states; where it varies, the mean, for what Matroska and WebM state is often the highest then."""
    pts: tuple[int, ...] | None
    """Time stamps of the frames in ticks; None when they are missing or not unique, so that frames cannot be sought."""
    tick: float
    """Seconds."""
    places: dict[int, int | None]
    """Where in the file the packet of each time stamp begins."""
    sought: bool = True
    """Whether frames may be looked for by their time stamps."""
    pixel_aspect: float = 1.0
    """Width of a pixel over its height, as the picture is stored."""
    premultiplied: bool = False
    """Whether the file's own metadata call its colour so."""

    @property
    def times(self) -> tuple[float, ...] | None:
        """Seconds at which frames begin, from the first one on, where the rate varies; None for a constant one.

        Constant: no frame is further than a quarter of a frame (and a tick) from its place.
        """
        if self.pts is None or self.count < 3:
            return None
        seconds = (np.array(self.pts, np.float64) - self.pts[0]) * self.tick
        even = np.linspace(0, seconds[-1], self.count)
        uneven = np.abs(seconds - even).max() > 0.25 * even[1] + self.tick
        return tuple(seconds.tolist()) if uneven else None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Packet:
    """What a packet says of itself, without its data, which in a whole file may be gigabytes."""

    pts: int | None
    duration: int | None
    pos: int | None
    is_corrupt: bool
    is_keyframe: bool
    is_discarded: bool
    is_shown: bool


def timeline(path: Path) -> Timeline:
    """The timeline of a video file; remembered until the file changes. MediaError for a missing or broken file."""
    if not path.is_file():
        raise MediaError(path, got="no such file", expected="a video")
    stat = path.stat()
    return _timeline(path, stat.st_mtime_ns, stat.st_size)


def open_video(path: Path, *, edits: Literal["apply", "ignore"] = "apply") -> InputContainer:
    """Open a file for reading. The prefix keeps names with a colon from being taken for network addresses.

    edits: what becomes of a MOV or MP4 file's list of the parts that are shown.
    """
    check_samples(path)
    return av.open(f"file:{path}", mode="r", options={**DECODER_OPTIONS, "ignore_editlist": str(int(edits == "ignore"))})


def video_stream(container: InputContainer, path: Path) -> VideoStream:
    if not container.streams.video:
        raise MediaError(path, got="no video stream", expected="a video")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise MediaError(path, got="a video of an unknown codec", expected="ProRes, VP9, FFV1, H.264, ...", do="export the clip again")
    return stream


@lru_cache(maxsize=1024)
def _timeline(path: Path, _modified_ns: int, _size: int) -> Timeline:
    with media_errors(path), open_video(path) as container:
        stream = video_stream(container, path)
        packets = _packets(container, stream)
        _check_packets(path, packets, stated=stream.frames)
        rate = stream.average_rate or stream.guessed_rate
        shown = [packet for packet in packets if packet.is_shown]
        places = {packet.pts: packet.pos for packet in shown if packet.pts is not None}
        pts = tuple(sorted(places)) if len(places) == len(shown) else None
        fps = float(rate) if rate and rate > 0 else None
        sought = stream.codec_context.name not in DELTA_CODECS or not all(packet.is_keyframe for packet in shown)
        tags = {name.lower(): value for name, value in container.metadata.items()}
        line = Timeline(
            count=len(shown),
            fps=fps,
            pts=pts,
            tick=float(stream.time_base or 0),
            places=places,
            sought=sought,
            pixel_aspect=float(stream.sample_aspect_ratio or 1),
            premultiplied=tags.get(ALPHA_TAG) == "premultiplied",
        )
        return line if line.times is None else replace(line, fps=_mean_rate(line, line.times, shown))


def _mean_rate(line: Timeline, times: tuple[float, ...], packets: list[_Packet]) -> float:
    """Frames over the time from the first to the end of the last; one whose length no packet states lasts as long as most do."""
    last = max(packets, key=lambda packet: packet.pts or 0)
    length = (last.duration or 0) * line.tick or float(np.median(np.diff(times)))
    return line.count / (times[-1] + length)


def _packets(container: InputContainer, stream: VideoStream) -> list[_Packet]:
    codec = stream.codec_context.name
    return [
        _Packet(
            pts=packet.pts,
            duration=packet.duration,
            pos=packet.pos,
            is_corrupt=packet.is_corrupt,
            is_keyframe=packet.is_keyframe,
            is_discarded=packet.is_discard,
            is_shown=not packet.is_discard and is_shown(packet, codec),
        )
        for packet in container.demux(stream)
        if packet.size
    ]


def _check_packets(path: Path, packets: list[_Packet], *, stated: int) -> None:
    """MediaError where frames are broken, fewer than the header STATED, or left out.

    An edit hides frames by intention. FFmpeg also leaves out, without a word, a frame of a fragment that has the time of the one before it;
    programs that write every frame as a fragment, beside sound, make such files.
    """
    if len(packets) < stated or any(packet.is_discarded for packet in packets):
        with open_video(path, edits="ignore") as container:
            packets = _packets(container, video_stream(container, path))
    whole = sum(not packet.is_corrupt for packet in packets)
    if whole < max(len(packets), stated):
        raise damaged(path, f"{whole} frames", f"{stated} frames (its header)" if stated else "whole frames")
    lost = next((packet for packet in packets if packet.is_discarded), None)
    if lost is not None:
        got, do = f"two frames at time stamp {lost.pts}, of which one is shown", "export it again, not in fragments of single frames"
        raise MediaError(path, got=got, expected="a time of its own for each", do=do)


def damaged(path: Path, got: str, expected: str) -> MediaError:
    return MediaError(path, got=f"a truncated or damaged video with {got}", expected=expected, do="copy or export the file again")


def timing(durations: list[float]) -> tuple[list[int], float | None]:
    """From frame durations in ms: how often each frame is shown, and the rate (None without durations).

    Durations that are multiples of the shortest (to 1 ms of rounding each) are held frames. Otherwise every frame counts once, at
    the mean rate. The rate is the common one (16, 23.976, ...) that the rounded durations stand for, if there is one.

    >>> timing([62, 63, 125, 62])
    ([1, 1, 2, 1], 16.0)
    """
    ones = [1] * len(durations)
    shortest = min(durations)
    if shortest <= 0:
        return ones, None
    repeats = [max(1, round(duration / shortest)) for duration in durations]
    if any(abs(d - n * shortest) > min(n, shortest / 4) for d, n in zip(durations, repeats, strict=True)):
        repeats = ones
    total, shown = sum(durations), sum(repeats)
    near = [r for r in COMMON_RATES if abs(shown * 1000 / r - total) <= 1 and abs(1000 / r - shortest) <= 1]
    mean = 1000 * shown / total
    return repeats, float(min(near, key=lambda rate: abs(rate - mean))) if near else mean


def uneven_times(durations: list[float]) -> tuple[float, ...] | None:
    """Seconds at which frames of such durations (ms) begin, where they are uneven beyond rounding; None where they are not."""
    if min(durations) <= 0 or max(durations) <= 1.5 * min(durations):
        return None
    return tuple(itertools.accumulate((d / 1000 for d in durations[:-1]), initial=0.0))


def constant_rate(clip: RgbaClip, path: Path, *, how: VariableRate = "hold") -> tuple[RgbaClip, tuple[str, ...]]:
    """A clip of variable rate at a constant one, and in words what that changed: nothing where the rate was constant.

    how = "hold" shows each frame until the next begins, on a grid of the shortest gap; "mean" keeps each once, at the mean rate. The
    grid's rate is a common one (16, 23.976, 30, ...) where the shortest gap stands for it, and at most LARGEST_CONSTANT_RATE.
    """
    if clip.times is None:
        return clip, ()
    even = _held(clip, clip.times, path) if how == "hold" and clip.num_frames > 1 else replace(clip, times=None)
    change = f"variable rate: {clip.num_frames} frames as {even.num_frames} at {even.fps:g} frames per second, {how}"
    log.warning("%s: %s", path, change)
    return even, (change,)


def _held(clip: RgbaClip, times: tuple[float, ...], path: Path) -> RgbaClip:
    gaps = np.diff(times)
    fps = float(min(1 / max(gaps.min(), 1e-6), LARGEST_CONSTANT_RATE))
    near = [rate for rate in COMMON_RATES if abs(rate - fps) < 0.03 * fps]
    fps = float(min(near, key=lambda rate: abs(rate - fps))) if near else fps
    marks = np.rint(np.array(times) * fps).astype(int)
    total = int(marks[-1]) + max(1, round(float(np.median(gaps)) * fps))
    check_size(path, width=clip.width, height=clip.height, num_frames=total)
    order = np.searchsorted(marks, np.arange(total), side="right") - 1
    return replace(clip, rgb=clip.rgb[order], alpha=clip.alpha[order], fps=fps, times=None)
