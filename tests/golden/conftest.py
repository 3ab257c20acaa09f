"""Golden tensors: `pytest tests/golden --golden-dir DIR` runs the same checks on another directory of the same layout."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor


@pytest.fixture(scope="session")
def golden(request: pytest.FixtureRequest) -> Path:
    """The golden directory."""
    return Path(request.config.getoption("--golden-dir"))


@pytest.fixture(scope="session")
def golden_file(golden: Path) -> Callable[[str], Path]:
    """A file of it; its absence is a failure, never a skip."""

    def find(name: str) -> Path:
        if not (golden / name).is_file():
            pytest.fail(f"golden file {name} is missing in {golden}")
        return golden / name

    return find


@pytest.fixture(scope="session")
def meta(golden_file: Callable[[str], Path]) -> dict:
    return json.loads(golden_file("meta.json").read_text())


@pytest.fixture(scope="session")
def load_golden(golden_file: Callable[[str], Path]) -> Callable[[str], dict[str, Tensor]]:
    return lambda name: load_file(golden_file(name))
