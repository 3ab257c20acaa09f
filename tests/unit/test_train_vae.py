"""Stage 1 on the tiny base, a few steps: clips and stills in buckets, validation on fixed samples, previews, the best file."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from scarce_memory import advice, line_where_memory_ends
from training_log import log_lines
from wan_alpha import recipes
from wan_alpha.checkpoints.files import read_tensors, write_tensors
from wan_alpha.config import TrainVaeConfig
from wan_alpha.errors import UsageError
from wan_alpha.media.read import read_rgba
from wan_alpha.media.write import write_png
from wan_alpha.models import whole_clip
from wan_alpha.prepare import prepare
from wan_alpha.recipes.tiny import STAGE1
from wan_alpha.train import vae
from wan_alpha.train.rgba_data import RgbaBatch, rgba_clips, sample_at, to_batch, validation_sample
from wan_alpha.train.step import WholeUpdate
from wan_alpha.train.vae import build_model, build_objective, loss, train
from wan_alpha.train.validation import mean_terms, validate_vae

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> TrainVaeConfig:
    """Three procedural clips 32 x 48 and a high still; the first clip is held out."""
    root, tiny = tmp_path_factory.mktemp("stage1"), recipes.get_recipe("tiny")
    prepare(replace(tiny.prepare, synthetic=3, height=32, width=48, num_frames=5, output_path=root / "data"))
    picture = np.zeros((80, 48, 4), np.uint8)
    picture[20:60, 10:38] = (200, 40, 90, 255)
    write_png(picture, root / "data" / "still.png")
    with (root / "data" / "metadata.csv").open("a") as table:
        table.write("still.png,A red square.\n")
    size = {"height": 32, "width": 48, "num_frames": 5, "buckets": "aspect"}
    return replace(
        tiny.train_vae,
        **size,
        dataset_base_path=root / "data",
        validation_clips=1,
        validate_every_steps=2,
        max_steps=2,
        batch_size=2,
        precision="float32",
        bidirectional="ours",
        output_path=root / "vae",
    )


@pytest.fixture(scope="module")
def trained(config) -> Path:
    torch.set_num_threads(1)
    train(config)
    return config.output_path


def test_validation_is_logged_per_term(trained) -> None:
    lines = log_lines(trained)
    validation = next(line for line in lines if "validation/total" in line)
    assert validation["step"] == 2
    terms = {f"{kind}_{pair}" for kind in ("l1", "edge") for pair in ("hard", "soft", "alpha")}
    assert terms | {"bidirectional", "total"} <= {name.removeprefix("validation/") for name in validation}
    weighted = sum(validation[f"validation/{name}"] for name in terms) + 0.1 * validation["validation/bidirectional"]
    assert validation["validation/total"] == pytest.approx(weighted, abs=1e-5)


def test_a_bfloat16_step_trains_float32_weights_and_encodes_once(config, tmp_path, monkeypatch) -> None:
    """Autocast and the judge in bfloat16; weights and gradients stay float32. Colour and matte are one batch of the encoder."""
    encoded, gradients = [], {}
    plain_features, plain_apply = whole_clip.encoder_features, WholeUpdate.apply

    def features(encoder, clip):
        encoded.append((clip.shape[0], torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else clip.dtype))
        return plain_features(encoder, clip)

    def apply(update):
        gradients.update({name: (p.dtype, p.grad.dtype, bool(p.grad.isfinite().all())) for name, p in update.state.trainables.items()})
        return plain_apply(update)

    monkeypatch.setattr(whole_clip, "encoder_features", features)
    monkeypatch.setattr(WholeUpdate, "apply", apply)
    for precision in ("float32", "bfloat16"):
        alone = {"max_steps": 1, "batch_size": 1, "height": 16, "width": 32, "validate_every_steps": None}
        train(replace(config, precision=precision, output_path=tmp_path / precision, **alone))
    assert encoded == [(2, torch.float32), (2, torch.bfloat16)]
    assert len(gradients) > 50
    assert set(gradients.values()) == {(torch.float32, torch.float32, True)}
    wanted, found = (json.loads((tmp_path / name / "metrics.jsonl").read_text()) for name in ("float32", "bfloat16"))
    assert 0 < abs(found["total"] / wanted["total"] - 1) < 0.02
    assert found["bidirectional"] == pytest.approx(wanted["bidirectional"], abs=0.05)


def test_previews_show_truth_over_reconstruction_on_every_background(trained) -> None:
    png, webp = (trained / "previews" / f"step_000002.{kind}" for kind in ("png", "webp"))
    moving = read_rgba(webp)
    rows, columns = 2 * 32 + 2, 5 * 48 + 4 * 2
    assert moving.rgb.shape == (5, rows, columns, 3)
    magenta = moving.rgb[0, 0, 3 * (48 + 2)]
    assert magenta.tolist() == [255, 0, 255]
    assert png.is_file()


def test_the_best_files_are_kept_and_every_clip_is_listed(trained) -> None:
    best, last = (read_tensors(trained / f"feature_merge_{name}.safetensors") for name in ("best", "epoch_0"))
    assert best.keys() == last.keys()
    assert (trained / "stage1_best.safetensors").is_file()
    report = json.loads((trained / "clips.json").read_text())
    assert len(report["held_out"]) == 1
    assert len(report["clips"]) == 3
    buckets = {clip["name"]: clip["bucket"] for clip in report["clips"]}
    assert buckets["still"] != next(bucket for name, bucket in buckets.items() if name != "still")


def test_validation_repeats_to_the_bit_and_leaves_no_gradient(config, tmp_path) -> None:
    config = replace(config, output_path=tmp_path, bidirectional="none")
    _, held_out = rgba_clips(replace(config, seed=5))
    model = build_model(config, device=CPU)
    objective = build_objective(config, z_dim=model.z_dim, device=CPU)
    validate = validate_vae(config, model, held_out, loss=lambda batch: loss(model, batch, objective=objective), device=CPU)
    first = validate(1)
    torch.manual_seed(1)
    assert validate(2) == first
    assert all(parameter.grad is None for parameter in model.parameters())
    sample = to_batch([validation_sample(held_out, 0, config=replace(config, seed=9), z_dim=16)], device=CPU)
    again = mean_terms([loss(model, sample, objective=objective)])
    assert again == first, "the same loss, whatever the training's seed"


def test_a_batch_stacks_what_each_sample_is_alone(config, tmp_path) -> None:
    clips, _ = rgba_clips(replace(config, output_path=tmp_path))
    samples = [sample_at(clips, position, config=config, z_dim=16) for position in (2, 3)]
    batch = to_batch(samples, device=CPU)
    assert batch.rgb.shape[0] == batch.judge_noise.shape[0] == 2
    assert batch.judge_noise.shape[2:] == (2, batch.rgb.shape[-2] // 8, batch.rgb.shape[-1] // 8), "t, h, w"
    assert torch.equal(batch.soft_colour[1], samples[1].soft_colour[0])
    alone = sample_at(clips, 3, config=config, z_dim=16)
    assert isinstance(alone, RgbaBatch)
    assert torch.equal(alone.judge_noise, samples[1].judge_noise)
    draws = [sample_at(clips, position, config=config, z_dim=16) for position in range(40)]
    same = sum(torch.equal(a.input_colour, a.hard_colour) for a in draws)
    assert same < 15, "colours are drawn independently: equal in one of eight"


def test_nothing_to_validate_on_is_an_error(config, tmp_path) -> None:
    with pytest.raises(UsageError, match="--validation_base_path"):
        rgba_clips(replace(config, validation_clips=None, output_path=tmp_path))
    with pytest.raises(UsageError, match="fewer than the 4 clips"):
        rgba_clips(replace(config, validation_clips=4, output_path=tmp_path))


def test_a_validation_set_of_its_own_holds_nothing_out(config, tmp_path) -> None:
    other = replace(config, validation_base_path=config.dataset_base_path, validation_clips=2, output_path=tmp_path)
    clips, held_out = rgba_clips(other)
    assert len(clips.dataset.entries) == 4
    assert len(held_out) == 2


@pytest.mark.parametrize("part", ["load_vae", "load_judge", "log_forecast", "fit"])
def test_wherever_memory_ends_one_line_names_the_next_setting(config, part, monkeypatch) -> None:
    line = line_where_memory_ends(vae, part, config=config, monkeypatch=monkeypatch)
    assert re.search(advice(part, loading="--bidirectional none"), line)


def test_a_resumed_run_has_the_same_frozen_decoders(config, tmp_path) -> None:
    """With frozen decoders no state holds them; trained ones come from the state, whatever file is named."""
    other = tmp_path / "stage1.safetensors"
    write_tensors(other, {name: tensor * 1.01 for name, tensor in read_tensors(STAGE1).items()}, metadata={})
    alone = {"bidirectional": "none", "validate_every_steps": None, "batch_size": 1, "height": 16, "width": 32, "decay": "constant"}
    run = replace(config, **alone, max_steps=1, vae_lora_path=STAGE1)
    for mode in ("merge", "merge+decoders"):
        train(replace(run, mode=mode, output_path=tmp_path / mode))
    more = {"max_steps": 2, "resume": "latest"}
    with pytest.raises(UsageError, match=r"--resume: got decoders [0-9a-f]+ \(was [0-9a-f]+\)"):
        train(replace(run, mode="merge", output_path=tmp_path / "merge", vae_lora_path=other, **more))
    train(replace(run, mode="merge", output_path=tmp_path / "merge", feature_merge_checkpoint=other, **more))
    train(replace(run, mode="merge+decoders", output_path=tmp_path / "merge+decoders", vae_lora_path=other, **more))
