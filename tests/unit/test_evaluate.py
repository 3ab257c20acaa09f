"""evaluate on given predictions: matched by name, measured as they are, written as JSON, CSV and page."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from wan_alpha.cli import main
from wan_alpha.comparison import GAP, Compared, to_clip
from wan_alpha.config import EvaluateConfig
from wan_alpha.data.manifest import write_manifest
from wan_alpha.errors import DatasetError, MediaError
from wan_alpha.evaluate import evaluate
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.read import read_rgba
from wan_alpha.media.write import write_pair, write_png_sequence, write_webp
from wan_alpha.metrics.measure import MEANINGS


def disc(*, frames: int = 3, height: int = 16, width: int = 24, alpha: int = 255) -> RgbaClip:
    y, x = np.mgrid[:height, :width]
    inside = (y - height // 2) ** 2 + (x - width // 2) ** 2 < (height // 3) ** 2
    matte = np.repeat(np.where(inside, alpha, 0).astype(np.uint8)[None], frames, axis=0)
    return RgbaClip(rgb=np.full((*matte.shape, 3), 120, np.uint8), alpha=matte, fps=16.0)


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """Two true clips; predictions in other formats, the second with a hole of one tenth."""
    truth, predictions = tmp_path / "truth", tmp_path / "predictions"
    write_png_sequence(disc(), truth / "a")
    write_pair(disc(frames=1, height=32), truth / "b")
    write_webp(disc(), predictions / "a.webp")
    write_png_sequence(disc(frames=1, height=32, alpha=229), predictions / "b")
    return {"dataset_base_path": truth, "predictions": predictions, "output_path": tmp_path / "out"}


def test_predictions_are_measured_at_their_own_size_without_a_model(folders: dict[str, Path]) -> None:
    found = evaluate(EvaluateConfig(**folders, model="absent"))
    assert list(found.clips) == ["a", "b"]
    assert (found.clips["a"]["alpha_psnr"], found.clips["a"]["alpha_sad"], found.clips["a"]["alpha_dtssd"]) == (100, 0, 0)
    opaque = int((disc(frames=1, height=32).alpha == 255).sum())
    assert found.clips["b"]["alpha_sad"] == pytest.approx(opaque * 26 / 255 / 1000, rel=1e-4)
    assert found.clips["b"]["holes"] == pytest.approx(26 / 255, rel=1e-4)
    assert found.clips["b"]["background_leak"] == 0
    assert (found.clips["b"]["rgb_psnr"], found.clips["b"]["rgb_ssim"]) == (100, pytest.approx(1))  # the hole is alpha's alone
    assert any("; colour: PSNR 100.00 dB, SSIM 1.0000; alpha: PSNR" in line for line in found.summary())
    assert found.mean["holes"] == pytest.approx(13 / 255, rel=1e-4)
    record = json.loads((folders["output_path"] / "run.json").read_text())
    assert (record["verb"], record["weights"]) == ("evaluate", {})


def test_report_table_and_page_agree(folders: dict[str, Path]) -> None:
    found = evaluate(EvaluateConfig(**folders))
    report = json.loads(found.report.read_text())
    assert report["mean"] == found.mean
    assert report["meanings"] == MEANINGS
    with found.table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["clip"] for row in rows] == ["a", "b", "mean"]
    assert all(float(rows[2][name]) == value for name, value in found.mean.items())
    assert {"rgb_psnr", "rgb_ssim"} <= report["mean"].keys()
    page = found.page.read_text()
    assert page.count("<figure>") == 4
    assert re.findall(r'<th title="[^"]+">(\w+)</th>', page) == list(MEANINGS)
    assert sorted(path.name for path in folders["output_path"].iterdir()) == [
        "evaluation.csv",
        "evaluation.html",
        "evaluation.json",
        "run.json",
    ]


def test_a_table_of_the_truth_chooses_the_clips(folders: dict[str, Path]) -> None:
    write_manifest([("b", "a disc")], folders["dataset_base_path"] / "metadata.csv")
    assert list(evaluate(EvaluateConfig(**folders)).clips) == ["b"]


def test_a_missing_prediction_and_another_size_are_errors(folders: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    write_png_sequence(disc(), folders["dataset_base_path"] / "c")
    with pytest.raises(DatasetError, match=r"got 2 clips without c, expected a prediction with the name of each true clip"):
        evaluate(EvaluateConfig(**folders))
    write_png_sequence(disc(frames=2), folders["predictions"] / "c")
    with pytest.raises(MediaError, match=r"prediction c: got 2 frames of 24x16, expected 3 frames of 24x16"):
        evaluate(EvaluateConfig(**folders))
    assert main(["evaluate", *(word for name, path in folders.items() for word in (f"--{name}", str(path)))]) == 2
    assert capsys.readouterr().err.count("error: prediction c") == 1
    assert not folders["output_path"].exists()


def test_previews_keep_the_alpha_of_both(tmp_path: Path) -> None:
    truth = torch.rand(3, 2, 16, 24), torch.rand(1, 2, 16, 24)
    prediction = truth[0], truth[1] * 0.5
    both, mattes = Compared(name="a", fps=8.0, truth=truth, prediction=prediction).previews()
    (tmp_path / "both.webp").write_bytes(both.data)
    clip = read_rgba(tmp_path / "both.webp")
    assert clip.fps == pytest.approx(8, abs=0.1)
    assert np.array_equal(clip.alpha[..., :24], to_clip(truth, fps=8.0).alpha)
    assert not clip.alpha[..., 24 : 24 + GAP].any()
    assert np.array_equal(clip.rgba()[:, :, 24 + GAP :], to_clip(prediction, fps=8.0).rgba())
    assert mattes.label == "alpha: truth, prediction, 4 x |difference|"
