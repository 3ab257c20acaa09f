"""What packets say of themselves, beside what decoders make of them: VP8's pictures that are never shown, FFV1's checksums."""

import zlib

import av

VP8_SHOWN = 0x10
FFV1_SIZE, FFV1_CHECKED = 3, 8
"""Bytes at a slice's end: its size; with that, an error status and a checksum."""
FFV1_CRC_STARTS = (0, 0x5E31029E)
"""Of versions 3 and 4, mirrored: a whole slice leads back to where its CRC began."""
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def is_shown(packet: av.Packet, codec: str) -> bool:
    """False for a picture that VP8 decodes and never shows: a bit of the frame's first byte (RFC 6386, 9.1)."""
    return codec != "vp8" or bool(memoryview(packet)[0] & VP8_SHOWN)


def ffv1_is_whole(packet: av.Packet) -> bool:
    """False where a slice of an FFV1 frame, of version 3 or later, does not match its size or its checksum.

    FFmpeg fills such a slice from the frame before, without a word. RFC 9043, 4.9: slices end in their size and, where the encoder was
    asked for it, in a checksum that makes the CRC of the whole slice 0. Which of the two is seen from where the sizes lead: to the
    frame's beginning.
    """
    data = bytes(packet)
    slices = _slices(data, footer=FFV1_CHECKED)
    if slices is None:
        return _slices(data, footer=FFV1_SIZE) is not None
    return any(all(_crc(data[a:b], start) == start for a, b in slices) for start in FFV1_CRC_STARTS)


def _slices(data: bytes, *, footer: int) -> list[tuple[int, int]] | None:
    """(begin, end) of each slice, the last one first; None where their sizes do not lead from the frame's end to its beginning."""
    slices, end = [], len(data)
    while end > 0:
        size_at = end - footer
        begin = size_at - int.from_bytes(data[max(size_at, 0) : size_at + FFV1_SIZE], "big")
        if begin < 0:
            return None
        slices.append((begin, end))
        end = begin
    return slices


def _crc(data: bytes, start: int) -> int:
    """CRC-32 of polynomial 0x04C11DB7, highest bit first: zlib's, which goes from the lowest bit, of the bytes' mirror images."""
    return zlib.crc32(data.translate(REVERSED), start ^ 0xFFFFFFFF) ^ 0xFFFFFFFF
