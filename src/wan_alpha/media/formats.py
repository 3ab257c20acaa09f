"""The formats of an export: what each writes, how deep it is, how far it may be off. Each file is read back and compared."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from wan_alpha.media import exr
from wan_alpha.media.alpha_mode import premultiplied
from wan_alpha.media.clip import Bits, RgbaClip
from wan_alpha.media.colour import LIMITED
from wan_alpha.media.colour_error import ColourBound
from wan_alpha.media.movies import write_ffv1, write_prores, write_webm
from wan_alpha.media.read import ReadSettings, read_pair, read_rgba
from wan_alpha.media.sidecar import EXR_ENDING, ZIP_ENDING
from wan_alpha.media.transfer import Transfer
from wan_alpha.media.verify import PAIR_COLOUR, PAIR_RANGES, check_tags, compare
from wan_alpha.media.write import write_apng, write_pair, write_png_sequence, write_png_zip, write_webp


@dataclass(frozen=True, kw_only=True)
class WriteOptions:
    """Choices that some formats have."""

    alpha_mode: Literal["straight", "premultiplied"] = "straight"
    webp_quality: int | None = None
    """None is lossless; 0 to 100 gives lossy colour, alpha stays exact."""
    exr_transfer: Transfer = "linear"


@dataclass(frozen=True, kw_only=True)
class Format:
    """One format. `write` takes the clip (premultiplied where the options ask for it), the stem and the options."""

    endings: tuple[str, ...]
    """What follows the stem in the names of its files."""
    write: Callable[[RgbaClip, Path, WriteOptions], object]
    bits: Bits = 8
    """The most bits of alpha that it takes; deeper clips are rounded."""
    alpha_bound: int = 0
    """By how many of 65535 levels 16-bit alpha may be off; 8-bit alpha is always exact."""
    colour: ColourBound | None = None
    """How far visible colour may be off; None: it comes back exactly."""
    premul_rounding: float = 0.0
    """ColourBound.rounding of premultiplied files."""
    ranges: tuple[int, ...] = ()
    """The range tag of each of its files that is tagged BT.709."""
    alpha_modes: tuple[str, ...] = ("straight",)
    timed: bool = True
    """Its files state a rate, which must come back where there are frames to time."""


BOTH = ("straight", "premultiplied")
LOSSY_WEBP_COLOUR = ColourBound(mean=12.0, pixel=150.0, halved=2.0)  # chroma is halved in light, which darkens saturated edges
FORMATS: dict[str, Format] = {
    "png": Format(endings=("",), write=lambda clip, stem, _: write_png_sequence(clip, stem), bits=16, timed=False),
    "zip": Format(
        endings=(ZIP_ENDING,),
        write=lambda clip, stem, _: write_png_zip(clip, ending(stem, ZIP_ENDING)),
        bits=16,
        timed=False,
    ),
    "webp": Format(endings=(".webp",), write=lambda clip, stem, o: write_webp(clip, ending(stem, ".webp"), quality=o.webp_quality)),
    "apng": Format(endings=(".apng",), write=lambda clip, stem, _: write_apng(clip, ending(stem, ".apng")), bits=16),
    "prores": Format(
        endings=(".mov",),
        write=lambda clip, stem, o: write_prores(clip, ending(stem, ".mov"), alpha_mode=o.alpha_mode),
        bits=16,
        alpha_bound=43,  # 10 bits: half of 65535 / 1023, and rounding to 12 bits by the decoder
        colour=ColourBound(mean=2.0, pixel=5.0),
        premul_rounding=1.0,
        ranges=(LIMITED,),
        alpha_modes=BOTH,
    ),
    "webm": Format(
        endings=(".webm",),
        write=lambda clip, stem, _: write_webm(clip, ending(stem, ".webm")),
        colour=ColourBound(mean=6.0, pixel=150.0, halved=2.0),
        ranges=(LIMITED,),
    ),
    "ffv1": Format(
        endings=(".mkv",),
        write=lambda clip, stem, o: write_ffv1(clip, ending(stem, ".mkv"), alpha_mode=o.alpha_mode),
        bits=16,
        premul_rounding=0.01,  # 16 bits: half of 255 / 65535, and room
        alpha_modes=BOTH,
    ),
    "pair": Format(
        endings=("_rgb.mp4", "_alpha.mp4"),
        write=lambda clip, stem, o: write_pair(clip, stem, alpha_mode=o.alpha_mode),
        colour=PAIR_COLOUR,
        premul_rounding=1.0,
        ranges=PAIR_RANGES,
        alpha_modes=BOTH,
    ),
    "exr": Format(
        endings=(EXR_ENDING,),
        write=lambda clip, stem, o: exr.write_exr_sequence(clip, ending(stem, EXR_ENDING), transfer=o.exr_transfer),
        bits=16,
        alpha_bound=17,  # a half float has 11 bits below 1
        colour=ColourBound(mean=0.5, rounding=0.001),
        timed=False,
        alpha_modes=BOTH,  # always premultiplied; the writer does it in linear light
    ),
}


@dataclass(frozen=True, kw_only=True)
class WrittenFile:
    """One line of the sidecar: a file or folder as it was read back. Errors as in ReadBack."""

    files: tuple[str, ...]
    format: str
    alpha_mode: str
    bits: int
    alpha_max_error: int
    rgb_max_error: int
    rgb_mean_error: float
    colour_error: float


def ending(stem: Path, text: str) -> Path:
    return stem.with_name(stem.name + text)


def write_format(clip: RgbaClip, stem: Path, *, name: str, options: WriteOptions) -> WrittenFile:
    """Write a straight clip in one format and read it back; MediaError for alpha, colour, tags, frames, size or rate that differ."""
    spec = FORMATS[name]
    flat = clip.with_bits(8) if spec.bits == 8 else clip
    premul = options.alpha_mode == "premultiplied" and name != "exr"
    spec.write(premultiplied(flat) if premul else flat, stem, options)
    paths = [ending(stem, text) for text in spec.endings]
    read = read_rgba if len(paths) == 1 else read_pair
    # A file that should state a rate and does not comes back with none.
    stated = spec.timed and clip.num_frames > 1
    got = read(*paths, bits=flat.bits, settings=ReadSettings(fps_if_unknown=0.0 if stated else clip.fps))
    check_tags(tuple(paths) if spec.ranges else (), spec.ranges)
    bound = spec.alpha_bound if flat.bits == 16 else 0
    colour = colour_bound(name, options)
    error = compare(paths[-1], got.with_bits(flat.bits), flat, alpha_bound=bound, colour=colour, colour_path=paths[0])
    mode = "premultiplied" if name == "exr" else options.alpha_mode
    return WrittenFile(files=tuple(path.name for path in paths), format=name, alpha_mode=mode, bits=flat.bits, **asdict(error))


def colour_bound(name: str, options: WriteOptions) -> ColourBound | None:
    """How far visible colour of a format may be off with these options; None where it comes back exactly."""
    spec = FORMATS[name]
    if name == "webp":
        return None if options.webp_quality is None else LOSSY_WEBP_COLOUR
    if options.alpha_mode == "straight" or name == "exr":
        return spec.colour
    return replace(spec.colour or ColourBound(mean=0.5), rounding=spec.premul_rounding)
