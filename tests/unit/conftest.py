"""Files that several unit tests read and none changes."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base of a few thousand weights, a Stage-1 checkpoint and a DoRA (small_weights.py)."""
    from small_weights import write_small_weights

    folder = tmp_path_factory.mktemp("small")
    write_small_weights(folder)
    return folder
