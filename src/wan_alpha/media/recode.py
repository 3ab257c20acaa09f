"""A matte through a lossy codec and back, in memory: what one more encoding does to it."""

from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
from jaxtyping import UInt8

from wan_alpha.media.clip import media_errors
from wan_alpha.media.colour import frame_matte, matte_frame

Coder = Literal["H.264", "VP9"]
CODERS: dict[Coder, tuple[Literal["libx264", "libvpx-vp9"], Literal["h264", "vp9"], dict[str, str]]] = {
    "H.264": ("libx264", "h264", {"mbtree": "0"}),
    "VP9": ("libvpx-vp9", "vp9", {"b": "0", "deadline": "good", "cpu-used": "4"}),
}
"""Names of the encoder and the decoder, and the encoder's options. mbtree of x264 gives another file from run to run under AVX-512."""


def recoded(alpha: UInt8[np.ndarray, "T H W"], *, coder: Coder, crf: int) -> UInt8[np.ndarray, "T H W"]:
    """The frames, of even sides, after CODER at this CRF as full-range luma, all else as it comes; MediaError if it refuses.

    One thread: rate control, and so the result, must not depend on the machine.
    """
    encoder_name, decoder_name, options = CODERS[coder]
    with media_errors(Path("a matte in memory"), doing="write"):
        encoder, decoder = av.CodecContext.create(encoder_name, "w"), av.CodecContext.create(decoder_name, "r")
        encoder.height, encoder.width = alpha.shape[1:]
        encoder.pix_fmt, encoder.framerate, encoder.time_base = "yuv420p", Fraction(16), Fraction(1, 16)
        encoder.options, encoder.thread_count, decoder.thread_count = {"crf": str(crf), **options}, 1, 1
        packets = []
        for index, plane in enumerate(alpha):
            frame = matte_frame(plane, "yuv420p")
            frame.pts = index
            packets += encoder.encode(frame)
        packets += encoder.encode(None)
        frames = [frame for packet in (*packets, None) for frame in decoder.decode(packet)]
    return np.stack([frame_matte(frame, full_range=True) for frame in frames])
