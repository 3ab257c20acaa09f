"""What a training wrote into its metrics.jsonl."""

import json
from pathlib import Path
from typing import Any


def log_lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
