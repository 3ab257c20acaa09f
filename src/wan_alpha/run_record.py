"""run.json: what a stage was asked, with which versions, on which weights. Enough to repeat the run and to explain its result."""

import dataclasses
import json
import os
import platform
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from wan_alpha.config import RunConfig
from wan_alpha.config.common import VerbConfig
from wan_alpha.hashing import sha256

FILE_NAME = "run.json"
PACKAGES = ("wan-alpha", "torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "av", "numpy", "pillow")


def config_as_json(config: VerbConfig) -> dict[str, object]:
    """Field -> value, with paths as text: what json.dumps takes."""
    return {name: plain(value) for name, value in dataclasses.asdict(config).items()}


def now() -> datetime:
    return datetime.now(UTC)


def write_run_record(
    output_path: Path,
    *,
    verb: str,
    config: RunConfig,
    weights: Mapping[str, Path],
    extra: Mapping[str, object] | None = None,
    started: datetime | None = None,
) -> Path:
    """Write OUTPUT_PATH/run.json in one move and return its path; of several processes the first one writes.

    weights: role -> file, or folder of which every file is hashed. extra: what else the stage wants to keep (numbers, counts).
    started: `now()` at the stage's start.
    """
    path = output_path / FILE_NAME
    if os.environ.get("RANK", "0") != "0":
        return path
    record = {
        "verb": verb,
        "config": config_as_json(config),
        "seed": config.seed,
        "weights": {role: _hashes(path) for role, path in weights.items()},
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "platform": platform.platform(),
        "command": sys.argv,
        "started": started.isoformat(timespec="seconds") if started else None,
        "ended": now().isoformat(timespec="seconds"),
        **({"extra": plain(extra)} if extra else {}),
    }
    output_path.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)
    return path


def _hashes(path: Path) -> dict[str, str]:
    """file -> sha256; a folder gives all its files, sorted by name."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return {str(file): sha256(file) for file in files}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def plain(value: object) -> object:
    """Paths, dates and tuples as JSON has them; numbers that NumPy and torch wrap as plain ones."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return value.as_posix()
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    return value.item() if hasattr(value, "item") else str(value)
