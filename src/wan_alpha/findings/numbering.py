"""What the numbers in the names of a sequence's frames say."""

from itertools import pairwise

from wan_alpha.findings.finding import Finding


def numbering_findings(numbers: list[str]) -> list[Finding]:
    """Gaps, and numbers of different widths. NUMBERS: the digits that tell the frames apart, in the order in which they are read.

    The step of a sequence is the smallest difference of two neighbours, so every second frame is no gap.
    """
    return [found for found in (_missing(numbers), _widths(numbers)) if found is not None]


def _missing(numbers: list[str]) -> Finding | None:
    known = sorted({int(number) for number in numbers})
    if len(known) < 2:
        return None
    step = min(after - before for before, after in pairwise(known))
    gaps = [
        (i + 1, before, (after - before) // step - 1) for i, (before, after) in enumerate(pairwise(known)) if after - before >= 2 * step
    ]
    if not gaps:
        return None
    frame, before, _ = gaps[0]
    count = sum(missing for _, _, missing in gaps)
    return Finding(
        name="missing frames",
        severity="warning",
        says=f"{count} frame{'s' * (count > 1)} missing in a sequence of {len(known)}, number {before + step} first: the motion jumps",
        do="render or copy them again, or number the rest anew",
        value=float(count),
        limit=0.0,
        frame=frame,
    )


def _widths(numbers: list[str]) -> Finding | None:
    """1 and 10, or 999 and 1000, are one count; 1 and 01, or 0001 and 002, are two."""
    shortest = min(numbers, key=len, default="")
    other = next((number for number in numbers if number.startswith("0") and len(number) > len(shortest)), None)
    if other is None:
        return None
    says = f"frames are numbered {shortest} and {other}: two counts may be mixed"
    return Finding(name="mixed numbers", severity="warning", says=says, do="keep one of them in the folder")
