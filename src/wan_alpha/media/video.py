"""Video files through PyAV: every frame in order, alpha intact, an error for a file that ends early."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from jaxtyping import UInt8

from wan_alpha.errors import MediaError
from wan_alpha.media.clip import check_size, codec_threads, media_errors
from wan_alpha.media.colour import frame_alpha, frame_matte, frame_rgb, matte_is_full_range

log = logging.getLogger(__name__)

# FFmpeg's own VP8/VP9 decoders drop alpha without a word; libvpx decodes it.
ALPHA_DECODERS: dict[str, Literal["libvpx", "libvpx-vp9"]] = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoded:
    """Frames of a file; alpha is None when the file has no alpha channel, fps when it states no rate."""

    rgb: UInt8[np.ndarray, "T H W 3"]
    alpha: UInt8[np.ndarray, "T H W"] | None
    fps: float | None


def read_video(path: Path, *, start: int = 0, count: int | None = None) -> Decoded:
    """Frames [start, start + count) of a video with its own alpha channel, if it has one."""
    rgb, alpha = [], []
    for frame in _frames(path, start=start, count=count):
        with media_errors(path):
            rgb.append(frame_rgb(frame))
            alpha.append(frame_alpha(frame))
    masks = [a for a in alpha if a is not None]
    return Decoded(rgb=np.stack(rgb), alpha=np.stack(masks) if len(masks) == len(rgb) else None, fps=video_fps(path))


def read_matte_video(path: Path, *, start: int = 0, count: int | None = None) -> tuple[UInt8[np.ndarray, "T H W"], float | None]:
    """Alpha from the luma plane of a matte video, in full range, and the frame rate."""
    full_range, frames = None, []
    for index, frame in enumerate(_frames(path, start=0, count=None if count is None else start + count)):
        with media_errors(path):
            if full_range is None:
                full_range = matte_is_full_range(frame)
                if int(frame.color_range) == 0 and not frame.format.is_rgb and not frame.format.name.startswith("gray"):
                    log.info("%s: no range tag; read as %s range", path, "full" if full_range else "limited")
            if index >= start:
                frames.append(frame_matte(frame, full_range=full_range))
    if not frames:
        raise _no_frame(path, start)
    return np.stack(frames), video_fps(path)


def video_fps(path: Path) -> float | None:
    """Mean frame rate that the file states."""
    with media_errors(path), _open(path) as container:
        stream = _stream(container, path)
        rate = stream.average_rate or stream.guessed_rate
        return float(rate) if rate else None


def count_video_frames(path: Path) -> int:
    """Number of frames: the container's own count, else one pass over the packets without decoding."""
    with media_errors(path), _open(path) as container:
        stream = _stream(container, path)
        return stream.frames or sum(1 for packet in container.demux(stream) if packet.size)


def _frames(path: Path, *, start: int, count: int | None) -> Iterator[av.VideoFrame]:
    """Decode from the first frame on; frames before START are decoded and dropped, so that windows are exact in every container."""
    index = packets = 0
    with media_errors(path), _open(path) as container:
        stream = _stream(container, path)
        check_size(path, width=stream.codec_context.width, height=stream.codec_context.height, num_frames=count or stream.frames or 1)
        decoder = _decoder(stream)
        last_time = longest_gap = 0.0
        for packet in container.demux(stream):
            packets += packet.size > 0
            if packet.is_corrupt:
                raise _truncated(path, f"a broken packet after {index} frames", f"{stream.frames or 'only whole'} frames")
            for frame in decoder.decode(packet if packet.size else None):
                if frame.is_corrupt:
                    raise _truncated(path, f"a broken frame {index}", "whole frames")
                longest_gap = max(longest_gap, (frame.time or 0.0) - last_time)
                last_time = max(last_time, frame.time or 0.0)
                if index >= start:
                    yield frame
                index += 1
                if count is not None and index >= start + count:
                    return
                check_size(path, width=frame.width, height=frame.height, num_frames=index)
        if packets < stream.frames:
            raise _truncated(path, f"{packets} frames", f"{stream.frames} frames (its header)")
        _check_duration(path, container, stream, last_time, longest_gap)
        if index <= start:
            raise _no_frame(path, start)


def _open(path: Path) -> InputContainer:
    if not path.is_file():
        raise MediaError(path, got="no such file", expected="a video")
    # The prefix keeps names with a colon from being taken for network addresses.
    return av.open(f"file:{path}", mode="r")


def _stream(container: InputContainer, path: Path) -> VideoStream:
    if not container.streams.video:
        raise MediaError(path, got="no video stream", expected="a video")
    return container.streams.video[0]


def _decoder(stream: VideoStream) -> av.VideoCodecContext:
    decoder = stream.codec_context
    name = ALPHA_DECODERS.get(decoder.name)
    if name is not None and stream.metadata.get("alpha_mode", stream.metadata.get("ALPHA_MODE")) == "1":
        decoder = av.CodecContext.create(name, "r")
    decoder.thread_count = codec_threads(width=stream.codec_context.width, height=stream.codec_context.height)
    return decoder


def _check_duration(path: Path, container: InputContainer, stream: VideoStream, last_time: float, longest_gap: float) -> None:
    """Containers without a frame count (WebM, MKV): the last frame must come within its own length of the stated end."""
    if stream.frames or not container.duration or len(container.streams.get()) > 1:
        return
    length = max(longest_gap, 1 / float(stream.average_rate or 1))
    end = container.duration / av.time_base
    if end - last_time > 1.75 * length:
        raise _truncated(path, f"frames up to {last_time:.2f} s", f"{end:.2f} s (its header)")


def _truncated(path: Path, got: str, expected: str) -> MediaError:
    return MediaError(path, got=f"a truncated or damaged video with {got}", expected=expected, do="copy or export the file again")


def _no_frame(path: Path, start: int) -> MediaError:
    return MediaError(path, got=f"no frame {start}", expected="a longer video" if start else "at least one frame")
