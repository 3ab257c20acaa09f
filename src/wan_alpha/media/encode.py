"""One way to write a video file: frames into a stream, tagged, counted, closed."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
from av.container import OutputContainer

from wan_alpha.media.clip import ALPHA_TAG, COMMENT_TAG, RgbaClip, check_size, codec_threads, media_errors
from wan_alpha.media.colour import BT709, LIMITED


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """What an encoder is asked for."""

    container: str
    codec: Literal["libx264", "prores_ks", "ffv1"]
    pixel_format: str
    options: dict[str, str] = field(default_factory=dict)
    color_range: int = LIMITED
    """0 leaves an RGB format without tags."""
    alpha_mode: str | None = None
    """Written into the file's metadata: straight or premultiplied."""


# The second flag keeps names of our own in the metadata.
MOV_OPTIONS = {"movflags": "+faststart+use_metadata_tags"}
CONTAINER_OPTIONS = {"mov": MOV_OPTIONS, "mp4": MOV_OPTIONS}


def rate_of(clip: RgbaClip) -> Fraction:
    return Fraction(clip.fps).limit_denominator(1001)


def tag(container: OutputContainer, *, clip: RgbaClip, alpha_mode: str | None) -> None:
    """What a movie says of itself: how its colour relates to its alpha, and how the clip was made."""
    if alpha_mode is not None:
        container.metadata[ALPHA_TAG] = alpha_mode
    if clip.record is not None:
        container.metadata[COMMENT_TAG] = clip.record


def encode_video(path: Path, frames: Iterable[av.VideoFrame], *, clip: RgbaClip, encoding: Encoding) -> None:
    """Write frames of the clip's size at its rate, with its record; MediaError for whatever the encoder or the disk refuses."""
    check_size(path, width=clip.width, height=clip.height, num_frames=clip.num_frames)
    rate = rate_of(clip)
    with (
        media_errors(path, doing="write"),
        av.open(str(path), mode="w", format=encoding.container, options=CONTAINER_OPTIONS.get(encoding.container, {})) as container,
    ):
        tag(container, clip=clip, alpha_mode=encoding.alpha_mode)
        stream = container.add_stream(encoding.codec, rate=rate, options=encoding.options)
        stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, encoding.pixel_format
        context = stream.codec_context
        context.thread_count = codec_threads(width=clip.width, height=clip.height)
        if encoding.color_range:
            context.color_range = encoding.color_range
            context.colorspace = context.color_primaries = context.color_trc = BT709
        for index, frame in enumerate(frames):
            frame.pts, frame.time_base = index, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
