"""JSON that people write: whatever is wrong with it is one error that names the place."""

import json
from typing import Any

from wan_alpha.errors import DatasetError, WanAlphaError


def parse_json(text: str, *, where: object, expected: str, do: str = "", error: type[WanAlphaError] = DatasetError) -> Any:
    """The value of a JSON text. ERROR for broken JSON, numbers of thousands of digits, endless nesting, halves of characters."""
    try:
        found = json.loads(text)
        json.dumps(found, ensure_ascii=False).encode("utf-8")  # a lone surrogate could be read, and never be written
    except (ValueError, RecursionError) as problem:
        reason = problem.msg if isinstance(problem, json.JSONDecodeError) else f"{type(problem).__name__}: {problem}"
        raise error(where, got=f"broken JSON ({reason})", expected=expected, do=do) from problem
    return found


def json_object(text: str, *, where: str, error: type[WanAlphaError] = DatasetError) -> dict[str, Any]:
    """One line of a JSONL file; ERROR, which names WHERE, for anything but an object."""
    expected = "one JSON object per line"
    found = parse_json(text, where=where, expected=expected, error=error)
    if not isinstance(found, dict):
        raise error(where, got=type(found).__name__, expected=expected)
    return found
