"""Y'CbCr <-> R'G'B' at more than 8 bits, in float32 and rounded once (ITU-T H.273, section 8.3).

Y = Kr R + Kg G + Kb B, Cb = (B - Y) / (2 - 2 Kb), Cr = (R - Y) / (2 - 2 Kr), with Y in [0, 1] and Cb, Cr in [-1/2, 1/2].
"""

import numpy as np
from jaxtyping import UInt16

# AVFrame.colorspace -> (Kr, Kb); anything else (2 = untagged) is BT.601.
BT601, BT709 = (0.299, 0.114), (0.2126, 0.0722)
WEIGHTS = {1: BT709, 4: (0.30, 0.11), 7: (0.212, 0.087), 9: (0.2627, 0.0593), 10: (0.2627, 0.0593)}


def to_rgb(planes: list[np.ndarray], *, bits: int, matrix: int, full_range: bool) -> UInt16[np.ndarray, "H W 3"]:
    """Planes Y, Cb, Cr (H, W) of BITS bits as 16-bit RGB; matrix is the code of H.273 (AVFrame.colorspace)."""
    kr, kb = WEIGHTS.get(matrix, BT601)
    luma, blue, red = _decode(planes, bits, full_range)
    r = luma + (2 - 2 * kr) * red
    b = luma + (2 - 2 * kb) * blue
    g = (luma - kr * r - kb * b) / (1 - kr - kb)
    return np.rint(np.stack([r, g, b], axis=-1).clip(0, 1) * 65535).astype(np.uint16)


def from_rgb(rgb: UInt16[np.ndarray, "H W 3"], *, bits: int) -> list[UInt16[np.ndarray, "H W"]]:
    """16-bit RGB as the planes Y, Cb, Cr of BT.709, limited range, BITS bits."""
    kr, kb = BT709
    r, g, b = (rgb[..., i].astype(np.float32) / 65535 for i in range(3))
    luma = kr * r + (1 - kr - kb) * g + kb * b
    unit = 1 << (bits - 8)
    chroma = [(b - luma) / (2 - 2 * kb), (r - luma) / (2 - 2 * kr)]
    codes = [16 * unit + 219 * unit * luma, *(128 * unit + 224 * unit * c for c in chroma)]
    return [np.rint(c).astype(np.uint16) for c in codes]


def _decode(planes: list[np.ndarray], bits: int, full_range: bool) -> list[np.ndarray]:
    unit = np.float32(1 << (bits - 8))
    top = np.float32((1 << bits) - 1)
    luma, *chroma = (part.astype(np.float32) for part in planes)
    if full_range:
        return [luma / top, *((c - 128 * unit) / top for c in chroma)]
    return [(luma - 16 * unit) / (219 * unit), *((c - 128 * unit) / (224 * unit) for c in chroma)]
