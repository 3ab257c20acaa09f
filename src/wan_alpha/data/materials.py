"""Procedural RGBA clips of materials: rock, metal, fire, smoke and cloud, where data/synthetic.py has flat shapes.

Stage 1 needs them to know greys, browns, textures and wisps: on flat shapes alone, real clips come back in the wrong colours
(docs/log.md, 2026-11-24). Noise of several octaves is coloured by a random palette, lit as relief or thinned to a wisp, cut out
by a ragged blob, and moved over the frame; wisps turn into others, and bursts come and go within a second. Half of what moves fast
has its frames in random order, as effects drawn frame by frame have: every frame a new picture. A clip is a pure function of its seed.
"""

import math
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.floating]

CANVAS = 2  # a material is painted on a canvas of this many frame sizes, over which the frame moves
FIRST_CELLS = 3  # of the coarsest octave, over the canvas
WISP_SHARE = 0.55
SHUFFLED_SHARE = 0.5
FLASHING_SHARE = 0.5
CUTS_CAPTION = "Rock and smoke changing from frame to frame. The background is transparent. Realistic style. Close shot."
Motion = Literal["still", "drift", "fast"]
MOTIONS: dict[Motion, str] = {"still": "standing still", "drift": "drifting and turning", "fast": "moving fast"}


def material_caption(seed: int) -> str:
    """Kind and motion in Wan-Alpha's prompt form."""
    generator = torch.Generator().manual_seed(seed)
    wisp, motion = _is_wisp(generator), _motion(generator)
    kind = "wisp of smoke" if wisp else "rock"
    return f"A {kind} {MOTIONS[motion]}. The background is transparent. Realistic style. Close shot."


def render_material(seed: int, *, num_frames: int, height: int, width: int) -> tuple[Array, Array]:
    """Straight colour (T, H, W, 3) and alpha (T, H, W), float32 in [0, 1]; colour is defined everywhere."""
    frames, order = _frames_and_order(seed, num_frames=num_frames, height=height, width=width)
    clip = frames[order].permute(0, 2, 3, 1).contiguous().numpy()
    return clip[..., :3], clip[..., 3]


def frame_order(seed: int, *, num_frames: int, height: int, width: int) -> list[int]:
    """Which moment each frame of render_material shows: 0, 1, 2, ... or in random order."""
    return _frames_and_order(seed, num_frames=num_frames, height=height, width=width)[1].tolist()


def _frames_and_order(seed: int, *, num_frames: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """(T, 4, H, W) in order of time, and the order (T,) in which they are shown."""
    generator, side = torch.Generator().manual_seed(seed), CANVAS * max(height, width)
    wisp, motion = _is_wisp(generator), _motion(generator)
    path = _path(num_frames, generator, motion=motion)
    paint = _wisp if wisp else _rock
    looks = [_look(paint(side, generator)[None], path, height=height, width=width) for _ in range(2 if wisp else 1)]
    frames = looks[0]
    if wisp and motion != "still":  # one cloud turns into another; a fast one comes and goes as well
        pace = _between(2.0, 6.0, generator) if motion == "fast" else _between(0.0, 1.5, generator)
        turned = (pace * torch.linspace(0, num_frames / 17, num_frames) + _between(0.0, math.pi, generator)).view(-1, 1, 1, 1)
        frames = looks[0] * turned.cos().square() + looks[1] * turned.sin().square()
    if wisp and motion == "fast":
        frames[:, 3] *= _life(num_frames, generator).view(-1, 1, 1)
    is_shuffled = motion == "fast" and _between(0.0, 1.0, generator) < SHUFFLED_SHARE
    return frames, torch.randperm(num_frames, generator=generator) if is_shuffled else torch.arange(num_frames)


def render_cuts(seed: int, *, num_frames: int, height: int, width: int) -> tuple[Array, Array]:
    """As render_material, each frame taken from one of two to five materials; half of such clips flash and flicker as well.

    Neighbouring frames share nothing, as in effects drawn frame by frame; it teaches a VAE to keep the frames of one latent apart.
    """
    generator = torch.Generator().manual_seed(seed)
    others = torch.randint(2**31, (2 + int(torch.randint(4, (), generator=generator)),), generator=generator)
    clips = [render_material(int(other), num_frames=num_frames, height=height, width=width) for other in others]
    frames = torch.stack([torch.from_numpy(np.concatenate([colour, alpha[..., None]], axis=-1)) for colour, alpha in clips])
    which = torch.randint(len(clips), (num_frames,), generator=generator)
    clip = frames[which, torch.randint(num_frames, (num_frames,), generator=generator)]
    if _between(0.0, 1.0, generator) < FLASHING_SHARE:
        bright, thick = (torch.rand(num_frames, 1, 1, 1, generator=generator) for _ in range(2))
        clip = torch.cat([(clip[..., :3] * (0.4 + 1.4 * bright)).clamp(0, 1), clip[..., 3:] * (0.1 + 0.9 * thick)], dim=-1)
    return clip[..., :3].numpy(), clip[..., 3].numpy()


def _rock(side: int, generator: torch.Generator) -> Tensor:
    """(4, side, side): colour lit as relief, and a hard-edged matte."""
    relief = _noise(side, slope=_between(0.4, 1.6, generator), generator=generator)
    colour = (_palette(relief, generator) * _light(relief, generator)).clamp(0, 1)
    return torch.cat([colour, _blob(side, softness=0.03, generator=generator)[None]])


def _wisp(side: int, generator: torch.Generator) -> Tensor:
    """(4, side, side): colour, and a matte as thin as its noise."""
    colour = _palette(_noise(side, slope=_between(0.4, 1.6, generator), generator=generator), generator)
    density = _noise(side, slope=_between(0.7, 1.6, generator), generator=generator)
    thickness = (_between(0.1, 0.9, generator) + density * _between(0.1, 0.5, generator)).clamp(0, 1)
    return torch.cat([colour, (_blob(side, softness=_between(0.3, 1.2, generator), generator=generator) * thickness)[None]])


def _life(num_frames: int, generator: torch.Generator) -> Tensor:
    """(T,) in [0, 1]: what is seen of a burst; it comes fast and fades."""
    time = torch.linspace(0, 1, num_frames) if num_frames > 1 else torch.full((1,), 0.3)
    peak = _between(0.1, 0.5, generator)
    return torch.minimum(0.3 + 0.7 * time / peak, ((1.05 - time) / (1.05 - peak)).clamp(0, 1)).clamp(0, 1)


def _is_wisp(generator: torch.Generator) -> bool:
    return _between(0.0, 1.0, generator) < WISP_SHARE


def _motion(generator: torch.Generator) -> Motion:
    drawn = _between(0.0, 1.0, generator)
    return "still" if drawn < 0.15 else "drift" if drawn < 0.6 else "fast"


def _palette(relief: Tensor, generator: torch.Generator) -> Tensor:
    """(3, side, side): two to four random colours along the noise."""
    stops = torch.stack([_colour(generator) for _ in range(2 + int(torch.randint(3, (), generator=generator)))])
    place = ((relief + 2) / 4).clamp(0, 1) * (len(stops) - 1)
    low = place.floor().clamp(max=len(stops) - 2).long()
    share = (place - low)[..., None]
    return (stops[low] * (1 - share) + stops[low + 1] * share).permute(2, 0, 1)


def _colour(generator: torch.Generator) -> Tensor:
    """(3,): saturation and brightness are drawn too, so that greys, browns and blacks are more common than pure hues."""
    hue = torch.rand(3, generator=generator)
    grey = hue.mean()
    return ((grey + (hue - grey) * 2.5 * _between(0.0, 1.0, generator) ** 2) * _between(0.1, 2.2, generator)).clamp(0, 1)


def _light(relief: Tensor, generator: torch.Generator) -> Tensor:
    """(side, side): brightness of the noise as a landscape, lit from a random side; flat for two in five."""
    depth = _between(0.0, 6.0, generator) if _between(0.0, 1.0, generator) < 0.6 else 0.0
    angle = _between(0.0, 2 * math.pi, generator)
    down, right = relief.diff(dim=0, append=relief[-1:]), relief.diff(dim=1, append=relief[:, -1:])
    return (1 + depth * (math.cos(angle) * down + math.sin(angle) * right)).clamp(0, 2)


def _blob(side: int, *, softness: float, generator: torch.Generator) -> Tensor:
    """(side, side) in [0, 1]: a ragged disc around the middle of the canvas."""
    axis = torch.linspace(-CANVAS, CANVAS, side)
    radius = (axis[:, None].square() + axis[None].square()).sqrt()
    ragged = _noise(side, slope=_between(0.8, 1.8, generator), generator=generator) * _between(0.0, 0.35, generator)
    return ((_between(0.4, 1.1, generator) - radius + ragged) / softness + 0.5).clamp(0, 1)


def _noise(side: int, *, slope: float, generator: torch.Generator) -> Tensor:
    """(side, side), mean 0, standard deviation 1: octaves of smoothed noise, amplitude falling as (cells across)^-slope."""
    total, cells = torch.zeros(1, 1, side, side), FIRST_CELLS
    while cells <= side:
        octave = torch.randn(1, 1, cells, cells, generator=generator)
        total += F.interpolate(octave, (side, side), mode="bicubic", align_corners=False) * cells**-slope
        cells *= 2
    return ((total - total.mean()) / total.std().clamp_min(1e-6))[0, 0]


def _path(num_frames: int, generator: torch.Generator, *, motion: Motion) -> Tensor:
    """(T, 2, 3): where each frame looks on the canvas; it drifts, turns and zooms steadily, or three times as fast."""
    pace = {"still": 0.0, "drift": 1.0, "fast": 3.0}[motion] * num_frames / 17
    time = pace * torch.linspace(-0.5, 0.5, num_frames)
    angle = _between(0.0, 2 * math.pi, generator) + _between(-1.5, 1.5, generator) * time
    zoom = (1 + _between(-0.4, 0.4, generator) * time).clamp(0.4, 1.6) * _between(0.4, 0.75, generator)
    x, y = (_between(-0.1, 0.1, generator) + _between(-0.25, 0.25, generator) * time.clamp(-0.7, 0.7) for _ in range(2))
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    return torch.stack([torch.stack([cos, -sin, x], dim=1), torch.stack([sin, cos, y], dim=1)], dim=1)


def _look(canvas: Tensor, path: Tensor, *, height: int, width: int) -> Tensor:
    """(T, C, H, W) of a canvas (1, C, side, side)."""
    longest = max(height, width)
    shape = path * torch.tensor([width / longest, height / longest, 1.0])
    grid = F.affine_grid(shape, [len(path), canvas.shape[1], height, width], align_corners=False)
    return F.grid_sample(canvas.expand(len(path), -1, -1, -1), grid, padding_mode="reflection", align_corners=False)


def _between(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))
