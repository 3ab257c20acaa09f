"""How often the doctor finds a fault that was put into a clean clip, and how often it cries wolf.

    python benchmarks/doctor.py --clips 40 [--real ../shared/data/endless_sky] [--markdown]

Clean clips: procedural ones, each with its colour continued, a backdrop, and black under alpha 0; rough ones of materials (rock, smoke;
those that move fast apart); and a folder of real clips. Some have a fault of their own: materials whose frames come in random order, and
their density and size with it, flicker, and artwork has fringes. That these are named is counted apart.
"seen": share of injected clips in which a person can see the fault. Of the composite over a background, which is what a viewer sees, at
least 0.1 % of a frame's pixels must differ from the clean clip's by 10 of 255 levels or more (mean of the channels), over one of the nine
backgrounds that evaluate uses. That is 4 % of the range, some four times the step between two greys that a viewer just tells apart (1 %,
Weber's fraction).
"detected": share of injected clips that show the fault's finding, of all and of those seen. "false alarms": share of clean clips that show
it. Limits were chosen on seeds 700,000 to 700,299; these are others.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from faults import FAULTS, HIDDEN, Fault, clean_clip, material_clip, with_hidden  # noqa: E402
from wan_alpha.data.materials import MOTIONS, Motion, frame_order, material_caption  # noqa: E402
from wan_alpha.data.synthetic import sample_transparent_scene  # noqa: E402
from wan_alpha.findings.examine import CHECKS, MATTE_CHECKS, Expected, examine  # noqa: E402
from wan_alpha.media.clip import RgbaClip  # noqa: E402
from wan_alpha.media.find import find_clips  # noqa: E402
from wan_alpha.media.read import count_frames, read_clip  # noqa: E402
from wan_alpha.rgba import METRIC_COLOURS  # noqa: E402

SEEN_LEVELS, SEEN_SHARE = 10, 0.001
WINDOW = 17
EVERY = Expected(num_frames=1, fps=16.0)
NAMES = [check.name for check in (*MATTE_CHECKS, *CHECKS)]
HIDDEN_MATTERS = {"shifted matte", "delayed matte"}
"""What is judged by the colour's end at the matte's edge."""
SAME_SIGHT = {"delayed matte": {"delayed matte", "shifted matte"}}
"""A matte that is late over steady motion is a matte beside the colour: either finding counts."""
FRINGED = {
    "large_metal": "6 18 26 33 39, 47",
    "medium_metal": "7 21 30 36 44, 52",
    "medium_rock": "7 15 22 25 34, 38",
    "small_metal": "7 22 28 34 43, 51",
    "small_rock": "4 13 20 25 26, 33",
}
"""Asteroids of endless_sky whose edges fall evenly to black: levels at alpha 1..49, 50.., 100.., 150.., 200..249, then solid. Real faults
of the artwork, judged by eye and by these means before the measure was changed: no false alarms."""
Case = tuple[str, RgbaClip, set[str]]


def procedural(count: int, first_seed: int) -> Iterator[Case]:
    """(name, clip, what it has: kinds of edges, motion, and findings that are its own). Seeds are apart from those of the limits."""
    for seed in range(first_seed, first_seed + count):
        scene = sample_transparent_scene(seed)
        for hidden in HIDDEN:
            solid = scene.subject not in ("glow", "smoke cloud")
            has = {"edges"} if solid else set()
            has |= {"colour edge"} if solid and hidden != "continued" else set()
            has |= {"motion"} if solid and hidden != "continued" and scene.motion.startswith(("moving", "spinning")) else set()
            has |= {"backdrop"} if hidden == "backdrop" else set()
            yield f"{scene.subject} {scene.motion}, {hidden}", clean_clip(seed, hidden=hidden), has


def materials(count: int, first_seed: int, *, motions: tuple[Motion, ...]) -> Iterator[Case]:
    """Of COUNT seeds those that move as MOTIONS say."""
    for seed in range(first_seed, first_seed + count):
        caption = material_caption(seed)
        if any(MOTIONS[motion] in caption for motion in motions):
            clip, has = material_clip(seed), {"edges"} if "rock" in caption else set()
            order = frame_order(seed, num_frames=clip.num_frames, height=clip.height, width=clip.width)
            has |= {"flickering matte"} if order != sorted(order) else set()
            yield f"{seed}, {caption.split('.')[0].lower()}", clip, has


def real(folder: Path) -> Iterator[Case]:
    """At most a training window of each clip, its first frames."""
    for found in find_clips(folder):
        count = min(WINDOW, count_frames(found.files[0]))
        clip = read_clip(rgba=found.rgba, rgb=found.rgb, alpha=found.alpha, count=count)
        has = {"motion"}
        if "asteroid" in found.name or "ship" in found.name:  # their colour is black under alpha 0
            has |= {"edges", "solid edges", "colour edge"}
        has |= {"halo"} if found.name in {f"asteroid_{name}_spin" for name in FRINGED} else set()
        yield found.name, clip, has


def real_hidden(folder: Path, first_seed: int) -> Iterator[Case]:
    """The real clips with edges, with black and with a procedural backdrop under alpha 0; their own hidden colour is the WebP encoder's."""
    for index, (name, clip, has) in enumerate(real(folder)):
        if "colour edge" in has:
            for hidden in ("backdrop", "black"):
                yield f"{name}, {hidden}", with_hidden(clip, first_seed + index, hidden=hidden), has


def applies(fault: Fault, clip: RgbaClip, has: set[str]) -> bool:
    return (not fault.needs or fault.needs in has) and fault.finding not in has and clip.num_frames >= 9


def found(clip: RgbaClip, names: set[str]) -> bool:
    """Whether examine would report one of NAMES; only the checks that matter for it are run."""
    matte = {check.name for check in MATTE_CHECKS if check.finding(check.measure(clip))}
    if matte:
        return bool(matte & names)
    return any(check.finding(check.measure(clip)) for check in CHECKS if check.name in names)


def seen(clean: RgbaClip, spoilt: RgbaClip) -> bool:
    """Whether the fault shows: see the head of this file. Another size always does; a shorter clip shows the last frames."""
    if clean.alpha.shape[1:] != spoilt.alpha.shape[1:]:
        return True
    for t in range(-spoilt.num_frames, 0):
        shares = [clip.alpha[t, ..., None].astype(np.float32) / 255 for clip in (clean, spoilt)]
        premul = spoilt.rgb[t] * shares[1] - clean.rgb[t] * shares[0]
        for colour in METRIC_COLOURS.values():
            over = premul + (shares[0] - shares[1]) * (255 * np.array(colour, np.float32))
            if np.mean(np.abs(over).mean(axis=-1) >= SEEN_LEVELS) >= SEEN_SHARE:
                return True
    return False


@dataclass
class Tally:
    """What was found in COUNT clean clips: alarms and clips that have the fault of their own, by finding; (detected, seen) by fault."""

    count: int = 0
    alarms: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    own: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    hits: dict[Fault, list[tuple[bool, bool]]] = field(default_factory=lambda: defaultdict(list))


def measure(cases: Iterator[Case], only: list[str], verbose: bool) -> Tally:
    tally = Tally()
    for index, (name, clip, has) in enumerate(cases):
        tally.count += 1
        clean = {name for name in only if found(clip, {name})} if only else {one.name for one in examine(clip, expected=EVERY)}
        for finding in clean:
            tally.alarms[finding].add(name)
        for finding in has & set(NAMES):
            tally.own[finding].add(name)
        for number, fault in enumerate(FAULTS):
            if not applies(fault, clip, has) or fault.finding in clean or (only and fault.finding not in only):
                continue
            rng = np.random.default_rng((index, number))
            for _ in range(fault.draws):
                spoilt = fault.inject(clip, rng)
                hit, shows = found(spoilt, SAME_SIGHT.get(fault.finding, {fault.finding})), seen(clip, spoilt)
                tally.hits[fault].append((hit, shows))
                if verbose and not hit and shows:
                    print(f"missed: {fault.finding}, {fault.strength}: {name}", flush=True)
    return tally


def show(title: str, cases: Iterator[Case], only: list[str], verbose: bool) -> None:
    tally = measure(cases, only, verbose)
    print(f"\n{title}: {tally.count} clean clips\n")
    print("| finding | strength | clips | detected | seen | detected of those seen |\n|---|---|---|---|---|---|")
    for fault in FAULTS:
        if fault in tally.hits:
            detected, shown = np.array(tally.hits[fault]).T
            of_seen = f"{detected[shown].mean():.0%}" if shown.any() else "-"
            print(f"| {fault.finding} | {fault.strength} | {len(shown)} | {detected.mean():.0%} | {shown.mean():.0%} | {of_seen} |")
    print("\n| finding | false alarms on clean clips |\n|---|---|")
    for name in NAMES:
        own, alarms = tally.own[name], tally.alarms[name]
        false, clean = sorted(alarms - own), tally.count - len(own)
        if false:
            print(f"| {name} | {len(false) / clean:.1%} ({len(false)} of {clean}: {'; '.join(false[:4])}) |")
        if own and (not only or name in only):
            missed = "; ".join(sorted(own - alarms)) or "none"
            print(f"| {name}: faults of the clips' own | {len(own & alarms)} of {len(own)} named, missed: {missed} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=40, help="procedural scenes; three clips each")
    parser.add_argument("--materials", type=int, default=40, help="clips of materials")
    parser.add_argument("--first_seed", type=int, default=900_000)
    parser.add_argument("--real", type=Path, default=ROOT.parent / "shared" / "data" / "endless_sky")
    parser.add_argument("--only", nargs="+", default=[], choices=NAMES, help="these findings alone")
    parser.add_argument("--verbose", action="store_true", help="name what was missed")
    arguments = parser.parse_args()
    if arguments.clips:
        show("procedural", procedural(arguments.clips, arguments.first_seed), arguments.only, arguments.verbose)
    for motions in (("still", "drift"), ("fast",)) if arguments.materials else ():
        cases = materials(arguments.materials, arguments.first_seed, motions=motions)
        show(f"materials, {' and '.join(motions)}", cases, arguments.only, arguments.verbose)
    if arguments.real.is_dir():
        show(arguments.real.name, real(arguments.real), arguments.only, arguments.verbose)
        if not arguments.only or HIDDEN_MATTERS & set(arguments.only):
            only = [name for name in arguments.only if name in HIDDEN_MATTERS] or sorted(HIDDEN_MATTERS)
            cases = real_hidden(arguments.real, arguments.first_seed)
            show(f"{arguments.real.name}, other colour under alpha 0", cases, only, arguments.verbose)


if __name__ == "__main__":
    main()
