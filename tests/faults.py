"""Faults put into clean clips on purpose, for the tests of the doctor and for benchmarks/doctor.py."""

import io
from collections.abc import Callable
from dataclasses import dataclass, replace

import av
import numpy as np
from PIL import Image

from wan_alpha.data.materials import render_material
from wan_alpha.data.synthetic import render_backdrop, render_subject, sample_transparent_scene
from wan_alpha.findings.filters import largest, smallest
from wan_alpha.media.clip import RgbaClip

Inject = Callable[[RgbaClip, np.random.Generator], RgbaClip]
HIDDEN = ("continued", "backdrop", "black")
VP9 = {"codec": "libvpx-vp9", "crf": 32, "b": 0, "deadline": "realtime"}


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault at one strength, and the finding that should follow. visible: a person who looks at the clip sees it."""

    finding: str
    strength: str
    inject: Inject
    visible: bool = True
    needs: str = ""
    """What a clip must have for the fault to show: "edges" of the matte, "colour edge" along it, "motion"."""
    draws: int = 1
    """How often a benchmark draws a random fault for each clip."""


def clean_clip(seed: int, *, hidden: str = "backdrop", num_frames: int = 17, side: int = 96) -> RgbaClip:
    """A procedural clip; under alpha 0 the subject's colour goes on, or lies a backdrop, or black."""
    scene = sample_transparent_scene(seed)
    colour, alpha = render_subject(scene, num_frames=num_frames, height=side, width=side)
    return with_hidden(RgbaClip(rgb=levels(colour), alpha=levels(alpha), fps=16.0), seed, hidden=hidden)


def with_hidden(clip: RgbaClip, seed: int, *, hidden: str) -> RgbaClip:
    """The clip with its colour under alpha 0 as it is ("continued"), a "backdrop" of the procedural scene SEED, or "black"."""
    visible = clip.alpha[..., None] > 0
    if hidden == "backdrop":
        size = {"num_frames": clip.num_frames, "height": clip.height, "width": clip.width}
        return replace(clip, rgb=np.where(visible, clip.rgb, levels(render_backdrop(sample_transparent_scene(seed), **size))))
    return replace(clip, rgb=clip.rgb * visible.astype(np.uint8)) if hidden == "black" else clip


def material_clip(seed: int, *, num_frames: int = 17, side: int = 128) -> RgbaClip:
    """A clip of rock or smoke, its colour defined everywhere."""
    colour, alpha = render_material(seed, num_frames=num_frames, height=side, width=side)
    return RgbaClip(rgb=levels(colour), alpha=levels(alpha), fps=16.0)


def levels(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values * 255), 0, 255).astype(np.uint8)


def with_alpha(clip: RgbaClip, alpha: np.ndarray) -> RgbaClip:
    return replace(clip, alpha=np.clip(np.rint(alpha), 0, 255).astype(np.uint8))


def with_rgb(clip: RgbaClip, rgb: np.ndarray) -> RgbaClip:
    return replace(clip, rgb=np.clip(np.rint(rgb), 0, 255).astype(np.uint8))


def coded(planes: np.ndarray, *, codec: str = "libx264", **options: str | int) -> np.ndarray:
    """Grey frames (T, H, W) after CODEC (H.264) 4:2:0 with OPTIONS (crf), as other people's mattes come; full range."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as container:
        stream = container.add_stream(codec, rate=16, options={name: str(value) for name, value in options.items()})
        stream.height, stream.width, stream.pix_fmt, stream.codec_context.thread_count = planes.shape[1], planes.shape[2], "yuv420p", 1
        for plane in planes:
            frame = av.VideoFrame(planes.shape[2], planes.shape[1], "yuv420p")
            for index, values in enumerate((plane, *[np.full((plane.shape[0] // 2, plane.shape[1] // 2), 128, np.uint8)] * 2)):
                target = np.frombuffer(frame.planes[index], np.uint8).reshape(-1, frame.planes[index].line_size)
                target[: values.shape[0], : values.shape[1]] = values
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    buffer.seek(0)
    with av.open(buffer) as container:
        return np.stack([_luma(frame) for frame in container.decode(video=0)])


def _luma(frame: av.VideoFrame) -> np.ndarray:
    return np.frombuffer(frame.planes[0], np.uint8).reshape(-1, frame.planes[0].line_size)[: frame.height, : frame.width].copy()


def limited(clip: RgbaClip, rng: np.random.Generator) -> RgbaClip:
    return with_alpha(clip, 16 + clip.alpha * (219 / 255))


def coded_matte(crf: int, **others: str | int) -> Inject:
    return lambda clip, rng: with_alpha(clip, coded(clip.alpha, crf=crf, **others))


def mpeg4_matte(quality: int) -> Inject:
    return lambda clip, rng: with_alpha(clip, coded(clip.alpha, codec="mpeg4", qmin=quality, qmax=quality, flags="+qscale"))


def resized_coded_matte(crf: int, *, factor: float = 1.5) -> Inject:
    """Coded at FACTOR times the size, then made smaller: the codec's grid is gone."""

    def inject(clip: RgbaClip, rng: np.random.Generator) -> RgbaClip:
        large = int(clip.width * factor) // 2 * 2, int(clip.height * factor) // 2 * 2
        return with_alpha(clip, resized(coded(resized(clip.alpha, large), crf=crf), (clip.width, clip.height)))

    return inject


def cut_out_coded_matte(crf: int) -> Inject:
    """Coded with 3 lines more above and 5 more on the left, then cut out: the codec's grid begins elsewhere."""

    def inject(clip: RgbaClip, rng: np.random.Generator) -> RgbaClip:
        larger = np.pad(clip.alpha, ((0, 0), (3, 1), (5, 1)), mode="edge")
        return with_alpha(clip, coded(larger, crf=crf)[:, 3:-1, 5:-1])

    return inject


def resized(planes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.stack([np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BICUBIC)) for plane in planes])


def contrast(gain: float) -> Inject:
    return lambda clip, rng: with_alpha(clip, (clip.alpha - 127.5) * gain + 127.5)


def premultiplied(clip: RgbaClip, rng: np.random.Generator) -> RgbaClip:
    return with_rgb(clip, clip.rgb * (clip.alpha[..., None] / 255))


def fringe(strength: float) -> Inject:
    """Colour mixed with a background at least 90 levels away from the subject's mean, as (1 - alpha) * strength."""

    def inject(clip: RgbaClip, rng: np.random.Generator) -> RgbaClip:
        own = clip.rgb[clip.alpha > 200].mean(axis=0) if (clip.alpha > 200).any() else np.full(3, 128.0)
        colours = np.array([[0, 0, 0], [255, 255, 255], [0, 200, 0], [0, 0, 220]], float)
        far = colours[np.abs(colours - own).mean(axis=1) >= 90]
        background = (far if len(far) else colours)[rng.integers(max(1, len(far)))]
        share = strength * (1 - clip.alpha[..., None] / 255)
        return with_rgb(clip, clip.rgb + share * (background - clip.rgb))

    return inject


def junk(sigma: float) -> Inject:
    def inject(clip: RgbaClip, rng: np.random.Generator) -> RgbaClip:
        noise = rng.normal(128, sigma, clip.rgb.shape)
        return with_rgb(clip, np.where(clip.alpha[..., None] == 0, noise, clip.rgb))

    return inject


def black_hidden(clip: RgbaClip, rng: np.random.Generator) -> RgbaClip:
    return with_rgb(clip, np.where(clip.alpha[..., None] == 0, 0, clip.rgb))


def shifted(pixels: float) -> Inject:
    """The matte moved by PIXELS in a random direction, bilinear."""

    def inject(clip: RgbaClip, rng: np.random.Generator) -> RgbaClip:
        angle = rng.uniform(0, 2 * np.pi)
        moved = clip.alpha.astype(float)
        for axis, distance in ((1, pixels * np.sin(angle)), (2, pixels * np.cos(angle))):
            whole = int(np.floor(distance))
            part = distance - whole
            moved = (1 - part) * np.roll(moved, whole, axis=axis) + part * np.roll(moved, whole + 1, axis=axis)
        return with_alpha(clip, moved)

    return inject


def then_lossless_webp(inject: Inject) -> Inject:
    """The spoilt clip as a lossless WebP of it decodes: under alpha 0 lies what the encoder found cheapest."""

    def spoil(clip: RgbaClip, rng: np.random.Generator) -> RgbaClip:
        spoilt = inject(clip, rng)
        return with_rgb(spoilt, np.stack([_lossless_webp(*frame) for frame in zip(spoilt.rgb, spoilt.alpha, strict=True)]))

    return spoil


def _lossless_webp(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(np.dstack([rgb, alpha])).save(buffer, "WEBP", lossless=True)
    with Image.open(buffer) as image:
        return np.asarray(image.convert("RGBA"))[..., :3]


def delayed(frames: int) -> Inject:
    def inject(clip: RgbaClip, rng: np.random.Generator) -> RgbaClip:
        return RgbaClip(rgb=clip.rgb[frames:], alpha=clip.alpha[:-frames], fps=clip.fps)

    return inject


def flickering(depth: float) -> Inject:
    """Every other frame's matte weaker by DEPTH."""

    def inject(clip: RgbaClip, rng: np.random.Generator) -> RgbaClip:
        gain = np.where(np.arange(clip.num_frames) % 2, 1 - depth, 1.0)
        return with_alpha(clip, clip.alpha * gain[:, None, None])

    return inject


def pulsing(depth: float) -> Inject:
    """Each frame's matte weaker by its own share of up to DEPTH."""

    def inject(clip: RgbaClip, rng: np.random.Generator) -> RgbaClip:
        return with_alpha(clip, clip.alpha * (1 - rng.uniform(0, depth, clip.num_frames))[:, None, None])

    return inject


def dropped_out(clip: RgbaClip, rng: np.random.Generator) -> RgbaClip:
    """One frame's matte is gone, between two that show something."""
    shows = (clip.alpha > 8).any(axis=(1, 2))
    gain = np.ones(clip.num_frames)
    gain[rng.choice(1 + np.flatnonzero(shows[:-2] & shows[1:-1] & shows[2:]))] = 0
    return with_alpha(clip, clip.alpha * gain[:, None, None])


def boiling(clip: RgbaClip, rng: np.random.Generator) -> RgbaClip:
    """Edges wander by up to two pixels from frame to frame, each 8 x 8 block by itself: an automatic matte."""
    gain = rng.uniform(-1, 1, (clip.num_frames, -(-clip.height // 8), -(-clip.width // 8))).repeat(8, axis=1).repeat(8, axis=2)
    gain = gain[:, : clip.height, : clip.width]
    wide, narrow = (kind(clip.alpha, size=5).astype(float) for kind in (largest, smallest))
    return with_alpha(clip, np.where(gain > 0, clip.alpha + gain * (wide - clip.alpha), clip.alpha - gain * (narrow - clip.alpha)))


def cut(clip: RgbaClip, rng: np.random.Generator) -> RgbaClip:
    """The frame moved so that a quarter of the subject's solid rows lies outside."""
    rows = np.nonzero((clip.alpha > 128).any(axis=(0, 2)))[0]
    first = rows[0] + max(1, len(rows) // 4) if len(rows) else 1
    return RgbaClip(rgb=clip.rgb[:, first:], alpha=clip.alpha[:, first:], fps=clip.fps)


def letterboxed(share: float, *, solid: bool) -> Inject:
    def inject(clip: RgbaClip, rng: np.random.Generator) -> RgbaClip:
        depth = max(2, round(clip.height * share / 2))
        rgb, alpha = clip.rgb.copy(), clip.alpha.copy()
        for lines in (slice(0, depth), slice(clip.height - depth, None)):
            rgb[:, lines], alpha[:, lines] = 0, 255 if solid else 0
        return RgbaClip(rgb=rgb, alpha=alpha, fps=clip.fps)

    return inject


def held(clip: RgbaClip, rng: np.random.Generator) -> RgbaClip:
    """Every frame shown twice, from the first that shows something."""
    first = int((clip.alpha > 8).any(axis=(1, 2)).argmax())
    order = np.minimum(first + np.arange(clip.num_frames) // 2, clip.num_frames - 1)
    return RgbaClip(rgb=clip.rgb[order], alpha=clip.alpha[order], fps=clip.fps)


FAULTS = (
    Fault(finding="opaque matte", strength="alpha 255", inject=lambda clip, rng: with_alpha(clip, np.full_like(clip.alpha, 255))),
    Fault(
        finding="opaque matte",
        strength="alpha 250..255",
        inject=lambda clip, rng: with_alpha(clip, rng.integers(250, 256, clip.alpha.shape)),
    ),
    Fault(finding="empty matte", strength="alpha 0", inject=lambda clip, rng: with_alpha(clip, 0 * clip.alpha)),
    Fault(finding="empty matte", strength="alpha 0..4", inject=lambda clip, rng: with_alpha(clip, rng.integers(0, 5, clip.alpha.shape))),
    Fault(finding="matte range", strength="16-235", inject=limited),
    Fault(finding="matte range", strength="16-235, crf 18", inject=lambda clip, rng: coded_matte(18)(limited(clip, rng), rng)),
    Fault(finding="inverted matte", strength="255 - a", inject=lambda clip, rng: with_alpha(clip, 255 - clip.alpha.astype(int))),
    Fault(finding="binary matte", strength="threshold", inject=contrast(1e6), needs="edges"),
    Fault(finding="binary matte", strength="contrast x 16", inject=contrast(16), needs="solid edges"),
    Fault(finding="binary matte", strength="contrast x 4", inject=contrast(4), needs="edges"),
    Fault(finding="noisy matte", strength="H.264 crf 28", inject=coded_matte(28)),
    Fault(finding="noisy matte", strength="H.264 crf 23", inject=coded_matte(23)),
    Fault(finding="noisy matte", strength="H.264 crf 18", inject=coded_matte(18), visible=False),
    Fault(finding="noisy matte", strength="H.264 crf 23, veryfast", inject=coded_matte(23, preset="veryfast"), visible=False),
    Fault(finding="noisy matte", strength="H.264 crf 23, 10 frames a group", inject=coded_matte(23, g=10), visible=False),
    Fault(finding="noisy matte", strength="H.264 crf 23, resized", inject=resized_coded_matte(23), visible=False),
    Fault(finding="noisy matte", strength="MPEG-4 quantiser 5", inject=mpeg4_matte(5), visible=False),
    Fault(finding="noisy matte", strength="VP9 crf 32", inject=coded_matte(**VP9), visible=False),
    Fault(finding="premultiplied colour", strength="8 bit", inject=premultiplied),
    Fault(finding="halo", strength="100 %", inject=fringe(1.0), needs="edges"),
    Fault(finding="halo", strength="50 %", inject=fringe(0.5), needs="edges"),
    Fault(finding="halo", strength="15 %", inject=fringe(0.15), needs="edges", visible=False),
    Fault(finding="black under alpha", strength="0", inject=black_hidden, visible=False),
    Fault(finding="junk under alpha", strength="noise, sigma 60", inject=junk(60), visible=False),
    Fault(finding="junk under alpha", strength="noise, sigma 20", inject=junk(20), visible=False),
    Fault(finding="shifted matte", strength="4 px", inject=shifted(4), needs="colour edge"),
    Fault(finding="shifted matte", strength="2 px", inject=shifted(2), needs="colour edge"),
    Fault(finding="shifted matte", strength="1 px", inject=shifted(1), needs="colour edge"),
    Fault(finding="shifted matte", strength="0.5 px", inject=shifted(0.5), needs="colour edge", visible=False),
    Fault(finding="delayed matte", strength="2 frames", inject=delayed(2), needs="motion"),
    Fault(finding="delayed matte", strength="1 frame", inject=delayed(1), needs="motion"),
    Fault(finding="flickering matte", strength="50 %", inject=flickering(0.5)),
    Fault(finding="flickering matte", strength="15 %", inject=flickering(0.15)),
    Fault(finding="flickering matte", strength="5 %", inject=flickering(0.05)),
    Fault(finding="flickering matte", strength="up to 30 %, irregular", inject=pulsing(0.3), draws=5),
    Fault(finding="flickering matte", strength="one frame lost", inject=dropped_out, draws=5),
    Fault(finding="boiling edges", strength="up to 2 px, 8 x 8 blocks", inject=boiling, needs="edges"),
    Fault(finding="cut subject", strength="a quarter outside", inject=cut),
    Fault(finding="letterbox", strength="1/4, solid black", inject=letterboxed(0.25, solid=True)),
    Fault(finding="letterbox", strength="1/8, transparent black", inject=letterboxed(0.125, solid=False), needs="backdrop"),
    Fault(finding="held frames", strength="every frame twice", inject=held, needs="motion"),
    Fault(
        finding="shifted matte",
        strength="1 px, then lossless WebP",
        inject=then_lossless_webp(shifted(1)),
        needs="colour edge",
        visible=False,
    ),
    Fault(finding="noisy matte", strength="H.264 crf 23, cut out", inject=cut_out_coded_matte(23), visible=False),
    Fault(finding="noisy matte", strength="H.264 crf 23, of twice the size", inject=resized_coded_matte(23, factor=2.0), visible=False),
    Fault(finding="noisy matte", strength="H.264 crf 23, of 4/3 of the size", inject=resized_coded_matte(23, factor=4 / 3), visible=False),
)
"""Random draws follow the order: a new fault goes to the end."""
