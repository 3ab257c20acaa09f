"""How a clip was made, in the words of its own file: the record that `generate` leaves in every frame, and `export` passes on.

PNG (frames, zips, animations): the text chunk `wan_alpha`. WebP: EXIF's ImageDescription. Movies: the tag `comment`. EXR: `comments`.
"""

import io
import json
from pathlib import Path

from PIL import ExifTags, Image

from wan_alpha.media import exr
from wan_alpha.media.animation import FORMATS
from wan_alpha.media.clip import COMMENT_TAG, RECORD_KEY, image_errors, media_errors
from wan_alpha.media.read import VIDEO_SUFFIXES
from wan_alpha.media.stills import ARCHIVE_SUFFIX, exif_of, is_jpeg, read_bytes, still_series
from wan_alpha.media.timeline import open_video

NEEDED = {"prompt", "seed"}
"""What tells a record from any other comment."""


def read_record(path: Path) -> str | None:
    """The record of a clip (of a series: of its first frame) as JSON; None where the file carries none."""
    text = _text(path)
    try:
        found = json.loads(text or "null")
    except (ValueError, RecursionError):  # another program's comment
        return None
    return text if isinstance(found, dict) and found.keys() >= NEEDED else None


def _text(path: Path) -> str | None:
    if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
        with media_errors(path), open_video(path) as container:
            return {name.lower(): value for name, value in container.metadata.items()}.get(COMMENT_TAG)
    if path.is_dir() or path.suffix.lower() == ARCHIVE_SUFFIX:
        with still_series(path) as series:
            return _picture_text(series[0].path, series[0].read())
    return _picture_text(path, read_bytes(path))


def _picture_text(path: Path, data: bytes) -> str | None:
    if path.suffix.lower() == exr.SUFFIX:
        return exr.comments(path, data)
    if is_jpeg(path):
        return None
    with image_errors(path), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        text = exif_of(image).get(ExifTags.Base.ImageDescription) if image.format == "WEBP" else image.info.get(RECORD_KEY)
        return text if isinstance(text, str) else None
