"""Pixels that are not square are read as square, and every stage that reads such a clip says so."""

import json
from fractions import Fraction

import av
import numpy as np
import pytest

from wan_alpha.config import DoctorConfig, ExportConfig, PrepareConfig
from wan_alpha.doctor import doctor
from wan_alpha.export import export
from wan_alpha.media import colour
from wan_alpha.media.read import pixel_aspect, read_rgba
from wan_alpha.prepare import prepare


def write_mov(path, shape):
    y, x = np.mgrid[:16, :16]
    alpha = np.clip(6 - np.hypot(x - 8, y - 8), 0, 1) * 255
    argb = np.dstack([alpha, np.full((16, 16, 3), 90)]).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("qtrle", rate=16)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "argb"
        stream.codec_context.sample_aspect_ratio = shape
        container.mux(stream.encode(colour.planar_frame([argb], "argb", width=16, height=16)))
        container.mux(stream.encode())


@pytest.mark.parametrize(("shape", "ratio"), [(Fraction(2), "2"), (Fraction(16, 15), "1.0666"), (Fraction(1), None)])
def test_every_stage_says_it(tmp_path, caplog, shape, ratio):
    path = tmp_path / "in" / "a.mov"
    write_mov(path, shape)
    assert read_rgba(path).alpha.shape == (1, 16, 16)
    assert pixel_aspect(path) == pytest.approx(float(shape))
    export(ExportConfig(source=path, output_path=tmp_path / "out", formats=("png",)))
    changes = json.loads((tmp_path / "out" / "a_export.json").read_text())["changes"]
    reports = [
        doctor(DoctorConfig(source=tmp_path / "in", output_path=tmp_path / "doctor")),
        prepare(PrepareConfig(source=tmp_path / "in", output_path=tmp_path / "set")),
    ]
    found = [[f for f in report.diagnoses[0].findings if f.name == "pixels not square"] for report in reports]
    if ratio is None:
        assert (changes, found, "square" in caplog.text) == ([], [[], []], False)
        return
    assert [change for change in changes if f"pixels {ratio}" in change and "taken as square" in change]
    assert f"pixels {ratio}" in caplog.text
    for (finding,) in found:
        assert finding.severity == "warning"
        assert f"pixels are {ratio}" in finding.says
        assert finding.value == pytest.approx(float(shape), abs=1e-4)
