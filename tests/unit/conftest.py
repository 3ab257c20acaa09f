"""Files that several unit tests read."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base of a few thousand weights, a Stage-1 checkpoint and a DoRA (small_weights.py)."""
    from small_weights import write_small_weights

    folder = tmp_path_factory.mktemp("small")
    write_small_weights(folder)
    return folder


@pytest.fixture
def three_clips(tmp_path: Path) -> Path:
    """A folder with three clips of noise, 0.webp to 2.webp, of two frames."""
    import numpy as np

    from wan_alpha.media.clip import RgbaClip
    from wan_alpha.media.write import write_webp

    for index in range(3):
        levels = np.random.default_rng(index).integers(0, 256, (2, 16, 16, 4), dtype=np.uint8)
        write_webp(RgbaClip(rgb=levels[..., :3], alpha=levels[..., 3], fps=16.0), tmp_path / "in" / f"{index}.webp")
    return tmp_path / "in"
