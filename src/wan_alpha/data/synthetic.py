"""Procedural clips with exact alpha: moving shapes, glows, glass, smoke and hair-thin strands, with captions that name them.

A clip is a pure function of its `Scene`; a scene is a pure function of its seed. The subject is straight-alpha RGBA. Composited
over a `backdrop` it becomes an opaque RGB clip, which is what the tiny base learns from; alone it is what wan_alpha learns from.
Arrays are float32, (T, H, W, 3) colour and (T, H, W) alpha, sRGB in [0, 1].
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.90, 0.12, 0.10),
    "green": (0.13, 0.72, 0.20),
    "blue": (0.12, 0.25, 0.90),
    "yellow": (0.96, 0.86, 0.12),
    "cyan": (0.10, 0.82, 0.88),
    "magenta": (0.88, 0.14, 0.80),
    "orange": (0.98, 0.53, 0.08),
    "white": (0.95, 0.95, 0.95),
}
SOLIDS = ("disc", "ring", "square", "triangle", "star", "cross")
EFFECTS = ("glow", "glass ball", "smoke cloud", "tuft of hair")
SUBJECTS = SOLIDS + EFFECTS
MOTIONS = ("moving left", "moving right", "moving up", "moving down", "growing", "spinning", "standing still")
BACKDROPS = ("plain", "gradient", "striped", "chequered", "cloudy")
TEXTURES = ("smooth", "banded", "dotted")


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything that determines one clip. Lengths are in half frame heights, centres in [-1, 1], angles in radians."""

    seed: int
    subject: str
    colour: str
    motion: str
    texture: str
    backdrop: str
    backdrop_colour: str
    size: float
    centre: tuple[float, float]
    angle: float
    speed: float


def sample_scene(seed: int) -> Scene:
    """Draw a scene. Solids are twice as likely as effects; subject and backdrop differ in colour."""
    rng = np.random.default_rng(seed)
    subject = str(rng.choice(SUBJECTS, p=np.repeat([0.7 / len(SOLIDS), 0.3 / len(EFFECTS)], [len(SOLIDS), len(EFFECTS)])))
    names = list(COLOURS)
    colour = names[rng.integers(len(names))]
    return Scene(
        seed=seed,
        subject=subject,
        colour=colour,
        motion=MOTIONS[rng.integers(len(MOTIONS))],
        texture=TEXTURES[rng.integers(len(TEXTURES))],
        backdrop=BACKDROPS[rng.integers(len(BACKDROPS))],
        backdrop_colour=str(rng.choice([name for name in names if name != colour])),
        size=float(rng.uniform(0.40, 0.58)),
        centre=(float(rng.uniform(-0.15, 0.15)), float(rng.uniform(-0.15, 0.15))),
        angle=float(rng.uniform(0, 2 * np.pi)),
        speed=float(rng.uniform(0.45, 0.75)),
    )


def sample_transparent_scene(seed: int) -> Scene:
    """A scene for RGBA clips: subjects without bands or dots, as `transparent_caption` says ("Flat style")."""
    return replace(sample_scene(seed), texture="smooth")


def caption(scene: Scene) -> str:
    """What an RGB model reads: subject, colour, motion, backdrop."""
    return f"{subject_phrase(scene)} over a {scene.backdrop} {scene.backdrop_colour} background."


def transparent_caption(scene: Scene) -> str:
    """The same subject in Wan-Alpha's prompt form: transparent background, style, shot, subject."""
    return f"{subject_phrase(scene)}. The background is transparent. Flat style. Close shot."


def subject_phrase(scene: Scene) -> str:
    article = "An" if scene.colour[0] in "aeio" else "A"
    return f"{article} {scene.colour} {scene.subject} {scene.motion}"


def render_subject(scene: Scene, *, num_frames: int, height: int, width: int) -> tuple[Array, Array]:
    """Straight colour (T, H, W, 3) and alpha (T, H, W). Colour is defined everywhere, also where alpha is 0."""
    u, v, pixel = _subject_coordinates(scene, num_frames, height, width)
    alpha = _ALPHA[scene.subject](scene, u, v, pixel)
    return _shade(scene, u, v), np.clip(alpha, 0, 1).astype(np.float32)


def render_backdrop(scene: Scene, *, num_frames: int, height: int, width: int) -> Array:
    """An opaque, slowly drifting backdrop (T, H, W, 3)."""
    rng = np.random.default_rng((scene.seed, 1))
    x, y, time = _grid(num_frames, height, width)
    base = np.array(COLOURS[scene.backdrop_colour], np.float32)
    direction = rng.uniform(0, 2 * np.pi)
    along = (np.cos(direction) * x + np.sin(direction) * y) + 0.3 * rng.uniform(-1, 1) * time
    if scene.backdrop == "plain":
        level = np.full_like(along, 0.75)
    elif scene.backdrop == "gradient":
        level = np.clip(0.6 + 0.35 * along, 0, 1)
    elif scene.backdrop == "striped":
        level = 0.6 + 0.3 * _smooth_sign(np.sin(along * rng.uniform(4, 8)), 0.25)
    elif scene.backdrop == "chequered":
        period = rng.uniform(3, 6)
        level = 0.6 + 0.3 * _smooth_sign(np.sin(period * (x + 0.2 * time)) * np.sin(period * y), 0.2)
    else:
        level = 0.25 + 0.7 * _noise(rng, x + 0.3 * time, y, cells=3)
    return np.clip(0.85 * level[..., None] * base + 0.06, 0, 1).astype(np.float32)


def render_opaque(scene: Scene, *, num_frames: int, height: int, width: int) -> Array:
    """The subject over its backdrop, (T, H, W, 3): a clip as an ordinary RGB model knows it."""
    colour, alpha = render_subject(scene, num_frames=num_frames, height=height, width=width)
    backdrop = render_backdrop(scene, num_frames=num_frames, height=height, width=width)
    return backdrop + alpha[..., None] * (colour - backdrop)


def evaluation_scenes(count: int, *, seed: int) -> list[Scene]:
    """A fixed list that walks subjects and colours evenly, for reports and for fixed prompts."""
    names = list(COLOURS)
    scenes = (sample_scene(seed + i) for i in range(count))
    return [
        replace(s, subject=SUBJECTS[i % len(SUBJECTS)], colour=names[(3 * i) % len(names)], backdrop_colour=names[(3 * i + 4) % len(names)])
        for i, s in enumerate(scenes)
    ]


def _grid(num_frames: int, height: int, width: int) -> tuple[Array, Array, Array]:
    """x, y in half heights from the centre, and time in [0, 1]; broadcastable to (T, H, W)."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    x, y = (2 * x + 1 - width) / height, (2 * y + 1 - height) / height
    time = np.linspace(0, 1, num_frames, dtype=np.float32)[:, None, None]
    return x[None], y[None], time


def _subject_coordinates(scene: Scene, num_frames: int, height: int, width: int) -> tuple[Array, Array, Array]:
    """Coordinates in the subject's own frame (its radius is 1) and the size of a pixel there."""
    x, y, time = _grid(num_frames, height, width)
    room = 0.84 - scene.size
    travel = np.float32(scene.speed) * (2 * time - 1) * room
    dx, dy = {"moving left": (-1, 0), "moving right": (1, 0), "moving up": (0, -1), "moving down": (0, 1)}.get(scene.motion, (0, 0))
    cx = scene.centre[0] * room / 0.5 * (dx == 0) + dx * travel
    cy = scene.centre[1] * room / 0.5 * (dy == 0) + dy * travel
    size = scene.size * (0.55 + 0.45 * time if scene.motion == "growing" else np.ones_like(time))
    turn = 0.15 * np.sin(scene.angle) + (scene.speed * 4 * time if scene.motion == "spinning" else 0 * time)
    c, s = np.cos(turn), np.sin(turn)
    px, py = (x - cx) / size, (y - cy) / size
    return (c * px + s * py).astype(np.float32), (-s * px + c * py).astype(np.float32), (2 / height / size).astype(np.float32)


def _edge(distance: Array, pixel: Array) -> Array:
    """Antialiased coverage from a signed distance: 1 inside, 0 outside, one pixel of ramp."""
    return np.clip(0.5 - distance / pixel, 0, 1)


def _disc(scene: Scene, u: Array, v: Array, pixel: Array) -> Array:
    return _edge(np.hypot(u, v) - 1, pixel)


def _ring(scene: Scene, u: Array, v: Array, pixel: Array) -> Array:
    return _edge(np.abs(np.hypot(u, v) - 0.75) - 0.25, pixel)


def _square(scene: Scene, u: Array, v: Array, pixel: Array) -> Array:
    return _edge(np.maximum(np.abs(u), np.abs(v)) - 0.75, pixel)


def _triangle(scene: Scene, u: Array, v: Array, pixel: Array) -> Array:
    return _edge(np.maximum(np.abs(u) * 0.894 - (v + 1) * 0.447, v - 0.75), pixel)


def _star(scene: Scene, u: Array, v: Array, pixel: Array) -> Array:
    """Five points: the edge runs from a tip at radius 1 to a notch at radius 0.45, mirrored ten times."""
    angle = np.mod(np.arctan2(u, -v) + np.pi / 5, 2 * np.pi / 5) - np.pi / 5
    radius = np.hypot(u, v)
    return _edge(0.384 * (radius * np.cos(angle) - 1) + 0.923 * radius * np.abs(np.sin(angle)), pixel)


def _cross(scene: Scene, u: Array, v: Array, pixel: Array) -> Array:
    bar = np.maximum(np.abs(u) - 0.28, np.abs(v) - 0.95)
    beam = np.maximum(np.abs(v) - 0.28, np.abs(u) - 0.95)
    return _edge(np.minimum(bar, beam), pixel)


def _glow(scene: Scene, u: Array, v: Array, pixel: Array) -> Array:
    return np.clip(1.25 * np.exp(-3.2 * (u * u + v * v)) - 0.05, 0, 1)


def _glass(scene: Scene, u: Array, v: Array, pixel: Array) -> Array:
    radius = np.hypot(u, v)
    shine = np.exp(-12 * ((u + 0.35) ** 2 + (v + 0.4) ** 2))
    return _edge(radius - 1, pixel) * np.clip(0.22 + 0.7 * np.clip(radius, 0, 1) ** 5 + 0.75 * shine, 0, 1)


def _smoke(scene: Scene, u: Array, v: Array, pixel: Array) -> Array:
    rng = np.random.default_rng((scene.seed, 2))
    drift = np.linspace(0, 0.8, u.shape[0], dtype=np.float32)[:, None, None]
    density = _noise(rng, u, v + drift, cells=3) * 1.3 + 0.25
    return density * np.clip(1.15 - (u * u + v * v), 0, 1)


def _hair(scene: Scene, u: Array, v: Array, pixel: Array) -> Array:
    rng = np.random.default_rng((scene.seed, 3))
    time = np.linspace(0, 1, u.shape[0], dtype=np.float32)[:, None, None]
    clear = np.ones(np.broadcast_shapes(u.shape, v.shape), np.float32)
    for lean in np.linspace(-0.85, 0.85, 9):
        reach = np.clip((0.95 - v) / 1.9, 0, 1)
        sway = 0.08 * np.sin(5 * v + 6 * time + rng.uniform(0, 6))
        strand = np.abs(u - (lean * (0.15 + 0.85 * reach) + sway)) - (0.03 + 0.05 * (1 - reach))
        clear *= 1 - _edge(strand, pixel) * np.clip((1 - np.abs(v)) * 6, 0, 1)
    return 1 - clear


_ALPHA = {
    "disc": _disc,
    "ring": _ring,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "glow": _glow,
    "glass ball": _glass,
    "smoke cloud": _smoke,
    "tuft of hair": _hair,
}


def _shade(scene: Scene, u: Array, v: Array) -> Array:
    """Subject colour with soft light from the upper left and its texture."""
    base = np.array(COLOURS[scene.colour], np.float32)
    light = np.clip(0.92 - 0.16 * (u + v), 0.55, 1.15)
    if scene.subject in SOLIDS and scene.texture == "banded":
        light = light * (0.85 + 0.15 * _smooth_sign(np.sin(6 * v), 0.4))
    elif scene.subject in SOLIDS and scene.texture == "dotted":
        light = light * (0.85 + 0.15 * _smooth_sign(np.sin(6 * u) * np.sin(6 * v), 0.3))
    colour = light[..., None] * base
    if scene.subject == "glass ball":
        colour = colour + 0.8 * np.exp(-12 * ((u + 0.35) ** 2 + (v + 0.4) ** 2))[..., None]
    if scene.subject == "glow":
        colour = colour + 0.5 * np.exp(-8 * (u * u + v * v))[..., None]
    return np.clip(colour, 0, 1).astype(np.float32)


def _smooth_sign(wave: Array, softness: float) -> Array:
    return np.tanh(wave / softness)


def _noise(rng: np.random.Generator, x: Array, y: Array, *, cells: int) -> Array:
    """Two octaves of periodic value noise in [0, 1] at coordinates in half heights."""
    total = np.zeros(np.broadcast_shapes(x.shape, y.shape), np.float32)
    for octave, weight in ((1, 0.7), (2, 0.3)):
        size = 8 * octave
        lattice = rng.random((size, size), dtype=np.float32)
        gx, gy = x * cells * octave / 2, y * cells * octave / 2
        x0, y0 = np.floor(gx).astype(int), np.floor(gy).astype(int)
        fx, fy = gx - x0, gy - y0
        fx, fy = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy)
        x0, y0, x1, y1 = x0 % size, y0 % size, (x0 + 1) % size, (y0 + 1) % size
        top = lattice[y0, x0] * (1 - fx) + lattice[y0, x1] * fx
        bottom = lattice[y1, x0] * (1 - fx) + lattice[y1, x1] * fx
        total = total + weight * (top * (1 - fy) + bottom * fy)
    return total
