"""Shapes. Axis legend used in every tensor annotation of the project:

    B batch   C channels   T frames   H height   W width           pixels, (B, C, T, H, W)
    c t h w   the same of latents                                  t = (T - 1) / 4 + 1, h = H / 8, w = W / 8
    S tokens of the DiT (t * h/2 * w/2)   L text tokens   D width of a layer

The temporal and spatial factors are those of the Wan2.1 VAE (reference.md, section 1.1) and of the DiT's (1, 2, 2) patches.
"""

from dataclasses import dataclass

from wan_alpha.errors import UsageError
from wan_alpha.limits import MAX_BYTES, MAX_FRAMES, MAX_PIXELS, MAX_SIDE

TEMPORAL_FACTOR = 4
SPATIAL_FACTOR = 8
PATCH = 2
PIXEL_MULTIPLE = SPATIAL_FACTOR * PATCH


@dataclass(frozen=True, kw_only=True)
class ClipSize:
    """Size of a clip in pixels and frames: T = 4n+1, H and W multiples of 16, no larger than a clip that can be read; else UsageError."""

    num_frames: int
    height: int
    width: int

    def __post_init__(self) -> None:
        if self.num_frames < 1 or (self.num_frames - 1) % TEMPORAL_FACTOR:
            raise UsageError(
                "num_frames", got=self.num_frames, expected="4n+1", do=_nearest("--num_frames", *nearest_num_frames(self.num_frames))
            )
        for name in ("height", "width"):
            value = getattr(self, name)
            if value < PIXEL_MULTIPLE or value % PIXEL_MULTIPLE:
                lower = max(PIXEL_MULTIPLE, value // PIXEL_MULTIPLE * PIXEL_MULTIPLE)
                raise UsageError(
                    name, got=value, expected=f"a multiple of {PIXEL_MULTIPLE}", do=_nearest(f"--{name}", lower, lower + PIXEL_MULTIPLE)
                )
        self._check_bounds()

    def _check_bounds(self) -> None:
        for name, most in (("num_frames", MAX_FRAMES), ("height", MAX_SIDE), ("width", MAX_SIDE)):
            if getattr(self, name) > most:
                raise UsageError(f"--{name}", got=getattr(self, name), expected=f"at most {most}")
        pixels = self.height * self.width
        if pixels > MAX_PIXELS:
            got, expected = f"{self.height} x {self.width}", f"at most {MAX_PIXELS >> 20} million pixels"
            raise UsageError("--height and --width", got=got, expected=expected, do="make one of them smaller")
        if self.num_frames * pixels * 4 > MAX_BYTES:
            got, expected = f"{self.num_frames} frames of {self.width}x{self.height}", f"at most {MAX_BYTES >> 30} GiB as 8-bit RGBA"
            raise UsageError("--num_frames", got=got, expected=expected, do="ask for fewer or smaller frames")

    @property
    def latent_frames(self) -> int:
        return latent_frames(self.num_frames)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(t, h, w)."""
        return self.latent_frames, self.height // SPATIAL_FACTOR, self.width // SPATIAL_FACTOR

    @property
    def text(self) -> str:
        """frames x height x width, as in reports: 17x272x272."""
        return f"{self.num_frames}x{self.height}x{self.width}"

    @property
    def num_tokens(self) -> int:
        """Length of the DiT's sequence."""
        t, h, w = self.latent_shape
        return t * (h // PATCH) * (w // PATCH)


def latent_frames(num_frames: int) -> int:
    return (num_frames - 1) // TEMPORAL_FACTOR + 1


def nearest_num_frames(num_frames: int) -> tuple[int, int]:
    """The largest 4n+1 not above, and the next."""
    lower = max(0, num_frames - 1) // TEMPORAL_FACTOR * TEMPORAL_FACTOR + 1
    return lower, lower + TEMPORAL_FACTOR


def _nearest(flag: str, lower: int, upper: int) -> str:
    return f"use {flag} {lower} or {upper}"
