"""Stage 1 with --feature_draws: what is encoded once, what is drawn anew all the same, and whose features are never taken."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from training_log import log_lines
from wan_alpha import recipes
from wan_alpha.checkpoints.files import read_tensors
from wan_alpha.config import TrainVaeConfig
from wan_alpha.errors import CheckpointError, UsageError
from wan_alpha.models import whole_clip
from wan_alpha.prepare import prepare
from wan_alpha.train import vae
from wan_alpha.train.rgba_data import rgba_clips, sample_at, to_batch
from wan_alpha.train.vae import train

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> TrainVaeConfig:
    """Two clips in batches of two, two draws of each: the encoder is needed in the first two of five steps."""
    torch.set_num_threads(1)
    root, tiny = tmp_path_factory.mktemp("features"), recipes.get_recipe("tiny")
    prepare(replace(tiny.prepare, synthetic=2, height=32, width=48, num_frames=5, output_path=root / "data"))
    size = {"height": 32, "width": 48, "num_frames": 5, "batch_size": 2, "max_steps": 5, "log_every_steps": 1}
    data = {"dataset_base_path": root / "data", "output_path": root / "vae", "precision": "float32"}
    return replace(tiny.train_vae, **size, **data, feature_draws=2)


@pytest.fixture
def encoded(monkeypatch) -> list[int]:
    """Grows with every pass of the encoder, by the clips in it."""
    clips, plain = [], whole_clip.encoder_features

    def counted(encoder, clip):
        clips.append(clip.shape[0])
        return plain(encoder, clip)

    monkeypatch.setattr(whole_clip, "encoder_features", counted)
    return clips


def totals(folder: Path) -> list[float]:
    return [line["total"] for line in log_lines(folder) if "total" in line]


def test_the_encoder_sees_each_draw_once(config, encoded, tmp_path) -> None:
    train(replace(config, output_path=tmp_path))
    assert encoded == [4, 4]  # colour and matte of two clips, in two of five steps
    assert len(list(tmp_path.glob("features/*/*.safetensors"))) == 4


def test_the_first_epochs_are_those_of_a_training_that_always_encodes(config, encoded, tmp_path) -> None:
    train(replace(config, output_path=tmp_path / "kept"))
    train(replace(config, output_path=tmp_path / "always", feature_draws=None))
    kept, always = totals(tmp_path / "kept"), totals(tmp_path / "always")
    assert kept[:2] == always[:2]
    assert kept[2:] != always[2:]
    assert encoded[2:] == [4] * 5
    assert not (tmp_path / "always" / "features").exists()


def test_what_the_encoder_sees_repeats_and_the_losses_colours_do_not(config, tmp_path) -> None:
    clips, _ = rgba_clips(replace(config, output_path=tmp_path))
    first = [sample_at(clips, position, config=config, z_dim=16) for position in range(4)]
    later = [sample_at(clips, position, config=config, z_dim=16) for position in range(4, 8)]
    for one, other in zip(first, later, strict=True):
        for seen, again in zip(one.encoder_input(hard_threshold=0.03), other.encoder_input(hard_threshold=0.03), strict=True):
            assert torch.equal(seen, again)
    assert any(not torch.equal(one.soft_colour, other.soft_colour) for one, other in zip(first, later, strict=True))
    assert not any(torch.equal(one.judge_noise, other.judge_noise) for one, other in zip(first, later, strict=True))
    assert not torch.equal(first[0].rgb, first[2].rgb)


def test_a_resumed_run_ends_at_the_same_weights(config, tmp_path) -> None:
    whole, parts = (replace(config, output_path=tmp_path / name, decay="constant") for name in ("whole", "parts"))
    _, expected = train(whole)
    train(replace(parts, max_steps=3))
    _, found = train(replace(parts, resume="latest"))
    for name, tensor in read_tensors(expected).items():
        assert torch.equal(tensor, read_tensors(found)[name]), name


def test_bfloat16_features_are_kept_as_the_encoder_made_them(config, tmp_path) -> None:
    once = replace(config, output_path=tmp_path, precision="bfloat16", feature_draws=1, max_steps=1)
    train(once)
    clips, _ = rgba_clips(once)
    model = vae.build_model(once, device=CPU)
    batch = to_batch([sample_at(clips, position, config=once, z_dim=16) for position in range(2)], device=CPU)
    with torch.autocast("cpu", torch.bfloat16):
        rgb, alpha = model.features(*batch.encoder_input(hard_threshold=once.hard_threshold))
    for i, path in enumerate(sorted(tmp_path.glob("features/*/*.safetensors"))):
        kept = read_tensors(path)
        assert torch.equal(kept["rgb"], rgb[i].bfloat16())
        assert torch.equal(kept["alpha"], alpha[i].bfloat16())


@pytest.mark.parametrize("change", [{"seed": 7}, {"max_scale": 1.5}, {"model": "other"}])
def test_features_of_other_settings_data_or_encoders_are_left_alone(config, encoded, tmp_path, monkeypatch, change) -> None:
    first = replace(config, output_path=tmp_path, max_steps=1)
    train(first)
    for state in (tmp_path / "states").glob("*"):
        state.rename(tmp_path / state.name)
    if "model" in change:
        change, plain = {}, vae.build_model

        def other(config, *, device):
            model = plain(config, device=device)
            with torch.no_grad():
                model.encoder.conv_in.weight.mul_(1.01)
            return model

        monkeypatch.setattr(vae, "build_model", other)
    train(replace(first, **change))
    assert encoded == [4, 4]


def test_a_damaged_file_is_named(config, tmp_path) -> None:
    train(replace(config, output_path=tmp_path, feature_draws=1, max_steps=1))
    for state in (tmp_path / "states").glob("*"):
        state.rename(tmp_path / state.name)
    damaged = sorted(tmp_path.glob("features/*/*.safetensors"))[0]
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=damaged.name):
        train(replace(config, output_path=tmp_path, feature_draws=1, max_steps=1))


def test_fewer_than_one_draw_is_an_error(config) -> None:
    with pytest.raises(UsageError, match="--feature_draws: got 0, expected 1 or more"):
        replace(config, feature_draws=0)
