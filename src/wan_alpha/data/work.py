"""A folder of work in progress that survives a kill: finished clips are recorded one by one, and the next run goes on from them.

OUTPUT.partial/records/NAME.json   {"key": what the clip depends on, "files": {file: sha256}, "result": ...}
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wan_alpha.hashing import sha256
from wan_alpha.media.atomic import alone_beside, beside, remove

RECORDS = "records"


def key_of(*parts: object) -> str:
    """One hash of everything that a result depends on (values that JSON has)."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class WorkFolder:
    """Where clips are made. A clip counts as finished when its record is there, has its key, and names files with these hashes."""

    path: Path

    def finished(self, name: str, key: str) -> dict[str, Any] | None:
        """The result recorded for NAME under KEY, if its files are whole."""
        try:
            record = json.loads(self._record(name).read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        files: Mapping[str, str] = record["files"]
        whole = record["key"] == key and all((self.path / f).is_file() and sha256(self.path / f) == digest for f, digest in files.items())
        return record["result"] if whole else None

    def finish(self, name: str, key: str, *, files: list[Path], result: dict[str, Any]) -> None:
        """Record a clip; its files are in place."""
        record = {"key": key, "files": {path.name: sha256(path) for path in files}, "result": result}
        with beside(self._record(name)) as partial:
            partial.write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")

    def keep_only(self, names: set[str]) -> None:
        """Remove the records, and every file that is not named: what other runs left here."""
        remove(self.path / RECORDS)
        for path in self.path.iterdir():
            if path.name not in names:
                remove(path)

    def _record(self, name: str) -> Path:
        return self.path / RECORDS / f"{name}.json"


@contextmanager
def work_folder(output: Path, *, on_stop: Literal["clean", "keep"]) -> Iterator[WorkFolder]:
    """OUTPUT.partial, with what an earlier run left there. Removed at the end, unless an error comes and on_stop = keep.

    UsageError when another run works on OUTPUT.
    """
    output = Path(os.path.realpath(output))  # the same place under every name
    path = output.with_name(output.name + ".partial")
    with alone_beside(output):
        try:
            path.mkdir(exist_ok=True)
            yield WorkFolder(path=path)
        except BaseException:
            if on_stop == "clean":
                remove(path)
            raise
        remove(path)
