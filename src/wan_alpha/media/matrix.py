"""Which matrix makes RGB of a file's YUV colour: the one of its tag, else the caller's word, else BT.601; and saying so."""

import logging
from functools import lru_cache
from pathlib import Path
from typing import Literal

import av

from wan_alpha.media.colour import is_yuv

log = logging.getLogger(__name__)

Matrix = Literal["bt601", "bt709", "bt2020nc"]
MatrixWord = Literal["file", "bt601", "bt709", "bt2020nc"]
"""The caller's word on colour without a tag; "file" has none, which leaves it at UNTAGGED_MATRIX."""
UNTAGGED_MATRIX: Matrix = "bt601"
"""As FFmpeg reads it, and as the tools write it that leave the tag out (imageio, OpenCV, FFmpeg from RGB)."""
UNTAGGED = 2
CODES: dict[Matrix, int] = {"bt601": 6, "bt709": 1, "bt2020nc": 9}
NAMES = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020nc", 10: "bt2020c"}
"""Codes of ITU-T H.273, as AVFrame.colorspace has them: the ones that colour.frame_rgb knows."""


def settle_matrix(frame: av.VideoFrame, *, word: MatrixWord) -> Matrix | None:
    """Tag a YUV frame that has no matrix tag with the caller's word or the default, and return that; None for any other frame."""
    if not is_yuv(frame) or int(frame.colorspace) != UNTAGGED:
        return None
    matrix = UNTAGGED_MATRIX if word == "file" else word
    frame.colorspace = CODES[matrix]
    return matrix


def tell_matrix(path: Path, first_frame: av.VideoFrame, *, word: MatrixWord) -> None:
    """Log what will be assumed of a file, or that the caller's word does not apply to it: once, until the file changes."""
    if not is_yuv(first_frame):
        return
    tag, level = int(first_frame.colorspace), logging.INFO
    name = NAMES.get(tag)
    if tag == UNTAGGED:
        text = f"colour without a matrix tag, read as {UNTAGGED_MATRIX if word == 'file' else word} ({_whose(word)})"
    elif name is None:
        level, text = logging.WARNING, f"matrix tag {tag} of H.273 is not supported; colour is read as {UNTAGGED_MATRIX}"
    elif word not in ("file", name):
        text = f"colour is tagged {name} and read so; --matrix {word} is for untagged colour"
    else:
        return
    _log_once(path, path.stat().st_mtime_ns, level, text)


def _whose(word: MatrixWord) -> str:
    return "the default; --matrix names another" if word == "file" else f"--matrix {word}"


@lru_cache(maxsize=4096)
def _log_once(path: Path, _modified_ns: int, level: int, text: str) -> None:
    log.log(level, "%s: %s", path, text)
