"""--source_alpha: prepare, doctor and preview read a source's colour as the caller says, as export does."""

import numpy as np
import pytest
from PIL import Image

from wan_alpha.config import DoctorConfig, PrepareConfig, PreviewConfig
from wan_alpha.doctor import doctor
from wan_alpha.media.alpha_mode import premultiplied
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.read import read_pair
from wan_alpha.media.write import write_png_sequence
from wan_alpha.prepare import prepare
from wan_alpha.sheet import preview

COLOUR = (200, 120, 40)


@pytest.fixture
def source(tmp_path):
    """A soft disc of one colour, premultiplied, in PNG frames, which say that they are straight."""
    y, x = np.mgrid[:32, :32]
    alpha = np.clip(255 - 16 * (np.hypot(x - 16, y - 16) - 2), 0, 255).astype(np.uint8)
    clip = RgbaClip(rgb=np.full((2, 32, 32, 3), COLOUR, np.uint8), alpha=np.stack([alpha] * 2), fps=16.0)
    write_png_sequence(premultiplied(clip).with_bits(8), tmp_path / "in" / "disc")
    return tmp_path / "in"


@pytest.mark.parametrize("mode", ["premultiplied", "detect"])
def test_prepare_and_doctor(source, tmp_path, mode):
    said = {"source": source, "source_alpha": mode}
    prepare(PrepareConfig(**said, output_path=tmp_path / "out"))
    clip = read_pair(tmp_path / "out" / "disc_rgb.mp4", tmp_path / "out" / "disc_alpha.mp4")
    assert np.abs(clip.rgb.astype(int) - COLOUR)[clip.alpha > 64].max() <= 8
    found = doctor(DoctorConfig(**said, output_path=tmp_path / "doctor")).diagnoses[0].findings
    assert "premultiplied colour" not in {finding.name for finding in found}
    found = doctor(DoctorConfig(source=source, output_path=tmp_path / "doctor")).diagnoses[0].findings
    assert "premultiplied colour" in {finding.name for finding in found}


def test_preview(source, tmp_path):
    """Half alpha of the colour over black is half the colour, and a quarter where premultiplied colour is taken for straight."""
    sheets = []
    for mode in ("premultiplied", "file"):
        preview(PreviewConfig(source=source, output_path=tmp_path / "x.png", source_alpha=mode, frames=1))
        with Image.open(tmp_path / "x.png") as image:
            panels = np.asarray(image.convert("RGB")).astype(int)
        half = int(np.argmin(np.abs(panels[16, 3 * 34 :, 0] - 128)))
        sheets.append(panels[16, 34 + half, 0])
    assert sheets[0] == pytest.approx(100, abs=8)
    assert sheets[1] == pytest.approx(50, abs=8)
