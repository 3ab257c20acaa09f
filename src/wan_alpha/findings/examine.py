"""The checks, with their limits and severities in one table, and the examination of one clip. docs/doctor.md says how they were set."""

from dataclasses import dataclass

from wan_alpha.findings.alpha import border_touch, empty_share, hard_edge_share, limited_floor, noise_share, opaque_border, opaque_share
from wan_alpha.findings.boiling import boiling
from wan_alpha.findings.colour import edge_pull, hidden_black_share, hidden_roughness, proportional_share
from wan_alpha.findings.delay import time_lag
from wan_alpha.findings.finding import Check, Finding
from wan_alpha.findings.flicker import flicker
from wan_alpha.findings.frame import held_share, letterbox_share, missing_frames, rate_error, rate_spread
from wan_alpha.findings.shift import space_shift
from wan_alpha.media.clip import RgbaClip


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the clips are for: frames of a training window, and the model's frame rate."""

    num_frames: int = 17
    fps: float = 16.0


# A matte of one of these kinds is no matte: measures of edges and colours would only repeat it.
MATTE_CHECKS = (
    Check(
        name="opaque matte",
        severity="error",
        limit=0.998,
        says="{value:.1%} of the matte is solid: nothing is transparent",
        do="export the clip with its alpha, or leave it out",
        measure=lambda clip: opaque_share(clip.alpha),
    ),
    Check(
        name="empty matte",
        severity="error",
        limit=0.9995,
        says="{value:.2%} of every frame is transparent: nothing is visible",
        do="export the clip with its alpha, or leave it out",
        measure=lambda clip: empty_share(clip.alpha),
    ),
    Check(
        name="matte range",
        severity="error",
        limit=10.0,
        says="the matte has {detail}: it is 16-235 read as 0-255",
        do="--fix stretches it; or export the matte in full range",
        measure=lambda clip: limited_floor(clip.alpha),
        repair="stretch",
    ),
    Check(
        name="inverted matte",
        severity="error",
        limit=0.8,
        says="{value:.0%} of the frame's border is solid around a transparent middle",
        do="look at it, and invert the matte",
        measure=lambda clip: opaque_border(clip.alpha),
    ),
)
CHECKS = (
    Check(
        name="binary matte",
        severity="warning",
        limit=0.65,
        says="{value:.0%} of edge pixels are either 0 or 255: edges are stairs",
        do="export an antialiased matte",
        measure=lambda clip: hard_edge_share(clip.alpha),
    ),
    Check(
        name="noisy matte",
        severity="warning",
        limit=0.0055,
        says="{value:.1%} of the almost empty and almost solid pixels are a codec's noise",
        do="--fix cleans it; write mattes without loss",
        measure=lambda clip: noise_share(clip.alpha),
        repair="denoise",
    ),
    Check(
        name="flickering matte",
        severity="warning",
        limit=0.05,
        says="{value:.1%} of the matte goes up and down from frame to frame",
        do="look at it, and make the matte again",
        measure=lambda clip: flicker(clip.alpha),
    ),
    Check(
        name="boiling edges",
        severity="warning",
        limit=0.045,
        says="{value:.0%} of the matte's edges goes up and down while the colour stands still",
        do="look at it, and smooth the matte over time where it was made",
        measure=lambda clip: boiling(clip.rgb, clip.alpha),
    ),
    Check(
        name="premultiplied colour",
        severity="error",
        limit=0.85,
        says="colour falls with alpha (proportional: {value:.2f} of 1)",
        do="--fix divides it by alpha; or export straight alpha",
        measure=lambda clip: proportional_share(clip.rgb, clip.alpha),
        repair="unpremultiply",
    ),
    Check(
        name="halo",
        severity="warning",
        limit=20.0,
        says="edges are pulled by {value:.0f} levels towards another colour",
        do="decontaminate the edge colours where the matte was made",
        measure=lambda clip: edge_pull(clip.rgb, clip.alpha),
    ),
    Check(
        name="black under alpha",
        severity="note",
        limit=0.95,
        says="{value:.0%} of the transparent pixels are black (usual for PNG and WebP)",
        do="harmless for training; --fix continues the edges' colour outwards",
        measure=lambda clip: hidden_black_share(clip.rgb, clip.alpha),
        repair="bleed",
    ),
    Check(
        name="junk under alpha",
        severity="note",
        limit=6.0,
        says="colour under alpha 0 changes by {value:.1f} levels from pixel to pixel",
        do="harmless for training, costly for codecs; --fix continues the edges' colour outwards",
        measure=lambda clip: hidden_roughness(clip.rgb, clip.alpha),
        repair="bleed",
    ),
    Check(
        name="shifted matte",
        severity="warning",
        limit=0.3,
        says="the matte lies {value:.1f} pixels beside the colour ({detail})",
        do="shift the matte back where it was made",
        measure=lambda clip: space_shift(clip.rgb, clip.alpha),
    ),
    Check(
        name="delayed matte",
        severity="warning",
        limit=0.75,
        says="the matte is {value:.1f} frames {detail} the colour",
        do="cut both so that they begin together",
        measure=lambda clip: time_lag(clip.rgb, clip.alpha),
    ),
    Check(
        name="cut subject",
        severity="note",
        limit=0.02,
        says="the subject touches the {detail} of the frame over {value:.0%} of it",
        do="usual at the bottom of a medium shot; else frame it wider",
        measure=lambda clip: border_touch(clip.alpha),
    ),
    Check(
        name="letterbox",
        severity="warning",
        limit=0.02,
        says="black bars at {detail} take {value:.0%}",
        do="crop the bars",
        measure=lambda clip: letterbox_share(clip.rgb, clip.alpha),
    ),
    Check(
        name="held frames",
        severity="warning",
        limit=0.2,
        says="{value:.0%} of the frames repeat the one before: the motion has another rate than the file",
        do="export at the rate at which it was made",
        measure=lambda clip: held_share(clip.rgb, clip.alpha),
    ),
)


def examine(clip: RgbaClip, *, expected: Expected) -> list[Finding]:
    """All findings of the pixels, the timing and the tags of one clip. A matte that is none hides the checks that need one."""
    of_files = [*_timing(clip, expected), *_untagged(clip)]
    matte = [found for check in MATTE_CHECKS if (found := check.finding(check.measure(clip)))]
    return of_files + (matte or [found for check in CHECKS if (found := check.finding(check.measure(clip)))])


def _timing(clip: RgbaClip, expected: Expected) -> list[Finding]:
    short = Check(
        name="short clip",
        severity="warning",
        limit=0.0,
        says=f"{{detail}}, {expected.num_frames} make a training window",
        do="training plays it back and forth; a longer clip is better",
        measure=lambda clip: missing_frames(clip.num_frames, wanted=expected.num_frames),
    )
    rate = Check(
        name="frame rate",
        severity="note",
        limit=0.05,
        says=f"{{detail}}, the model paints {expected.fps:g}",
        do=f"wan-alpha prepare --rate blend --fps {expected.fps:g}",
        measure=lambda clip: rate_error(clip.fps, wanted=expected.fps),
    )
    uneven = Check(
        name="variable rate",
        severity="warning",
        limit=1.0,
        says="frames are shown for {detail}, the longest {value:.1f} times the shortest",
        do="prepare holds frames on a constant grid, or keeps each once (--variable_rate mean)",
        measure=lambda clip: rate_spread(clip.times),
    )
    return [found for check in (short, uneven, rate) if (found := check.finding(check.measure(clip)))]


def _untagged(clip: RgbaClip) -> list[Finding]:
    """A doubt that the pixels cannot settle: without a tag, another matrix gives other colours, by up to some 30 levels."""
    if clip.assumed_matrix is None:
        return []
    says = f"YUV colour without a matrix tag was read as {clip.assumed_matrix}"
    return [Finding(name="untagged colour", severity="note", says=says, do="look at saturated colours; --matrix names another matrix")]
