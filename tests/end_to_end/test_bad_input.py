"""Bad input is normal input: one line (what, got, expected, next command), exit code 2, nothing half-written."""

import shutil

import numpy as np
import pytest
import torch

from wan_alpha.checkpoints.files import read_tensors, write_tensors
from wan_alpha.cli import main
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.write import write_pair

TINY = ["--recipe", "tiny", "--height", "32", "--width", "48", "--num_frames", "5"]


@pytest.fixture
def fails(capsys, tmp_path):
    """Run a command that must fail; returns its one line of error. Its output folder must not exist afterwards."""

    def run(*arguments, output=tmp_path / "output"):
        capsys.readouterr()
        code = main([*map(str, arguments), "--output_path", str(output)])
        printed = capsys.readouterr()
        assert code == 2, printed
        assert printed.out == ""
        lines = [line for line in printed.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, printed.err
        assert not output.exists()
        assert not list(tmp_path.rglob("*.partial"))
        return lines[0]

    return run


@pytest.fixture
def pair(tmp_path):
    """A folder with one good pair."""
    folder = tmp_path / "source"
    folder.mkdir()
    rng = np.random.default_rng(0)
    clip = RgbaClip(rgb=rng.integers(0, 255, (5, 32, 48, 3), np.uint8), alpha=rng.integers(0, 255, (5, 32, 48), np.uint8), fps=16.0)
    write_pair(clip, folder / "clip")
    return folder


def other_matte(folder, *, shape):
    alpha = np.zeros(shape, np.uint8)
    write_pair(RgbaClip(rgb=np.zeros((*shape, 3), np.uint8), alpha=alpha, fps=16.0), folder / "other")
    shutil.move(folder / "other_alpha.mp4", folder / "clip_alpha.mp4")
    (folder / "other_rgb.mp4").unlink()


def test_missing_matte(fails, pair):
    (pair / "clip_alpha.mp4").unlink()
    assert "clip" in fails("prepare", pair)


def test_lengths_that_differ(fails, pair):
    other_matte(pair, shape=(4, 32, 48))
    error = fails("prepare", pair)
    assert "4 frames" in error
    assert "5" in error


def test_sizes_that_differ(fails, pair):
    other_matte(pair, shape=(5, 16, 48))
    assert "48x16" in fails("prepare", pair) or "16" in fails("prepare", pair)


def test_truncated_video(fails, pair):
    path = pair / "clip_rgb.mp4"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "clip_rgb.mp4" in fails("prepare", pair)


def test_empty_folder(fails, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "empty" in fails("prepare", tmp_path / "empty")


def test_no_folder(fails, tmp_path):
    assert "nowhere" in fails("prepare", tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--num_frames", "15"], "num_frames: got 15, expected 4n+1; use --num_frames 13 or 17"),
        (["--height", "70"], "height: got 70, expected a multiple of 16; use --height 64 or 80"),
        (["--recipe", "tinny"], "did you mean 'tiny'"),
        (["--learning_rat", "1"], "did you mean --learning_rate"),
        (["--batch_size", "two"], "batch_size"),
        (["--dataset_base_path", "/nowhere"], "wan-alpha prepare"),
        (["--batch_size", "0"], "--batch_size: got 0, expected at least 1"),
        (["--learning_rate", "0"], "--learning_rate: got 0.0, expected above 0"),
        (["--seed", "-1"], "--seed: got -1, expected at least 0"),
    ],
)
def test_wrong_settings(fails, flags, expected):
    assert expected in fails("train-vae", "--recipe", "tiny", *flags)


def test_checkpoint_of_another_layout(fails, road):
    error = fails("cache", *TINY, "--dataset_base_path", road.root / "data", "--feature_merge_checkpoint", road.adapter)
    assert "a DiT adapter" in error


def test_stage1_file_as_adapter(fails, road):
    error = fails("generate", *TINY, "--prompt", "x", "--vae_lora_path", road.stage1, "--adapter_path", road.stage1)
    assert str(road.stage1) in error


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_checkpoint_with_wrong_keys(fails, road, tmp_path, change):
    tensors = read_tensors(road.stage1)
    key = "middle.block.middle.0.residual.2.weight"
    if change == "missing":
        del tensors[key]
    elif change == "extra":
        tensors["middle.block.surplus.weight"] = torch.zeros(1)
    else:
        tensors[key] = tensors[key][:-1]
    path = tmp_path / "wrong.safetensors"
    write_tensors(path, tensors, metadata={})
    error = fails("evaluate", *TINY, "--dataset_base_path", road.root / "data", "--feature_merge_checkpoint", path, "--vae_lora_path", path)
    assert "wrong.safetensors" in error


def test_truncated_checkpoint(fails, road, tmp_path):
    path = tmp_path / "half.safetensors"
    path.write_bytes(road.stage1.read_bytes()[:5000])
    assert "half.safetensors" in fails("evaluate", *TINY, "--dataset_base_path", road.root / "data", "--feature_merge_checkpoint", path)


def test_no_prompt(fails, road):
    assert "--prompt" in fails("generate", *TINY, "--vae_lora_path", road.stage1)


def test_cache_that_is_none(fails, tmp_path):
    assert "wan-alpha cache" in fails("train-dit", *TINY, "--cache_path", tmp_path)


def test_an_output_path_that_is_a_file(capsys, road, tmp_path):
    (tmp_path / "file").write_text("mine")
    code = main(["evaluate", *TINY, "--dataset_base_path", str(road.root / "data"), "--output_path", str(tmp_path / "file")])
    printed = capsys.readouterr()
    assert code == 2
    assert "file" in next(line for line in printed.err.splitlines() if line.startswith("error: "))
    assert (tmp_path / "file").read_text() == "mine"
