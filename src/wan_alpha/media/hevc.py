"""Whether an HEVC stream has an alpha layer (ITU-T H.265, annex F): the decoders here give its colour alone, without a word."""

from collections.abc import Iterator

PREFIX_SEI = 39
ALPHA_CHANNEL_INFO = 165
"""The SEI message by which a stream says that a layer of it is alpha (H.265, F.14.2.8)."""

ESCAPED = b"\0\0\3"
"""Two zeros are followed by a 3 that is no part of the message."""


def has_alpha_layer(extradata: bytes, packet: bytes) -> bool:
    """EXTRADATA: the decoder configuration record of MP4, QuickTime or Matroska (ISO/IEC 14496-15, hvcC). PACKET: the first picture."""
    if len(extradata) < 23 or extradata[0] != 1:
        return False
    length_bytes = (extradata[21] & 3) + 1
    units = [*_configured(extradata), *_units(packet, length_bytes)]
    messages = (unit[2:].replace(ESCAPED, ESCAPED[:2]) for unit in units if len(unit) > 2 and unit[0] >> 1 & 63 == PREFIX_SEI)
    return any(ALPHA_CHANNEL_INFO in _types(message) for message in messages)


def _configured(record: bytes) -> Iterator[bytes]:
    """The NAL units of hvcC: arrays of a type byte, a count, and units with 2 bytes of length each."""
    at = 23
    for _ in range(record[22]):
        count = int.from_bytes(record[at + 1 : at + 3], "big")
        at += 3
        for _ in range(count):
            if at >= len(record):
                return
            size = int.from_bytes(record[at : at + 2], "big")
            yield record[at + 2 : at + 2 + size]
            at += 2 + size


def _units(packet: bytes, length_bytes: int) -> Iterator[bytes]:
    at = 0
    while at + length_bytes < len(packet):
        size = int.from_bytes(packet[at : at + length_bytes], "big")
        at += length_bytes
        yield packet[at : at + size]
        at += size


def _types(payload: bytes) -> Iterator[int]:
    """Types of the messages of one SEI unit: type and size are sums of bytes, of which 255 says that more follows."""
    at = 0
    while at + 1 < len(payload):
        kind, at = _sum(payload, at)
        size, at = _sum(payload, at)
        yield kind
        at += size


def _sum(payload: bytes, at: int) -> tuple[int, int]:
    total = 0
    while at < len(payload) and payload[at] == 255:
        total, at = total + 255, at + 1
    return total + (payload[at] if at < len(payload) else 0), at + 1
