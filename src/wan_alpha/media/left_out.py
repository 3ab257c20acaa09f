"""What find_clips does not take for a clip, or takes for another one than was meant, in one line for each folder."""

import logging
import re
from collections import Counter, defaultdict
from pathlib import Path

from wan_alpha.media.stills import is_sequence

log = logging.getLogger(__name__)

PREVIEW_ENDING, DATASET_SHEET, EXPORT_SHEET = "_preview.mp4", "dataset_sheet.png", "export_sheet.png"
OWN_ENDINGS = (PREVIEW_ENDING, DATASET_SHEET, EXPORT_SHEET)
"""Pictures of clips that export and prepare write beside them."""
GENERATED_PREVIEW = "_preview.png"
"""What `generate` writes beside the frames NAME/ and the record NAME.json."""
TEXT_SUFFIXES = (".txt", ".json", ".jsonl", ".csv", ".html", ".md", "")
"""Captions, tables and reports, which lie beside clips: not told there. Among frames or mattes nobody reads them."""
MIN_FRAMES = 3


def is_own_picture(path: Path) -> bool:
    """Whether a file is a picture of clips that was written beside them here, and so no clip."""
    if not path.name.endswith(GENERATED_PREVIEW):
        return path.name.endswith(OWN_ENDINGS)
    frames = path.with_name(path.name.removesuffix(GENERATED_PREVIEW))
    return frames.is_dir() and frames.with_name(frames.name + ".json").is_file()


def tell_left_out(folder: Path, files: list[Path], *, untold: tuple[str, ...] = TEXT_SUFFIXES) -> None:
    """Files of FOLDER that are no clips: a warning with their counts, but for UNTOLD kinds, and a note of our own previews."""
    own = [path for path in files if is_own_picture(path)]
    kinds = Counter("broken link" if not path.exists() else path.suffix.lower() for path in files if path not in own)
    told = ", ".join(f"{kind or 'no ending'} ({count})" for kind, count in kinds.items() if kind not in untold)
    if told:
        log.warning("%s: left out: %s; docs/formats.md says what is read", folder, told)
    if own:
        log.info("%s: left out: %d previews and contact sheets of clips, such as %s", folder, len(own), own[0].name)


def tell_frames_as_stills(folder: Path, stills: list[Path]) -> None:
    """Pictures of FOLDER that are numbered like frames, and yet are clips of one frame each, because other files lie beside them."""
    alike: dict[str, list[Path]] = defaultdict(list)
    for path in stills:
        alike[re.sub(r"\d+", "0", path.name)].append(path)
    for frames in alike.values():
        if len(frames) >= MIN_FRAMES and is_sequence(frames):
            log.warning(
                "%s: %d numbered frames (%s ...) beside other files are read as stills; a clip needs a folder of its own",
                folder,
                len(frames),
                frames[0].name,
            )


def tell_other_formats(clips: list[tuple[Path, tuple[Path, ...]]]) -> None:
    """Files that are not read because the clip lies beside them in a more faithful format: in one line for each folder."""
    by_folder: dict[Path, list[tuple[Path, tuple[Path, ...]]]] = defaultdict(list)
    for chosen, others in clips:
        by_folder[chosen.parent].append((chosen, others))
    for folder, found in by_folder.items():
        chosen, others = found[0]
        log.warning(
            "%s: clips in several formats (%d) are read in one of them: %s, not %s; give another name to what is another clip",
            folder,
            len(found),
            chosen.name,
            ", ".join(path.name for path in others),
        )


def tell_pictures_without_alpha(folder: Path, pictures: list[Path]) -> None:
    """Pictures that are no clips, because they have no alpha and no matte beside them."""
    if not pictures:
        return
    first = pictures[0]
    what, are = (
        (str(first), "a picture without alpha is") if len(pictures) == 1 else (str(folder), f"{len(pictures)} pictures without alpha are")
    )
    log.warning("%s: %s left out; add %s_alpha.png, or an alpha channel (%s)", what, are, first.stem, first.name)
