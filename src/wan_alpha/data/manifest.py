"""The table of a dataset: which files make a clip, and its prompt. Read as text: 001 stays 001, an empty prompt stays empty.

video,prompt                   <video>_rgb.mp4 + <video>_alpha.mp4 in the dataset's folder (what prepare writes), or an RGBA file
video_fgr,video_pha,prompt     two files per row; frame_height and frame_width are ignored (their publishers swap them)
JSONL                          {"rgba": file, "prompt": ...} or {"rgb": file, "alpha": file, "prompt": ...}, or the columns above
"""

import csv
import io
import logging
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath

from wan_alpha.data.user_json import json_object
from wan_alpha.errors import DatasetError, did_you_mean, printable
from wan_alpha.media.atomic import beside

log = logging.getLogger(__name__)

DEFAULT_TABLES = ("metadata.csv", "metadata.jsonl")
TABLE_SUFFIXES = (".csv", ".jsonl")
COLUMNS = ("video", "rgba", "rgb", "alpha", "video_fgr", "video_pha", "prompt")
IGNORED_COLUMNS = ("frame_height", "frame_width")
OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs"}
"""What spreadsheets write between cells in some countries, or when asked to."""
COLOUR, MATTE = "_rgb", "_alpha"
MAX_NAME, MAX_PATH = 255 - len("_alpha.mp4"), 2048
"""Bytes of a name, to which a half's ending may come, and of a path in a dataset. File systems hold 255 and 4096, Windows fewer."""

Row = dict[str, str]


@dataclass(frozen=True, kw_only=True)
class _Line:
    """One row, and the line where it ends. One that is not as it should be has a problem, and no values if none can be read."""

    number: int
    row: Row
    problem: DatasetError | None = None


class AnotherTable(DatasetError):
    """A table without rows, or whose columns are not those of clips and prompts: another program's, perhaps."""


@dataclass(frozen=True, kw_only=True)
class ClipEntry:
    """One row: either rgba, or rgb and alpha. A row whose files cannot be used has a problem instead."""

    name: str
    prompt: str
    rgba: Path | None = None
    rgb: Path | None = None
    alpha: Path | None = None
    problem: DatasetError | None = None


@dataclass(frozen=True, kw_only=True)
class ClipTable:
    """The rows of a table, in its order; several may have one name."""

    path: Path
    entries: tuple[ClipEntry, ...]
    has_prompts: bool
    """False for the published Stage-1 table, whose clips are not said to have an empty prompt."""


def read_manifest(base: Path, metadata: Path | None = None, *, key: str = "video") -> list[ClipEntry]:
    """Entries of METADATA (default: metadata.csv or metadata.jsonl in BASE), in its order. KEY is the column that names the clip.

    DatasetError names the table and the row: unknown columns, a missing file or matte, a path that leaves BASE.
    """
    if not base.is_dir():
        raise DatasetError(
            base, got="no such folder", expected="a prepared dataset", do="run wan-alpha prepare, or correct --dataset_base_path"
        )
    table = metadata or next(iter(tables_of(base)), base / DEFAULT_TABLES[0])
    if not table.is_file():
        raise DatasetError(
            table, got="no such file", expected="a table of clips", do="run wan-alpha prepare, or give --dataset_metadata_path"
        )
    entries = read_table(base, table, key=key).entries
    problem = next((entry.problem for entry in entries if entry.problem is not None), None)
    if problem is not None:
        raise problem
    return _with_unique_names(entries)


def tables_of(base: Path) -> list[Path]:
    """The tables that a folder of clips has, the one that counts first."""
    return [path for path in (base / name for name in DEFAULT_TABLES) if path.is_file()]


def read_table(base: Path, table: Path, *, key: str = "video") -> ClipTable:
    """Every row of a table of clips in BASE. Each of these is that row's problem: too many or too few cells, a line of JSONL that is broken
    or lacks a column, files that are missing or lie outside of BASE.

    AnotherTable for no rows, and where the columns of none are those of a clip; DatasetError for text that is no table.
    """
    lines = _read_lines(table)
    if not lines:
        raise AnotherTable(table, got="no rows", expected="at least one clip", do="run wan-alpha prepare")
    ignored = [name for name in IGNORED_COLUMNS if name in lines[0].row]
    if ignored:
        log.info("%s: %s ignored; sizes come from the files", table, " and ".join(ignored))
    entries = tuple(_entry_or_problem(base, _place(table, line.number), line, key) for line in lines)
    problems = [(entry.problem, line) for entry, line in zip(entries, lines, strict=True) if entry.problem is not None]
    others = [problem for problem, line in problems if isinstance(problem, AnotherTable) or not line.row]
    if len(others) == len(lines):
        raise next((problem for problem in others if isinstance(problem, AnotherTable)), others[0])
    return ClipTable(path=table, entries=entries, has_prompts=any("prompt" in line.row for line in lines))


def _place(table: Path, line: int) -> str:
    return f"{table}, line {line}"


def _entry_or_problem(base: Path, where: str, line: _Line, key: str) -> ClipEntry:
    row = line.row
    try:
        columns = _columns(where, row, key) if row or line.problem is None else ()
        if line.problem is not None:
            raise line.problem
        return _entry(base, where, row, columns)
    except DatasetError as error:
        file = next((row[column] for column in ("video_fgr", "rgb", "rgba", key) if row.get(column)), "")
        name = printable(f"{_stem(file)} ({where.rpartition(', ')[2]})".strip())
        return ClipEntry(name=name, prompt=row.get("prompt") or "", problem=error)


def _with_unique_names(entries: Iterable[ClipEntry]) -> list[ClipEntry]:
    """clip, clip#2, ...: two captions of one clip, or files of one name in two folders, stay apart in every report."""
    seen: Counter[str] = Counter()
    unique = []
    for entry in entries:
        seen[entry.name] += 1
        unique.append(entry if seen[entry.name] == 1 else replace(entry, name=f"{entry.name}#{seen[entry.name]}"))
    return unique


def write_manifest(rows: Iterable[tuple[str, str]], path: Path) -> None:
    """metadata.csv with the columns video,prompt."""
    with beside(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["video", "prompt"])
        writer.writerows(rows)


def _read_lines(table: Path) -> list[_Line]:
    """Every row that is not blank; every value is a string."""
    try:
        text = table.read_text(encoding="utf-8-sig")
        if table.suffix.lower() == ".jsonl":
            return [_json_line(table, number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        rows = [(reader.line_num, cells) for cells in reader if cells]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(
            table, got=f"{type(error).__name__} ({error})", expected="a UTF-8 table", do="save it as CSV or JSONL in UTF-8"
        ) from error
    header = rows[0][1] if rows else []
    twice = next((name for name in COLUMNS if header.count(name) > 1), None)
    if twice is not None:
        raise DatasetError(table, got=f"{header.count(twice)} columns {twice!r}", expected="one", do="remove or rename the others")
    return [_csv_line(table, number, header, cells) for number, cells in rows[1:]]


def _csv_line(table: Path, number: int, header: list[str], cells: list[str]) -> _Line:
    row = dict(zip(header, [*cells, *[""] * len(header)], strict=False))
    if len(cells) == len(header):
        return _Line(number=number, row=row)
    do = "put quotes around prompts with commas" if len(cells) > len(header) else "write the cells that are empty too, or remove the row"
    got, expected = f"{len(cells)} cell{'s' * (len(cells) != 1)}", f"{len(header)}: {', '.join(header)}"
    return _Line(number=number, row=row, problem=DatasetError(_place(table, number), got=got, expected=expected, do=do))


def _json_line(table: Path, number: int, text: str) -> _Line:
    where = _place(table, number)
    try:
        found = json_object(text, where=where)
        wrong = next((name for name in COLUMNS if not isinstance(found.get(name, ""), str)), None)
        if wrong is not None:
            raise DatasetError(where, got=f"{wrong} = {found[wrong]!r}", expected="text in quotes")
    except DatasetError as problem:
        return _Line(number=number, row={}, problem=problem)
    return _Line(number=number, row={name: str(value) for name, value in found.items() if name not in IGNORED_COLUMNS})


def _columns(where: str, row: Row, key: str) -> tuple[str, ...]:
    """The columns of a row that name its files: of colour and matte, or one. AnotherTable where they, or the prompt, are missing."""
    if "prompt" not in row and "status" not in row:  # the published Stage-1 table has a status and no prompt
        raise _missing_column(where, row, "prompt")
    for rgb, alpha in (("video_fgr", "video_pha"), ("rgb", "alpha")):
        if rgb in row and alpha in row:
            return rgb, alpha
        if (rgb in row) != (alpha in row) and key not in row:
            raise _missing_column(where, row, alpha if rgb in row else rgb)
    if "rgba" in row:
        return ("rgba",)
    if key not in row:
        raise _missing_column(where, row, key, do="rename the column; for training, --data_file_keys can name it")
    return (key,)


def _entry(base: Path, where: str, row: Row, columns: tuple[str, ...]) -> ClipEntry:
    prompt, first = row.get("prompt", ""), columns[0]
    if len(columns) == 2:
        files = [_file(base, where, column, row[column]) for column in columns]
        return ClipEntry(name=_stem(row[first]), prompt=prompt, rgb=files[0], alpha=files[1])
    if first == "rgba":
        return ClipEntry(name=_stem(row[first]), prompt=prompt, rgba=_file(base, where, first, row[first]))
    return _named(base, where, first, row[first], prompt)


def _named(base: Path, where: str, column: str, value: str, prompt: str) -> ClipEntry:
    """The seed's rule: VALUE is a stem; it may also be a file name of either half, or an RGBA file or folder."""
    path = _inside(base, where, column, value)
    bare = path.name.removesuffix(path.suffix) if path.suffix.lower() in (".mp4", ".mov", ".mkv", ".webm") else path.name
    for stem in dict.fromkeys((path.name, bare, bare.removesuffix(COLOUR))):
        rgb, alpha = (path.with_name(f"{stem}{half}.mp4") for half in (COLOUR, MATTE))
        if rgb.is_file() and alpha.is_file():
            return ClipEntry(
                name=stem,
                prompt=prompt,
                rgb=_file(base, where, column, str(rgb.relative_to(base))),
                alpha=_file(base, where, column, str(alpha.relative_to(base))),
            )
        if rgb.is_file() or alpha.is_file():
            got, expected = (rgb, alpha) if rgb.is_file() else (alpha, rgb)
            raise DatasetError(
                where, got=f"{got.name} alone", expected=f"{expected.name} beside it", do="run wan-alpha prepare again or remove the row"
            )
    if path.exists():
        return ClipEntry(name=_stem(value), prompt=prompt, rgba=path)
    either = f"{value}_rgb.mp4 and {value}_alpha.mp4, or an RGBA file"
    raise not_there(base, where, column, value, expected=either, do="copy the file there, or correct the row or the folder")


def _file(base: Path, where: str, column: str, value: str) -> Path:
    path = _inside(base, where, column, value)
    if not path.exists():
        raise not_there(base, where, column, value, expected="an existing file", do="copy the file there, or correct the row or the folder")
    return path


def path_in(base: Path, where: str, column: str, value: str) -> Path:
    """BASE / VALUE, whatever links it passes. DatasetError for an empty name, BASE's own, one that no file can have, one that leaves it."""
    if not value.strip():
        raise DatasetError(where, got=f"an empty {column}", expected="the name of a clip")
    if os.path.normpath(value) == os.curdir:
        raise DatasetError(where, got=f"{column} = {value!r}, the table's own folder", expected="the name of a clip")
    names = [os.fsencode(name) for name in Path(value).parts] if printable(value) == value else [b"\0"]
    if any(b"\0" in name or len(name) > MAX_NAME for name in names) or sum(len(name) + 1 for name in names) > MAX_PATH:
        raise DatasetError(where, got=f"{column} = {value!r}", expected="a file name")
    if Path(value).is_absolute() or os.path.normpath(value).split(os.sep)[0] == "..":
        raise _leaves(base, where, f"{column} = {value!r}")
    return base / value


def not_there(base: Path, where: str, column: str, value: str, *, expected: str, do: str) -> DatasetError:
    """What to say of a file that a table names and BASE lacks; of a path as Windows writes it, how to write it here."""
    windows = PureWindowsPath(value)
    if windows.drive:
        return _leaves(base, where, f"{column} = {value!r}, a Windows path with a drive")
    if "\\" in value:
        return DatasetError(where, got=f"{column} = {value!r}, a Windows path", expected="slashes", do=f"write {windows.as_posix()}")
    return DatasetError(where, got=f"{column} = {value!r}, which is not in {base}", expected=expected, do=do)


def _inside(base: Path, where: str, column: str, value: str) -> Path:
    path = path_in(base, where, column, value)
    if not path.resolve().is_relative_to(base.resolve()):
        raise _leaves(base, where, f"{column} = {value!r}")
    return path


def _leaves(base: Path, where: str, what: str) -> DatasetError:
    return DatasetError(where, got=f"{what}, which leaves {base}", expected="a path inside the dataset's folder", do="move the file there")


def _stem(value: str) -> str:
    """File name without its extension and without the colour half's suffix."""
    name = Path(value).name
    return name.removesuffix(Path(value).suffix if Path(value).suffix[1:].isalnum() else "").removesuffix(COLOUR)


def _missing_column(where: str, row: Row, column: str, *, do: str = "rename or add the column") -> AnotherTable:
    found = [name for name in row if name]
    other = next((name for sign, name in OTHER_SEPARATORS.items() if len(found) == 1 and sign in found[0]), None)
    hint = f"save the table with commas between its cells, not {other}" if other else did_you_mean(column, found).split("known:")[0].strip()
    return AnotherTable(
        where,
        got=f"columns {', '.join(found)}",
        expected=f"a column {column!r}",
        do=hint or do,
    )
