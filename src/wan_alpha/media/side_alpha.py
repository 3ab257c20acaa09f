"""Alpha beside the picture: in WebM, the packets of VP8 and VP9 carry a second stream of the same codec, whose luma is alpha.

FFmpeg's own decoders leave it; libvpx's show it, but take whatever memory a damaged picture asks for. So both streams go through
FFmpeg's: the result is the same to the bit, and sooner there.
"""

from pathlib import Path
from typing import Literal

import av
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from wan_alpha.errors import MediaError

CODECS: dict[str, Literal["vp8", "vp9"]] = {"vp8": "vp8", "vp9": "vp9"}
DATA: Literal["matroska_block_additional"] = "matroska_block_additional"
HEADER = 8
"""Bytes before it: the number of its kind."""


class SideAlpha:
    """Decodes the second stream in step with the first, and hands out its pictures by their time stamps."""

    def __init__(self, decoder: VideoCodecContext, path: Path) -> None:
        self._path = path
        self._decoder = av.CodecContext.create(CODECS[decoder.name], "r")
        self._decoder.options, self._decoder.thread_count = decoder.options, decoder.thread_count
        self._promised: set[int] = set()
        self._found: dict[int, av.VideoFrame] = {}

    def feed(self, packet: av.Packet) -> None:
        """Decode what lies beside a packet; the last one, which is empty, brings out the rest."""
        matte = None
        if packet.size:
            if not packet.has_sidedata(DATA):
                return
            matte = av.Packet(bytes(packet.get_sidedata(DATA))[HEADER:])
            matte.pts, matte.dts, matte.time_base = packet.pts, packet.dts, packet.time_base
            self._promised.add(_stamp(packet))
        for frame in self._decoder.decode(matte):
            self._found[_stamp(frame)] = frame

    def is_ready(self, frame: av.VideoFrame) -> bool:
        """Whether the alpha of a picture has come, or will not."""
        stamp = _stamp(frame)
        return stamp not in self._promised or any(found >= stamp for found in self._found)

    def of(self, frame: av.VideoFrame) -> av.VideoFrame | None:
        """The picture whose luma is the frame's alpha; None where the file has none for it. MediaError for one that does not fit."""
        if _stamp(frame) not in self._promised:
            return None
        matte = self._found.pop(_stamp(frame), None)
        if matte is None or matte.is_corrupt or (matte.width, matte.height) != (frame.width, frame.height):
            got = "no" if matte is None else "a broken" if matte.is_corrupt else f"{matte.width}x{matte.height} of"
            expected = f"{frame.width}x{frame.height} of it"
            raise MediaError(self._path, got=f"{got} alpha at time stamp {frame.pts}", expected=expected, do="export the clip again")
        return matte


def side_alpha(stream: VideoStream, path: Path) -> SideAlpha | None:
    """The decoder of a stream's alpha, with the settings of its own; None where the file says of no alpha."""
    says = {key.lower(): value for key, value in stream.metadata.items()}.get("alpha_mode") == "1"
    return SideAlpha(stream.codec_context, path) if says and stream.codec_context.name in CODECS else None


def _stamp(picture: av.Packet | av.VideoFrame) -> int:
    return -1 if picture.pts is None else picture.pts
