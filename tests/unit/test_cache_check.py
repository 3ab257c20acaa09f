"""A cache that does not belong to a run is refused, with a command that makes one that does."""

import json
import logging
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tiny_stage2 import tiny_stage2
from wan_alpha import caching
from wan_alpha.checkpoints.files import read_tensors, write_tensors
from wan_alpha.cli import main
from wan_alpha.config import TrainDitConfig
from wan_alpha.data.latents import LatentCache
from wan_alpha.errors import CacheError
from wan_alpha.models.sources import tiny_folder
from wan_alpha.recipes.tiny import STAGE1
from wan_alpha.train.cache_check import check_cache, check_settings
from wan_alpha.train.dit import train

VAE_FILE = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> TrainDitConfig:
    return replace(tiny_stage2(tmp_path_factory.mktemp("stage2"), draws=1), max_steps=1)


@pytest.fixture
def other_vae(tmp_path) -> Path:
    """A VAE of the same architecture, with other weights."""
    folder = tmp_path / "other_vae"
    shutil.copytree(tiny_folder() / "vae", folder)
    changed = {name: tensor * 1.01 for name, tensor in read_tensors(folder / VAE_FILE).items()}
    write_tensors(folder / VAE_FILE, changed, metadata={"format": "pt"})
    return folder


@pytest.fixture
def other_stage1(tmp_path) -> Path:
    path = tmp_path / "stage1.safetensors"
    write_tensors(path, {name: tensor * 1.01 for name, tensor in read_tensors(STAGE1).items()}, metadata={})
    return path


def check(config: TrainDitConfig, *, z_dim: int = 16) -> None:
    check_cache(LatentCache(config.cache_path), config, z_dim=z_dim)


def refusal(config: TrainDitConfig, *, z_dim: int = 16) -> tuple[str, str]:
    """(the message, the command that it ends with)."""
    with pytest.raises(CacheError) as found:
        check(config, z_dim=z_dim)
    return str(found.value), str(found.value).split("rebuild: ")[1]


def copied(config: TrainDitConfig, folder: Path, **changes: object) -> TrainDitConfig:
    """The run, on a copy of its cache whose index says something else."""
    shutil.copytree(config.cache_path, folder)
    index = json.loads((folder / "index.json").read_text())
    command = index["command"].replace(str(config.cache_path), str(folder))
    (folder / "index.json").write_text(json.dumps({**index, "command": command, **changes}))
    return replace(config, cache_path=folder)


def test_another_vae_is_refused_and_the_named_command_makes_its_cache(config, other_vae, tmp_path) -> None:
    """Same latent channels: nothing but the weights tells them apart."""
    run = replace(copied(config, tmp_path / "cache"), base_vae_path=other_vae, output_path=tmp_path / "dit")
    with pytest.raises(CacheError, match="latents of another VAE"):
        train(run)
    message, command = refusal(run)
    assert f"expected {other_vae / VAE_FILE}" in message
    assert f" --output_path {run.cache_path} " in command
    assert main(shlex.split(command)[1:]) == 0
    check(run)
    with pytest.raises(CacheError, match="another VAE"):
        check(replace(run, base_vae_path=None))


def test_the_same_vae_under_another_name_is_taken(config, tmp_path, caplog) -> None:
    shutil.copytree(tiny_folder() / "vae", tmp_path / "vae")
    check(replace(config, base_vae_path=tmp_path / "vae"))
    assert not caplog.records, "it was compared, not left out"


def test_the_same_vae_in_another_layout_is_refused_but_nothing_is_encoded_again(config, tmp_path, monkeypatch) -> None:
    shutil.copytree(tiny_folder() / "vae", tmp_path / "vae")
    write_tensors(tmp_path / "vae" / VAE_FILE, read_tensors(tiny_folder() / "vae" / VAE_FILE), metadata={"written": "by another program"})
    run = replace(copied(config, tmp_path / "cache"), base_vae_path=tmp_path / "vae")
    _, command = refusal(run)
    monkeypatch.setattr(caching, "_encode_draws", None)
    assert main(shlex.split(command)[1:]) == 0
    check(run)


def test_the_validation_cache_is_checked_like_the_training_cache(config, other_vae, tmp_path) -> None:
    for case in ({"base_vae_path": other_vae}, {"width": 32}):
        with pytest.raises(CacheError, match=r"rebuild: wan-alpha cache "):
            train(replace(config, **case, on_the_fly=True, cache_path=None, validation_cache_path=config.cache_path, output_path=tmp_path))
    run = replace(copied(config, tmp_path / "held_out", merge_block="0" * 64), output_path=tmp_path / "dit")
    with pytest.raises(CacheError, match=r"held_out: got latents of another merge block"):
        train(replace(run, cache_path=config.cache_path, validation_cache_path=run.cache_path))


def test_a_validation_cache_has_the_text_length_of_the_training(config, tmp_path) -> None:
    longer = replace(copied(config, tmp_path / "longer", max_sequence_length=256), output_path=tmp_path / "dit")
    expected = r"longer: got captions of --max_sequence_length 256, expected --max_sequence_length 128, as in training; rebuild: .* 128"
    for source in ({"cache_path": config.cache_path}, {"cache_path": None, "on_the_fly": True}):
        with pytest.raises(CacheError, match=expected):
            train(replace(longer, validation_cache_path=longer.cache_path, **source))


def test_another_text_encoder_is_refused(config, tmp_path) -> None:
    index = LatentCache(config.cache_path).index
    weights = {role: "0" * 64 if role.startswith("text_encoder ") else digest for role, digest in index.weights.items()}
    assert weights != index.weights
    message, command = refusal(copied(config, tmp_path / "cache", weights=weights))
    assert "got captions of another text encoder" in message
    assert command == index.command.replace(str(config.cache_path), str(tmp_path / "cache"))


@pytest.mark.parametrize("given", [{"hard_threshold": 0.9}, {"buckets": "aspect+length"}, {"draws": 16}, {"max_sequence_length": 256}])
def test_settings_that_the_cache_was_not_made_with(config, tmp_path, given) -> None:
    """Refused before a step, with the command that makes such a cache."""
    ((name, value),) = given.items()
    with pytest.raises(CacheError, match=rf"got a cache of --{name} .*, expected --{name} .*; train with --{name} ") as found:
        train(replace(config, output_path=tmp_path, **given))
    assert f" --{name} {value}" in str(found.value).split("rebuild: ")[1]


def test_a_setting_at_its_default_means_the_caches(config, caplog) -> None:
    with caplog.at_level(logging.INFO, "wan_alpha"):
        check_settings(LatentCache(config.cache_path), replace(config, max_sequence_length=512))
    assert "was made with --draws 1 --max_sequence_length 128, which counts here" in caplog.text


def test_the_command_of_a_cache_that_a_training_made_names_the_column(config, tmp_path) -> None:
    table = (config.dataset_base_path / "metadata.csv").read_text().replace("video,prompt", "clip,prompt", 1)
    (tmp_path / "clips.csv").write_text(table)
    column = {"data_file_keys": "clip", "dataset_metadata_path": tmp_path / "clips.csv"}
    train(replace(config, cache_path=None, draws=1, output_path=tmp_path, **column))
    made = LatentCache(tmp_path / "cache").index
    assert main(shlex.split(made.command)[1:]) == 0
    assert LatentCache(tmp_path / "cache").index == made


def test_another_merge_block_that_the_run_names(config, other_stage1) -> None:
    recorded = LatentCache(config.cache_path).index.command
    for name in ("feature_merge_checkpoint", "vae_lora_path"):
        message, command = refusal(replace(config, **{"feature_merge_checkpoint": None, name: other_stage1}))
        assert "latents of another merge block" in message
        assert command == f"{recorded.replace(f' --feature_merge_checkpoint {STAGE1}', '')} --{name} {other_stage1}"


def test_a_merge_block_that_was_trained_further_since(config, other_stage1, tmp_path, caplog) -> None:
    """The run names none: the file that the cache was made from is looked at."""
    recorded = LatentCache(config.cache_path).index.command
    unnamed = replace(config, feature_merge_checkpoint=None)
    check(unnamed)
    assert not caplog.records
    made_from_other = recorded.replace(str(STAGE1), str(other_stage1))
    message, command = refusal(copied(unnamed, tmp_path / "stale", command=made_from_other))
    assert f"expected that of {other_stage1}" in message
    assert command == made_from_other
    gone = copied(unnamed, tmp_path / "gone", command=recorded.replace(str(STAGE1), "gone.safetensors"))
    with caplog.at_level(logging.WARNING, "wan_alpha"):
        check(gone)
    assert "is not checked" in caplog.text


def test_another_size_or_latent_space(config) -> None:
    recorded = LatentCache(config.cache_path).index.command
    message, command = refusal(replace(config, width=64))
    assert "got latents of --num_frames 5 --height 32 --width 48, expected --num_frames 5 --height 32 --width 64" in message
    rest = recorded.replace(" --height 32 --width 48 --num_frames 5", "")
    assert rest != recorded
    assert command == f"{rest} --num_frames 5 --height 32 --width 64"
    message, command = refusal(config, z_dim=48)
    assert "got 16 latent channels, expected 48" in message
    assert command == recorded
