"""Lists of prompts: .txt with one a line, .csv or .jsonl with `prompt` and, where wanted, `seed` and `negative_prompt` of their own."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from wan_alpha.config import MAX_SEED
from wan_alpha.data.user_json import json_object
from wan_alpha.errors import UsageError, did_you_mean

COLUMNS = ("prompt", "seed", "negative_prompt")


@dataclass(frozen=True, kw_only=True)
class PromptLine:
    """One clip to generate; None where the line leaves it to the command's settings."""

    prompt: str
    seed: int | None = None
    negative_prompt: str | None = None


def read_prompt_file(path: Path) -> list[PromptLine]:
    """The lines of a file in its order, empty ones left out. UsageError names the line that is not a prompt, or whose seed is none."""
    if not path.is_file():
        raise UsageError(f"--prompt_file {path}", got="no such file", expected=".txt, .csv or .jsonl")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--prompt_file {path}", got=type(error).__name__, expected="text in UTF-8", do="save it as UTF-8") from error
    if path.suffix.lower() == ".csv":
        rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        try:
            return [_line(f"{path}, line {rows.line_num}", row) for row in rows]
        except csv.Error as error:
            raise UsageError(f"{path}, after line {rows.line_num}", got=f"broken CSV ({error})", expected="one prompt a row") from error
    lines = [(f"{path}, line {number}", line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if path.suffix.lower() == ".jsonl":
        return [_line(where, json_object(line, where=where, error=UsageError)) for where, line in lines]
    return [PromptLine(prompt=line) for _, line in lines]


def _line(where: str, row: dict[str, object]) -> PromptLine:
    if None in row:
        raise UsageError(where, got="more cells than columns", do="put quotes around prompts with commas")
    unknown = [str(name) for name in row if name not in COLUMNS]
    if unknown:
        raise UsageError(where, got=f"a column {unknown[0]!r}", do=did_you_mean(unknown[0], list(COLUMNS)))
    prompt, seed, negative = row.get("prompt"), row.get("seed"), row.get("negative_prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise UsageError(where, got="no prompt", expected="text in the column 'prompt'")
    number = str(seed).strip() if seed is not None else ""
    if number and not (number.isdecimal() and len(number.lstrip("0")) <= len(str(MAX_SEED)) and int(number) <= MAX_SEED):
        raise UsageError(where, got=f"seed {seed!r}", expected=f"a whole number from 0 to {MAX_SEED}")
    return PromptLine(
        prompt=prompt.strip(),
        seed=int(number) if number else None,
        negative_prompt=negative if isinstance(negative, str) and negative.strip() else None,
    )
