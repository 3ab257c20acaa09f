"""doctor: findings of a folder, exit code, JSON, page, repaired copies; sources stay as they are."""

import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from faults import clean_clip, coded, premultiplied, with_alpha
from wan_alpha import cli
from wan_alpha.config import DoctorConfig, PrepareConfig
from wan_alpha.doctor import doctor
from wan_alpha.errors import DatasetError, UsageError
from wan_alpha.findings.examine import CHECKS
from wan_alpha.findings.numbering import numbering_findings
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.read import read_pair
from wan_alpha.media.write import write_pair, write_png_sequence, write_webp
from wan_alpha.prepare import prepare

CAPTION = "A red star. The background is transparent. Flat style. Close shot."


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def star() -> RgbaClip:
    return clean_clip(6, side=48)


@pytest.fixture
def folder(tmp_path, star) -> Path:
    """A good clip, a premultiplied one, one with an opaque matte, a pair of different lengths, and a broken file."""
    source = tmp_path / "in"
    write_webp(star, source / "good.webp")
    write_webp(premultiplied(clean_clip(3, side=48), np.random.default_rng(0)), source / "premul.webp")
    write_webp(with_alpha(clean_clip(0, side=48), np.full(star.alpha.shape, 255)), source / "solid.webp")
    write_pair(clean_clip(8, side=48), source / "pair")
    write_pair(RgbaClip(rgb=star.rgb[:9], alpha=star.alpha[:9], fps=16.0), source / "other")
    (source / "other_alpha.mp4").rename(source / "pair_alpha.mp4")
    (source / "other_rgb.mp4").unlink()
    write_webp(clean_clip(1, side=48), source / "broken.webp")
    (source / "broken.webp").write_bytes((source / "broken.webp").read_bytes()[:2000])
    for name in ("good", "premul", "solid", "pair"):
        (source / f"{name}.txt").write_text(CAPTION)
    return source


def test_what_is_wrong_is_said_per_clip(tmp_path, folder):
    before = hashes(folder)
    report = doctor(DoctorConfig(source=folder, output_path=tmp_path / "out"))
    found = {diagnosis.name: [finding.name for finding in diagnosis.findings] for diagnosis in report.diagnoses}
    assert found["good"] == []
    assert "premultiplied colour" in found["premul"]
    assert found["solid"] == ["opaque matte"]
    assert found["pair"][0] == "different lengths"
    assert "17 frames of colour, 9 of matte" in report.summary()[0] + "".join(report.summary())
    assert found["broken"][0] == "unreadable file"
    assert any(line.endswith("prepare --on_bad_sample skip leave the clip out") for line in report.summary())  # doctor has no such flag
    assert report.exit_code == 1
    stored = json.loads((tmp_path / "out" / "report.json").read_text())
    assert stored["exit_code"] == 1
    assert [diagnosis["name"] for diagnosis in stored["diagnoses"]] == sorted(found)
    page = (tmp_path / "out" / "page.html").read_text()
    assert page.count("data:image/png") >= 9
    assert "premultiplied colour" in page
    assert hashes(folder) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_fix_repairs_copies_and_records_it(tmp_path, folder):
    before = hashes(folder)
    report = doctor(DoctorConfig(source=folder, output_path=tmp_path / "out", fix=True))
    assert hashes(folder) == before
    dataset = tmp_path / "out" / "dataset"
    rows = {row["video"]: row for row in map(json.loads, (dataset / "metadata.jsonl").read_text().splitlines())}
    assert sorted(rows) == ["good", "pair", "premul"]
    assert rows["good"]["changes"] == []
    assert any(change.startswith("unpremultiply: ") for change in rows["premul"]["changes"])
    assert any(change.startswith("trim: ") for change in rows["pair"]["changes"])
    assert (rows["pair"]["frames"], len(rows["pair"]["sha256"])) == (9, 64)
    left = {diagnosis.name: [finding.name for finding in diagnosis.findings] for diagnosis in report.remaining}
    assert "premultiplied colour" not in left["premul"]
    assert report.exit_code == 0, "the copies have no errors"
    assert report.summary()[-1] == f"left out of {dataset}: broken, solid"
    skipped = dict(json.loads((tmp_path / "out" / "report.json").read_text())["repaired"]["skipped"])
    assert "solid.webp: got opaque matte: 100.0% of the matte is solid" in skipped["solid"]
    assert "left out of" in (tmp_path / "out" / "page.html").read_text()
    original = clean_clip(3, side=48)
    fixed = read_pair(dataset / "premul_rgb.mp4", dataset / "premul_alpha.mp4")
    strong = original.alpha > 128
    assert np.abs(fixed.rgb[strong].astype(int) - original.rgb[strong]).mean() < 4


def test_what_no_repair_undoes_may_be_kept(tmp_path, folder):
    report = doctor(DoctorConfig(source=folder, output_path=tmp_path / "out", fix=True, clips_with_errors="keep"))
    assert [diagnosis.name for diagnosis in report.remaining if diagnosis.worst == "error"] == ["solid"]
    assert report.exit_code == 1
    with pytest.raises(
        DatasetError, match=r"solid\.webp: got opaque matte: .* expected a clip without errors; .* --clips_with_errors keep"
    ):
        prepare(PrepareConfig(source=folder / "solid.webp", output_path=tmp_path / "set", clips_with_errors="leave_out"))


def test_a_set_of_which_nothing_is_left(tmp_path, folder):
    report = doctor(DoctorConfig(source=folder / "solid.webp", output_path=tmp_path / "out", fix=True))
    assert report.exit_code == 1
    assert report.summary()[-1].startswith(f"no repaired copies: {folder / 'solid.webp'}: got 1 clips, none of them usable")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["page.html", "report.json", "run.json"]


@pytest.mark.parametrize(("fail_on", "code"), [("error", 0), ("warning", 1), ("never", 0)])
def test_exit_code_follows_fail_on(tmp_path, star, fail_on, code, capsys):
    write_webp(RgbaClip(rgb=star.rgb[:9], alpha=star.alpha[:9], fps=16.0), tmp_path / "in" / "a.webp")
    arguments = ["doctor", str(tmp_path / "in"), "--output_path", str(tmp_path / "out"), "--fail_on", fail_on]
    assert cli.main(arguments) == code
    assert "short clip: 9 frames" in capsys.readouterr().out


def test_errors_are_errors(tmp_path):
    with pytest.raises(UsageError, match="--source"):
        doctor(DoctorConfig(output_path=tmp_path / "out"))
    with pytest.raises(DatasetError, match="no such file"):
        doctor(DoctorConfig(source=tmp_path / "nowhere", output_path=tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_several_processes_say_the_same(tmp_path, folder):
    alone = doctor(DoctorConfig(source=folder, output_path=tmp_path / "a"))
    together = doctor(DoctorConfig(source=folder, output_path=tmp_path / "b", num_workers=2))
    assert together.diagnoses == alone.diagnoses


def test_a_copy_is_named_even_after_a_codec(tmp_path, star):
    write_webp(star, tmp_path / "in" / "a.webp")
    write_webp(with_alpha(star, coded(star.alpha, crf=23)), tmp_path / "in" / "b.webp")
    report = doctor(DoctorConfig(source=tmp_path / "in", output_path=tmp_path / "out"))
    assert [finding.name for finding in report.diagnoses[1].findings].count("duplicate") == 1


def test_what_names_and_headers_say(tmp_path, star):
    """Gaps, two counts in one folder, a matte of another rate: in doctor and in prepare, with and without repairs."""
    few = RgbaClip(rgb=star.rgb[:8, ::2, ::2], alpha=star.alpha[:8, ::2, ::2], fps=16.0)
    write_png_sequence(few, tmp_path / "in" / "gap")
    for number in (3, 4):
        (tmp_path / "in" / "gap" / f"{number:05d}.png").unlink()
    with zipfile.ZipFile(tmp_path / "in" / "two.zip", "w") as archive:
        for old, new in ((0, "f_1"), (1, "f_01"), (2, "f_2")):
            archive.write(tmp_path / "in" / "gap" / f"{old:05d}.png", f"{new}.png")
    write_pair(few, tmp_path / "in" / "pair")
    write_pair(RgbaClip(rgb=few.rgb, alpha=few.alpha, fps=25.0), tmp_path / "other")
    (tmp_path / "other_alpha.mp4").rename(tmp_path / "in" / "pair_alpha.mp4")
    report = doctor(DoctorConfig(source=tmp_path / "in", output_path=tmp_path / "out", fix=True))
    plain = prepare(PrepareConfig(source=tmp_path / "in", output_path=tmp_path / "set"))
    for diagnoses in (report.diagnoses, report.remaining, plain.diagnoses):
        found = {one.name: {finding.name: finding for finding in one.findings} for one in diagnoses}
        gap, rates = found["gap"]["missing frames"], found["pair"]["different rates"]
        assert (gap.value, gap.frame) == (2.0, 3)
        assert gap.says.startswith("2 frames missing in a sequence of 6, number 3 first")
        assert rates.says.startswith("colour at 16, matte at 25 frames per second")
        assert found["two"]["mixed numbers"].says.startswith("frames are numbered 1 and 01")


@pytest.mark.parametrize(
    ("numbers", "names"),
    [
        (["1", "2", "3", "10", "11"], ["missing frames"]),
        (["9", "10", "11"], []),
        (["0000", "0002", "0004"], []),
        (["998", "999", "1000"], []),
        (["0998", "999", "1000"], ["mixed numbers"]),
        (["0000", "0002", "0006"], ["missing frames"]),
        (["0000"], []),
        ([], []),
    ],
)
def test_numbers_of_frames(numbers, names):
    assert [found.name for found in numbering_findings(numbers)] == names


def test_every_check_stands_in_the_docs():
    text = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text()
    of_files = ("different lengths", "different rates", "missing frames", "mixed numbers", "untagged colour")
    assert [name for name in (*(check.name for check in CHECKS), *of_files) if f"| {name} |" not in text] == []
