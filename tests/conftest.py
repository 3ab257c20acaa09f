"""Every test runs with annotations checked, one torch thread, and no network."""

from pathlib import Path

import pytest
from jaxtyping import install_import_hook

install_import_hook("wan_alpha", "beartype.beartype")

import torch  # noqa: E402 - after the import hook

GOLDEN = Path(__file__).parent / "golden" / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden-dir", default=str(GOLDEN), help="directory of golden tensors (layout: tests/golden/data/README.md)")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_clips() -> Path:
    """The real RGBA clips, outside of the repository."""
    folder = Path(__file__).parents[2] / "shared" / "data" / "endless_sky"
    if not folder.is_dir():
        pytest.skip(f"real clips not found: {folder.name} is a folder beside the repository")
    return folder
