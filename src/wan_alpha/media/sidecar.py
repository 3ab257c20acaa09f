"""The rate of frames in a folder or zip, from the record that `export` or `generate` wrote beside them: pictures state none themselves."""

import json
import logging
import os
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

SIDECAR_ENDING = "_export.json"
"""Beside NAME in whatever formats export wrote it."""
ZIP_ENDING, EXR_ENDING = "_png.zip", "_exr"
SERIES_ENDINGS = ("", ZIP_ENDING, EXR_ENDING)
"""What follows a clip's name in the names of the series that export writes."""
MAX_BYTES = 1 << 20
RATES = (0.01, 10_000.0)
"""Frames per second that a record may state."""


def series_rate(path: Path) -> float | None:
    """Frames per second of a folder or zip of frames by NAME_export.json beside it, which must list it, else by generate's NAME.json.

    None where neither is there. One that names the series, but whose rate is none within RATES, is told and left alone.
    """
    place = Path(os.path.abspath(path))
    exports = [(place.name.removesuffix(ending) + SIDECAR_ENDING, _lists) for ending in SERIES_ENDINGS if place.name.endswith(ending)]
    for name, belongs in (*exports, (place.name + ".json", _is_generated)):
        record = _read(place.parent / name)
        if record is not None and belongs(record, place.name):
            return _rate(record.get("fps"), place.parent / name)
    return None


def _lists(record: dict[str, Any], name: str) -> bool:
    lines = record.get("written")
    files = [line.get("files") for line in lines if isinstance(line, dict)] if isinstance(lines, list) else []
    return any(isinstance(names, list) and name in names for names in files)


def _is_generated(record: dict[str, Any], name: str) -> bool:
    return record.keys() >= {"prompt", "seed", "fps"}


def _rate(value: object, path: Path) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool) and RATES[0] <= value <= RATES[1]:
        return float(value)
    log.warning("%s: its fps is no number from %g to %g and is left alone", path, *RATES)
    return None


def _read(path: Path) -> dict[str, Any] | None:
    """A record as it is written here; None for anything else, which may be another program's."""
    try:
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            return None
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
