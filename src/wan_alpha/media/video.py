"""Video files through PyAV: every frame in order or a window of them, alpha intact, an error for a file that ends early."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from wan_alpha.errors import MediaError
from wan_alpha.media.clip import Bits, Decoded, Matte, check_size, codec_threads, media_errors
from wan_alpha.media.colour import Levels, alpha_bits, format_has_alpha, frame_alpha, frame_matte, frame_rgb, matte_is_full_range
from wan_alpha.media.hevc import has_alpha_layer
from wan_alpha.media.matrix import Matrix, MatrixWord, settle_matrix, tell_matrix
from wan_alpha.media.orientation import Turn, stated_turn, upright
from wan_alpha.media.packets import ffv1_is_whole
from wan_alpha.media.side_alpha import side_alpha
from wan_alpha.media.stack import FrameStack
from wan_alpha.media.timeline import DECODER_OPTIONS, Timeline, damaged, open_video, timeline, video_stream

log = logging.getLogger(__name__)

# PNG pictures in a movie carry checksums.
CODEC_OPTIONS = {"png": {"err_detect": "crccheck+explode"}}


def read_video(path: Path, *, start: int = 0, count: int | None = None, bits: Bits = 8, matrix: MatrixWord = "file") -> Decoded:
    """Frames [start, start + count) of a video with its own alpha channel, if it has one; at 16 bits where that has more than 8.

    matrix: of YUV colour without a tag (matrix.settle_matrix).
    """
    line = timeline(path)
    rgb, alpha = (FrameStack(path, count=_expected(line, start, count)) for _ in range(2))
    assumed: Matrix | None = None
    turn: Turn | None = None
    stated = line.premultiplied
    for frame in _frames(path, line, start=start, count=count):
        with media_errors(path):
            if not len(rgb):
                tell_matrix(path, frame, word=matrix)
                turn = stated_turn(frame)
            assumed = settle_matrix(frame, word=matrix) or assumed
            # Premultiplied colour keeps its depth until it has been divided by alpha.
            depth: Bits = 16 if (bits == 16 or stated) and alpha_bits(frame) > 8 else 8
            rgb.add(upright(path, frame_rgb(frame, bits=depth), turn))
            beside = frame.opaque
            if isinstance(beside, av.VideoFrame):
                matte: Levels | None = frame_matte(beside, full_range=True, bits=depth)
            else:
                matte = frame_alpha(frame, bits=depth)
            if matte is not None:
                alpha.add(upright(path, matte, turn))
    masks = alpha.joined() if len(alpha) == len(rgb) else None
    times = window_times(line.times, start, count)
    return Decoded(rgb=rgb.joined(), alpha=masks, fps=line.fps, times=times, premultiplied=stated, assumed_matrix=assumed)


def read_matte_video(path: Path, *, start: int = 0, count: int | None = None, bits: Bits = 8) -> tuple[Matte, float | None]:
    """Alpha from the luma plane of a matte video, in full range, and the frame rate. Range is judged on the file's first frame."""
    line = timeline(path)
    frames = FrameStack(path, count=_expected(line, start, count))
    full_range = _matte_range(path, line)
    turn: Turn | None = None
    for frame in _frames(path, line, start=start, count=count):
        with media_errors(path):
            turn = turn if len(frames) else stated_turn(frame)
            depth: Bits = 16 if bits == 16 and frame.format.components[0].bits > 8 else 8
            matte = frame_matte(frame, full_range=full_range, bits=depth)
            frames.add(upright(path, matte, turn))
    return frames.joined(), line.fps


def window_times(times: tuple[float, ...] | None, start: int, count: int | None) -> tuple[float, ...] | None:
    """Times of a window, from its own first frame on."""
    chosen = times[start : None if count is None else start + count] if times else ()
    return tuple(t - chosen[0] for t in chosen) or None


def _matte_range(path: Path, line: Timeline) -> bool:
    with media_errors(path):
        frame = next(_frames(path, line, start=0, count=1))
        full_range = matte_is_full_range(frame)
    if int(frame.color_range) == 0 and not frame.format.is_rgb and not frame.format.name.startswith("gray"):
        log.info("%s: no range tag; read as %s range", path, "full" if full_range else "limited")
    return full_range


def holds_alpha(path: Path) -> bool:
    """Whether a video's header says that it has alpha, decodable here or not. False where it cannot be read (reading it says why)."""
    try:
        with media_errors(path), open_video(path) as container:
            stream = video_stream(container, path)
            decodable = side_alpha(stream, path) is not None or format_has_alpha(stream.codec_context.pix_fmt or "")
            return decodable or _has_hidden_layer(container, stream)
    except MediaError:
        return False


def has_hidden_layer(path: Path) -> bool:
    """Whether a video has an alpha layer that the decoders here pass over: HEVC's."""
    with media_errors(path), open_video(path) as container:
        return _has_hidden_layer(container, video_stream(container, path))


def _has_hidden_layer(container: InputContainer, stream: VideoStream) -> bool:
    if stream.codec_context.name != "hevc":
        return False
    packet = next(container.demux(stream), None)
    return has_alpha_layer(bytes(stream.codec_context.extradata or b""), b"" if packet is None else bytes(packet))


def colour_tags(path: Path) -> dict[str, int]:
    """Matrix, primaries, transfer and range that a video states, as numbers of ITU-T H.273 (range: 1 limited, 2 full); 0 or 2: none.

    Matrix and range are those of the first frame, by which its colour is read.
    """
    with media_errors(path), open_video(path) as container:
        stream = video_stream(container, path)
        context = stream.codec_context
        primaries, transfer = int(context.color_primaries), int(context.color_trc)
        frame = next(_decode(path, container, stream, one_thread=True))
        return {"matrix": int(frame.colorspace), "primaries": primaries, "transfer": transfer, "range": int(frame.color_range)}


def _expected(line: Timeline, start: int, count: int | None) -> int:
    """Frames of a window of a video that is whole."""
    there = line.count - start
    return there if count is None else min(count, there)


def _frames(path: Path, line: Timeline, *, start: int, count: int | None) -> Iterator[av.VideoFrame]:
    """Frames [start, start + count). A window is sought by its time stamp, and decoded from the first frame on where that misses."""
    if start and start >= line.count:
        raise MediaError(path, got=f"no frame {start}", expected="a longer video")
    frames = _expected(line, start, count)
    with media_errors(path), open_video(path) as container:
        stream = video_stream(container, path)
        check_size(path, width=stream.codec_context.width, height=stream.codec_context.height, num_frames=frames)
        if start and line.pts is not None and line.sought:
            container.seek(line.pts[start], stream=stream, backward=True)
            window = _sought(path, container, stream, line, start, count)
            first = None
            with contextlib.suppress(MediaError, av.FFmpegError):  # it is decoded from the first frame on, which finds a cause
                first = next(window, None)
            if first is not None:
                yield first
                yield from window
                return
    with media_errors(path), open_video(path) as container:
        yield from _from_the_first(path, container, video_stream(container, path), start=start, count=count)


def _sought(
    path: Path, container: InputContainer, stream: VideoStream, line: Timeline, start: int, count: int | None
) -> Iterator[av.VideoFrame]:
    """Frames [start, start + count) by their time stamps; none at all when the first one that is not before them is another."""
    stamps = line.pts or ()
    wanted = stamps[start:] if count is None else stamps[start : start + count]
    index = 0
    for frame in _decode(path, container, stream, one_thread=count is not None, line=line):
        if frame.pts is None or frame.pts < wanted[0]:
            continue
        if frame.pts != wanted[index]:
            if index == 0:
                return
            raise damaged(path, f"a gap after time stamp {wanted[index - 1]}", f"a frame at {wanted[index]}")
        yield frame
        index += 1
        if index == len(wanted):
            return
    if index:
        _check_all_frames(path, index, len(wanted), count)


def _from_the_first(
    path: Path, container: InputContainer, stream: VideoStream, *, start: int, count: int | None
) -> Iterator[av.VideoFrame]:
    index, last = 0, None
    last_time = longest_gap = 0.0
    for frame in _decode(path, container, stream, one_thread=count is not None):
        if last is not None and frame.pts is not None and frame.pts < last and timeline(path).pts is not None:
            raise damaged(path, f"a frame at time stamp {frame.pts} after one at {last}", "frames in the order of their times")
        last = frame.pts
        # A frame that the decoder held back to the end has no time base of its own.
        time = 0.0 if frame.pts is None or stream.time_base is None else float(frame.pts * stream.time_base)
        longest_gap = max(longest_gap, time - last_time)
        last_time = max(last_time, time)
        if index >= start:
            yield frame
        index += 1
        if count is not None and index >= start + count:
            return
        check_size(path, width=frame.width, height=frame.height, num_frames=index)
    _check_duration(path, container, stream, last_time, longest_gap)
    if index <= start:
        raise MediaError(path, got=f"no frame {start}", expected="a longer video" if start else "at least one frame")
    _check_all_frames(path, index, timeline(path).count, count)


def _decode(
    path: Path, container: InputContainer, stream: VideoStream, *, one_thread: bool, line: Timeline | None = None
) -> Iterator[av.VideoFrame]:
    """All frames from where the container stands; whole ones, or MediaError. One thread is quicker for a short window.

    A frame whose alpha lies beside it has that as its `opaque`. With a LINE they end where a packet is not the one of its time stamp:
    a damaged index has led elsewhere.
    """
    decoder = stream.codec_context
    decoder.options = {**DECODER_OPTIONS, **CODEC_OPTIONS.get(decoder.name, {})}
    decoder.thread_count = 1 if one_thread else codec_threads(width=decoder.width, height=decoder.height)
    matrix = decoder.colorspace
    # The first two versions, which have no slices, have no record of their settings either.
    in_slices = decoder.name == "ffv1" and bool(decoder.extradata)
    beside = side_alpha(stream, path)
    waiting: list[av.VideoFrame] = []
    for packet in container.demux(stream):
        if packet.is_corrupt or (in_slices and not ffv1_is_whole(packet)):
            raise damaged(path, "a broken packet", "whole frames")
        if line is not None and packet.pts is not None and line.places.get(packet.pts, packet.pos) != packet.pos:
            return
        waiting += decoder.decode(packet if packet.size else None)
        if beside is not None:
            beside.feed(packet)
        while waiting and (beside is None or not packet.size or beside.is_ready(waiting[0])):
            frame = waiting.pop(0)
            if frame.is_corrupt:
                raise damaged(path, "a broken frame", "whole frames")
            check_size(path, width=frame.width, height=frame.height)
            if decoder.name == "vp8":  # which has no place for a matrix, and is always said to be BT.601: the container knows
                frame.colorspace = matrix
            frame.opaque = None if beside is None else beside.of(frame)
            yield frame


def _check_all_frames(path: Path, got: int, expected: int, count: int | None) -> None:
    """A packet without a frame is damage in a file that is read to its end (a window that is too short says so elsewhere)."""
    if count is None and got < expected:
        raise damaged(path, f"{got} frames", f"{expected} frames (its packets)")


def _check_duration(path: Path, container: InputContainer, stream: VideoStream, last_time: float, longest_gap: float) -> None:
    """Containers without a frame count (WebM, MKV): the last frame must come within its own length of the stated end."""
    if stream.frames or not container.duration or len(container.streams.get()) > 1:
        return
    length = max(longest_gap, 1 / float(stream.average_rate or 1))
    end = container.duration / av.time_base
    if end - last_time > 1.75 * length:
        raise damaged(path, f"frames up to {last_time:.2f} s", f"{end:.2f} s (its header)")
