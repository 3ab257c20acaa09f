"""The house rules that a tool can check: layers, sizes of files and functions, where the console and weights are touched."""

import ast
import functools
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src" / "wan_alpha").rglob("*.py"))
CONSOLE = {"cli.py", "console.py"}
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 60

Place = tuple[str, ast.AST]


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()", "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=folder, env={"PYTHONPATH": str(folder / "src")}, capture_output=True, text=True, check=False)


def test_imports_point_down_only() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("geometry.py", "wan_alpha.cli"),
        ("media/read.py", "wan_alpha.checkpoints.files"),
        ("objectives/flow.py", "wan_alpha.data.synthetic"),
    ],
)
def test_an_import_that_points_up_or_aside_is_found(module: str, imported: str, tmp_path: Path) -> None:
    """The contract bites: one wrong line in a copy breaks it."""
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("assets", "__pycache__", "*.egg-info"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "src" / "wan_alpha" / module).open("a") as file:
        file.write(f"\nimport {imported}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1
    assert imported in done.stdout


@functools.cache
def nodes() -> list[Place]:
    """Every syntax node of the package with its file and line."""
    trees = [(path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))) for path in SOURCES]
    return [(f"{path}:{getattr(node, 'lineno', 0)}", node) for path, tree in trees for node in ast.walk(tree)]


def calls(*names: str) -> Iterator[Place]:
    """Calls of a function by its last name, or by `module.name`."""
    for place, node in nodes():
        if isinstance(node, ast.Call) and ast.unparse(node.func) in names:
            yield place, node


def test_files_and_functions_stay_small() -> None:
    long_files = [str(path.relative_to(ROOT)) for path in SOURCES if path.read_text(encoding="utf-8").count("\n") > MAX_FILE_LINES]
    long_functions = [
        f"{place} {node.name}"
        for place, node in nodes()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if (node.end_lineno or 0) - node.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert long_files + long_functions == []


def test_the_library_does_not_print() -> None:
    assert [place for place, _ in calls("print") if Path(place.split(":")[0]).name not in CONSOLE] == []


def test_torch_load_runs_no_pickled_objects() -> None:
    safe = [any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords) for _, node in calls("torch.load")]
    assert all(safe)


def test_devices_are_passed_in() -> None:
    grabs = ("cuda", "empty_cache")
    found = [
        place for place, node in nodes() if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) if node.func.attr in grabs
    ]
    assert found == []


def test_no_bare_except_and_no_missing_parts() -> None:
    bare = [place for place, node in nodes() if isinstance(node, ast.ExceptHandler) and node.type is None]
    missing = [place for place, node in nodes() if isinstance(node, ast.Name) and node.id == "NotImplementedError"]
    assert bare + missing == []


def test_annotations_are_checked_at_run_time() -> None:
    """jaxtyping and beartype see nothing under postponed annotations."""
    postponed = [place for place, node in nodes() if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    assert postponed == []
