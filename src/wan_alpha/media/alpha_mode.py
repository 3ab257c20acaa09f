"""Straight or premultiplied: what a file says, what its pixels say, and how to make it straight."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from wan_alpha.media.clip import Colour, Matte, RgbaClip
from wan_alpha.media.transfer import Transfer, linear_to_srgb, srgb_to_linear

log = logging.getLogger(__name__)

AlphaMode = Literal["file", "detect", "straight", "premultiplied"]
# Alpha (0-255) between which a pixel is evidence: below, rounding hides the colour; above, both conventions are alike.
TRANSLUCENT = (16, 239)
CALLED, FILE_SAYS = "for it was called premultiplied", "for its file says that it is premultiplied"
"""Why colour was divided by alpha."""
SLACK = 2
"""Levels by which codecs lift premultiplied colour above its alpha."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the translucent pixels of a clip say about its convention."""

    pixels: int
    above: float
    """Share of them whose brightest channel is above alpha: premultiplied colour cannot be."""
    correlation: float
    """Of the brightest channel with alpha: near 1 where colour fades with alpha, near 0 for straight colour."""

    @property
    def premultiplied(self) -> bool:
        """At least 64 pixels, of which less than 1 in 200 is brighter than its alpha, and colour fades with alpha."""
        return self.pixels >= 64 and self.above < 0.005 and self.correlation > 0.5

    def __str__(self) -> str:
        if self.pixels < 64:
            return f"{self.pixels} translucent pixels, too few to tell"
        return (
            f"{self.above:.1%} of {self.pixels} translucent pixels are brighter than their alpha, "
            f"brightness follows alpha with a correlation of {self.correlation:.2f}"
        )


def evidence(clip: RgbaClip, *, transfer: Transfer = "display") -> Evidence:
    """Look at every translucent pixel, as it was in its file: TRANSFER says whether that held light.

    A black or evenly dark subject gives no correlation and counts as straight, where it is the same.
    """
    low, high = (level * (clip.top // 255) for level in TRANSLUCENT)
    above, sums = 0, np.zeros(6)
    for rgb, matte in zip(clip.rgb, clip.alpha, strict=True):  # frame by frame: levels as numbers take many times their room
        translucent = (matte >= low) & (matte <= high)
        alpha, brightest = matte[translucent].astype(np.float64), rgb[translucent].max(axis=-1, initial=0).astype(np.float64)
        brightest = srgb_to_linear(brightest / clip.top) * clip.top if transfer == "linear" else brightest
        above += int(np.count_nonzero(brightest > alpha + SLACK * (clip.top // 255)))
        sums += [alpha.size, alpha.sum(), brightest.sum(), alpha @ alpha, brightest @ brightest, alpha @ brightest]
    pixels = int(sums[0])
    return Evidence(pixels=pixels, above=above / pixels if pixels else 0.0, correlation=_correlation(*sums))


def _correlation(n: float, x: float, y: float, xx: float, yy: float, xy: float) -> float:
    """From the number of pairs, their sums and those of their products; 0 where x or y does not vary."""
    x_varies, y_varies = xx - x * x / max(n, 1), yy - y * y / max(n, 1)
    if min(x_varies, y_varies) <= 1e-9 * max(n, 1):
        return 0.0
    return float((xy - x * y / n) / np.sqrt(x_varies * y_varies))


def as_straight(clip: RgbaClip, path: Path, *, mode: AlphaMode, stated_premultiplied: bool, transfer: Transfer = "display") -> RgbaClip:
    """The clip with straight colour, and with the reason why it was divided by alpha, if it was.

    mode: "file" takes the file's own word (untagged: straight), "detect" the pixels' where the file says nothing, and logs the
    evidence; "straight" and "premultiplied" are the caller's word. transfer: what the file's colour was when it was multiplied.
    """
    divided = None
    if mode == "premultiplied":
        divided = CALLED
    elif mode != "straight" and stated_premultiplied:
        divided = FILE_SAYS
    elif mode == "detect":
        seen = evidence(clip, transfer=transfer)
        log.info("%s: read as %s: %s", path, "premultiplied" if seen.premultiplied else "straight", seen)
        clip = replace(clip, evidence=str(seen))
        divided = f"for its pixels are premultiplied: {seen}" if seen.premultiplied else None
    if divided is None:
        return clip
    return replace(clip, rgb=unpremultiplied(clip.rgb, clip.alpha, transfer=transfer), divided=divided)


def unpremultiplied(rgb: Colour, alpha: Matte, *, transfer: Transfer = "display") -> Colour:
    """Straight colour of premultiplied pixels, rounded and clipped; black under alpha 0.

    rgb: sRGB levels; of colour that was multiplied as light, linear_to_srgb(c * a), which is divided in light: linear_to_srgb(c).
    """
    top = (1 << (8 * alpha.itemsize)) - 1
    out = np.zeros_like(rgb)
    for straight, premul, a in zip(out, rgb, alpha, strict=True):
        one_over = top / np.maximum(a, 1)[..., None].astype(np.float32)
        if transfer == "linear":
            light = srgb_to_linear(premul.astype(np.float32) / top) * one_over
            levels = np.rint(linear_to_srgb(light.clip(0, 1)) * top)
        else:
            levels = np.minimum(np.rint(premul * one_over), top)
        straight[...] = np.where(a[..., None] > 0, levels, 0)
    return out


def premultiplied(clip: RgbaClip) -> RgbaClip:
    """The clip with colour times alpha, at 16 bits: 8 would keep only a few levels of colour where alpha is small."""
    deep = clip.with_bits(16)
    out = np.empty_like(deep.rgb)
    for premul, rgb, alpha in zip(out, deep.rgb, deep.alpha, strict=True):
        premul[...] = (rgb.astype(np.uint32) * alpha[..., None] + 32767) // 65535
    return replace(deep, rgb=out)
