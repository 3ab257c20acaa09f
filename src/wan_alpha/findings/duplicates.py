"""Clips of a dataset that show the same thing."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from wan_alpha.findings.finding import Alpha, Finding, Rgb
from wan_alpha.findings.frame import thumb

MOMENTS, GRID = 4, 8
SAME_LEVELS = 1.5
"""Two clips whose signatures differ by less on average (levels of 255) are one: a re-encoded or resized copy stays below 1."""

Signature = UInt8[np.ndarray, " N"]


def signature(rgb: Rgb, alpha: Alpha) -> Signature:
    """What a clip looks like, coarsely: 8 x 8 means of premultiplied colour and alpha at four moments, start and end included."""
    moments = np.linspace(0, len(alpha) - 1, MOMENTS).round().astype(int)
    means = np.stack([thumb(rgb[t], alpha[t], grid=GRID) for t in moments])
    return np.rint(means).astype(np.uint8).ravel()


def duplicate_findings(signatures: Sequence[tuple[str, Signature]]) -> dict[str, Finding]:
    """Clip -> finding that names the first clip (in the given order) that it repeats."""
    found: dict[str, Finding] = {}
    table = np.array([values for _, values in signatures], np.int16)
    for i, (name, _) in enumerate(signatures):
        distance = np.abs(table[:i] - table[i]).mean(axis=1)
        if i and distance.min() < SAME_LEVELS:
            first = signatures[int(np.argmax(distance < SAME_LEVELS))][0]
            says = f"shows the same as {first} (mean difference {distance.min():.2f} levels)"
            found[name] = Finding(
                name="duplicate",
                severity="warning",
                says=says,
                do="keep one of them",
                value=round(float(distance.min()), 4),
                limit=SAME_LEVELS,
            )
    return found
