"""A matte through H.264 and back, in memory: what one more encoding does to it."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8

from wan_alpha.media.clip import media_errors
from wan_alpha.media.colour import frame_matte, matte_frame


def recoded(alpha: UInt8[np.ndarray, "T H W"], *, crf: int) -> UInt8[np.ndarray, "T H W"]:
    """The frames, of even sides, after libx264 at this CRF as full-range luma, all else as it comes; MediaError if it refuses.

    One thread: rate control, and so the result, must not depend on the machine.
    """
    with media_errors(Path("a matte in memory"), doing="write"):
        encoder, decoder = av.CodecContext.create("libx264", "w"), av.CodecContext.create("h264", "r")
        encoder.height, encoder.width = alpha.shape[1:]
        encoder.pix_fmt, encoder.framerate, encoder.time_base = "yuv420p", Fraction(16), Fraction(1, 16)
        encoder.options, encoder.thread_count, decoder.thread_count = {"crf": str(crf)}, 1, 1
        packets = []
        for index, plane in enumerate(alpha):
            frame = matte_frame(plane, "yuv420p")
            frame.pts = index
            packets += encoder.encode(frame)
        packets += encoder.encode(None)
        frames = [frame for packet in (*packets, None) for frame in decoder.decode(packet)]
    return np.stack([frame_matte(frame, full_range=True) for frame in frames])
