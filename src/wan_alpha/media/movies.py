"""RGBA movies: ProRes 4444 for editors, FFV1 for archives, VP9 for the web. Alpha never passes through a colour converter."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

from wan_alpha.media import yuv
from wan_alpha.media.atomic import beside
from wan_alpha.media.clip import RgbaClip, check_size, codec_threads, media_errors
from wan_alpha.media.colour import BT709, LIMITED, full_levels, planar_frame, plane, video_frame
from wan_alpha.media.encode import Encoding, encode_video, rate_of, tag

PRORES_BITS = 10  # prores_ks takes no more, whatever alpha_bits says
# Key frames at the same places in both streams: alpha is decoded from wherever colour is.
VP9_COMMON = {"auto-alt-ref": "0", "lag-in-frames": "16", "g": "32", "keyint_min": "32", "cpu-used": "4", "b": "0"}
VP9_COLOUR = {**VP9_COMMON, "crf": "18"}
VP9_MATTE = {**VP9_COMMON, "lossless": "1"}


def write_prores(clip: RgbaClip, path: Path, *, alpha_mode: str) -> None:
    """ProRes 4444 in QuickTime, 10 bits, BT.709 limited and tagged. Alpha is lossless at 10 bits: exact from 8."""
    encoding = Encoding(
        container="mov",
        codec="prores_ks",
        pixel_format="yuva444p10le",
        options={"profile": "4444", "vendor": "apl0", "alpha_bits": str(clip.bits)},
        alpha_mode=alpha_mode,
    )
    with beside(path) as partial:
        encode_video(partial, _prores_frames(clip), clip=clip, encoding=encoding)


def write_ffv1(clip: RgbaClip, path: Path, *, alpha_mode: str) -> None:
    """FFV1 in Matroska, lossless in colour, alpha and hidden colour; every frame stands alone and carries a checksum."""
    encoding = Encoding(
        container="matroska",
        codec="ffv1",
        pixel_format="bgra" if clip.bits == 8 else "gbrap16le",
        options={"level": "3", "slices": "4" if min(clip.width, clip.height) > 1 else "1", "slicecrc": "1", "g": "1"},
        color_range=0,
        alpha_mode=alpha_mode,
    )
    with beside(path) as partial:
        encode_video(partial, _ffv1_frames(clip), clip=clip, encoding=encoding)


def write_webm(clip: RgbaClip, path: Path) -> None:
    """VP9 with side-band alpha: colour 4:2:0 at crf 18, alpha lossless.

    libvpx codes both with one quality, so two encoders run in step: one with the colour and opaque alpha, one with flat colour and
    the alpha; the second's alpha packets replace the first's as side data.
    """
    clip = clip.with_bits(8)
    check_size(path, width=clip.width, height=clip.height, num_frames=clip.num_frames)
    rate = rate_of(clip)
    with beside(path) as partial, media_errors(path, doing="write"), av.open(str(partial), mode="w", format="webm") as container:
        tag(container, clip=clip, alpha_mode="straight")
        stream = container.add_stream("libvpx-vp9", rate=rate, options=VP9_COLOUR)
        stream.metadata["alpha_mode"] = "1"
        matte = av.CodecContext.create("libvpx-vp9", "w")
        matte.options = VP9_MATTE
        matte.framerate = rate
        for context in (stream.codec_context, matte):
            context.width, context.height, context.pix_fmt, context.time_base = clip.width, clip.height, "yuva420p", 1 / rate
            context.thread_count = codec_threads(width=clip.width, height=clip.height)
            context.color_range, context.colorspace = LIMITED, BT709
            context.color_primaries = context.color_trc = BT709
        colours: list[av.Packet] = []
        mattes: list[av.Packet] = []
        for index, (colour, alpha) in enumerate(itertools.chain(_webm_frames(clip), [(None, None)])):
            for frame in (colour, alpha):
                if frame is not None:
                    frame.pts, frame.time_base = index, 1 / rate
            colours += stream.encode(colour)
            mattes += matte.encode(alpha)
            while colours and mattes:
                packet = colours.pop(0)
                packet.set_sidedata(mattes.pop(0).get_sidedata("matroska_block_additional"))
                container.mux(packet)


def _prores_frames(clip: RgbaClip) -> Iterator[av.VideoFrame]:
    levels = full_levels(clip.bits, PRORES_BITS)
    for rgb, alpha in zip(clip.rgb, clip.alpha, strict=True):
        if clip.bits == 8:
            converted = video_frame(rgb, "yuv444p10le")
            planes = [plane(converted, i) for i in range(3)]
        else:
            planes = yuv.from_rgb(rgb, bits=PRORES_BITS)
        frame = planar_frame([*planes, levels[alpha]], "yuva444p10le", width=clip.width, height=clip.height)
        frame.colorspace, frame.color_range = BT709, LIMITED
        yield frame


def _ffv1_frames(clip: RgbaClip) -> Iterator[av.VideoFrame]:
    for rgba in clip.rgba_frames():
        if clip.bits == 8:
            yield planar_frame([rgba[..., [2, 1, 0, 3]]], "bgra", width=clip.width, height=clip.height)
        else:
            yield planar_frame([rgba[..., i] for i in (1, 2, 0, 3)], "gbrap16le", width=clip.width, height=clip.height)


def _webm_frames(clip: RgbaClip) -> Iterator[tuple[av.VideoFrame, av.VideoFrame]]:
    """(real colour, opaque) and (grey, real alpha)."""
    opaque = np.full((clip.height, clip.width), 255, np.uint8)
    for rgb, alpha in zip(clip.rgb, clip.alpha, strict=True):
        converted = video_frame(rgb, "yuv420p")
        planes = [plane(converted, i) for i in range(3)]
        grey = [np.full_like(part, 128) for part in planes]
        pair = []
        for parts in ([*planes, opaque], [*grey, alpha]):
            frame = planar_frame(parts, "yuva420p", width=clip.width, height=clip.height)
            frame.colorspace, frame.color_range = BT709, LIMITED
            pair.append(frame)
        yield pair[0], pair[1]
