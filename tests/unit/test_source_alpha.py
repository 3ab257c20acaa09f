"""--source_alpha: prepare, doctor and preview read a source's colour as the caller says, as export does."""

import json

import numpy as np
import pytest
from PIL import Image

from wan_alpha.config import DoctorConfig, ExportConfig, PrepareConfig, PreviewConfig
from wan_alpha.doctor import doctor
from wan_alpha.export import export
from wan_alpha.media.alpha_mode import premultiplied
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.read import read_pair
from wan_alpha.media.write import write_png_sequence
from wan_alpha.prepare import prepare
from wan_alpha.sheet import preview

COLOUR = (200, 120, 40)
ALPHA = np.clip(255 - 16 * (np.hypot(*(np.mgrid[:32, :32] - 16)) - 2), 0, 255).astype(np.uint8)
TRANSLUCENT = 2 * int(np.sum((ALPHA >= 16) & (ALPHA <= 239)))
EVIDENCE = f"0.0% of {TRANSLUCENT} translucent pixels are brighter than their alpha, brightness follows alpha with a correlation of 1.00"


@pytest.fixture
def source(tmp_path):
    """A soft disc of one colour, premultiplied, in PNG frames, which say that they are straight."""
    clip = RgbaClip(rgb=np.full((2, 32, 32, 3), COLOUR, np.uint8), alpha=np.stack([ALPHA] * 2), fps=16.0)
    write_png_sequence(premultiplied(clip).with_bits(8), tmp_path / "in" / "disc")
    return tmp_path / "in"


@pytest.mark.parametrize("mode", ["premultiplied", "detect"])
def test_prepare_and_doctor(source, tmp_path, mode):
    said = {"source": source, "source_alpha": mode}
    made = prepare(PrepareConfig(**said, output_path=tmp_path / "out"))
    clip = read_pair(tmp_path / "out" / "disc_rgb.mp4", tmp_path / "out" / "disc_alpha.mp4")
    assert np.abs(clip.rgb.astype(int) - COLOUR)[clip.alpha > 64].max() <= 8
    reason = "it was called premultiplied" if mode == "premultiplied" else f"its pixels are premultiplied: {EVIDENCE}"
    (row,) = map(json.loads, (tmp_path / "out" / "metadata.jsonl").read_text().splitlines())
    (stored,) = json.loads((tmp_path / "out" / "report.json").read_text())["clips"]
    assert row["changes"] == stored["changes"] == [f"unpremultiply: colour divided by alpha, for {reason}"]
    assert row["alpha_evidence"] == stored["alpha_evidence"] == made.clips[0].alpha_evidence == (EVIDENCE if mode == "detect" else None)
    diagnosis = doctor(DoctorConfig(**said, output_path=tmp_path / "doctor")).diagnoses[0]
    assert diagnosis.alpha_evidence == row["alpha_evidence"]
    found = diagnosis.findings
    assert "premultiplied colour" not in {finding.name for finding in found}
    found = doctor(DoctorConfig(source=source, output_path=tmp_path / "doctor")).diagnoses[0].findings
    assert "premultiplied colour" in {finding.name for finding in found}


def test_what_is_judged_straight_is_told_too(source, tmp_path):
    """Straight colour by the pixels, without a change; a file that calls itself premultiplied is asked nothing more."""
    prepare(PrepareConfig(source=source, source_alpha="premultiplied", output_path=tmp_path / "straight"))
    again = prepare(PrepareConfig(source=tmp_path / "straight", source_alpha="detect", output_path=tmp_path / "again")).clips[0]
    assert again.changes == ()
    assert "translucent pixels are brighter than their alpha" in str(again.alpha_evidence)
    stem = tmp_path / "tagged" / "disc"
    export(ExportConfig(source=tmp_path / "straight", output_path=stem.parent, formats=("prores",), alpha_mode="premultiplied"))
    for mode in ("file", "detect"):
        made = prepare(PrepareConfig(source=stem.with_suffix(".mov"), source_alpha=mode, output_path=tmp_path / "out")).clips[0]
        assert made.changes == ("unpremultiply: colour divided by alpha, for its file says that it is premultiplied",)
        assert made.alpha_evidence is None


def test_export_says_it_in_the_sidecar(source, tmp_path):
    export(ExportConfig(source=source, source_alpha="detect", output_path=tmp_path / "out", formats=("webp",)))
    sidecar = json.loads((tmp_path / "out" / "disc_export.json").read_text())
    divided = f"unpremultiply: colour divided by alpha, for its pixels are premultiplied: {EVIDENCE}"
    assert sidecar["changes"] == [divided, "no rate stated, 16 frames per second assumed"]
    assert sidecar["alpha_evidence"] == EVIDENCE


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
