"""What Linux says of memory, in its tables under /proc."""

from pathlib import Path


def stated_bytes(table: str, entry: str) -> int | None:
    """Bytes of an entry that the table states in kB, such as VmRSS in /proc/self/status; None where there is no such table or entry."""
    path = Path(table)
    lines = path.read_text().splitlines() if path.is_file() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{entry}:")), None)
