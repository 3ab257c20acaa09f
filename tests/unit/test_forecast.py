"""The memory forecast: its parts, how it grows, and what it says."""

import json
import logging
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import nn

from wan_alpha.config import TrainDitConfig
from wan_alpha.malloc import HUGE_PAGES, resident_bytes
from wan_alpha.models.dora import inject_adapter
from wan_alpha.recipes import get_recipe
from wan_alpha.train import dit, forecast, vae
from wan_alpha.train.forecast import Forecast, log_forecast, optimiser_bytes
from wan_alpha.train.imagined import LiveBytes
from wan_alpha.train.optimisers import make_optimiser

CPU, ACCELERATOR = torch.device("cpu"), torch.device("cuda")
ROOT = Path(__file__).parents[2]
SMALL = {"height": 32, "width": 48, "num_frames": 5, "precision": "float32", "batch_size": 1}


def transformer_of(blocks: int, *, config: TrainDitConfig) -> WanTransformer3DModel:
    with torch.device("meta"):
        network = WanTransformer3DModel(num_attention_heads=2, attention_head_dim=12, ffn_dim=96, num_layers=blocks, text_dim=16)
        network = inject_adapter(network.requires_grad_(False), rank=4)
    if config.gradient_checkpointing:
        network.enable_gradient_checkpointing()
    return network


def of_transformer(blocks: int = 2, *, device: torch.device = ACCELERATOR, **settings) -> Forecast:
    config = TrainDitConfig(**{**SMALL, "max_sequence_length": 8, "ema_decay": 0.9, **settings})
    return dit.forecast_memory(config, transformer_of(blocks, config=config), device=device)


@pytest.fixture(scope="module")
def plain() -> Forecast:
    return of_transformer()


def test_parts_add_up(plain) -> None:
    network = transformer_of(2, config=TrainDitConfig())
    trained = 4 * sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert plain.total == sum(asdict(plain).values())
    assert (plain.trainables, plain.gradients, plain.average, plain.optimiser) == (trained, trained, trained, 2 * trained)
    everything = sum(tensor.numel() * tensor.element_size() for tensor in (*network.parameters(), *network.buffers()))
    assert plain.base == everything - trained
    assert plain.text.startswith("memory forecast: at least 0.0")


def test_a_cpu_counts_the_process(plain) -> None:
    found = of_transformer(device=CPU)
    assert found.text.startswith("memory forecast: about ")
    assert found.process == pytest.approx(resident_bytes(), rel=0.15)  # the weights lie on the meta device
    assert found.still_to_come >= plain.still_to_come  # the patches' convolution copies its input
    assert (found.base, found.activations) == (plain.base, plain.activations)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the highest resident memory is read from Linux's /proc")
@pytest.mark.parametrize("case", ["tiny VAE, 64 x 64 x 17, batch 2", "tiny transformer, 64 x 64 x 17, batch 8"])
def test_within_15_percent_of_two_real_steps(case) -> None:
    """The recipe's own step in a process of its own, against the highest resident memory of that process."""
    command, environment = [sys.executable, "benchmarks/memory.py", "--case", case], {**os.environ, HUGE_PAGES: "1"}
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment)
    found = json.loads(run.stdout.splitlines()[-1])
    assert 0.85 < found["forecast"] / found["real"] < 1.15, found["text"]


def test_activations_grow_with_batch_and_size(plain) -> None:
    twice = of_transformer(batch_size=2)
    assert twice.activations / plain.activations == pytest.approx(2, rel=0.06)  # the row norms of DoRA do not grow
    assert of_transformer(height=64).activations > 1.5 * plain.activations
    assert twice.base == plain.base


def test_checkpointing_lowers_activations(plain) -> None:
    assert of_transformer(gradient_checkpointing=True).activations < plain.activations / 4


def test_extrapolation_over_blocks_is_exact(monkeypatch) -> None:
    extrapolated = of_transformer(4, gradient_checkpointing=True)
    monkeypatch.setattr("wan_alpha.train.imagined.LONGER", 4)
    assert of_transformer(4, gradient_checkpointing=True) == extrapolated


def test_stage_1_counts_the_shared_decoder_once() -> None:
    config = replace(get_recipe("tiny").train_vae, **SMALL)
    model = vae.build_model(config, device=CPU)
    objective = vae.build_objective(config, z_dim=model.z_dim, device=CPU)
    found = vae.forecast_memory(config, model, objective=objective, device=CPU)
    weights = {p.data_ptr(): p.numel() * 4 for p in (*model.parameters(), *model.buffers())}
    assert found.base + found.trainables == sum(weights.values())
    assert found.activations > 10 * 2**20


@pytest.mark.parametrize("name", ["adamw", "adafactor", "prodigy", "schedule_free"])
def test_bytes_of_optimisers(name) -> None:
    pytest.importorskip({"prodigy": "prodigyopt", "schedule_free": "schedulefree"}.get(name, "torch"))
    parameters = {"matrix": nn.Parameter(torch.ones(40, 30)), "vector": nn.Parameter(torch.ones(50))}
    config = TrainDitConfig(optimiser=name, learning_rate=1.0)
    optimiser = make_optimiser(config, trainables=parameters, rate_factor=lambda _: 1.0)
    sum(p.square().sum() for p in parameters.values()).backward()
    optimiser.step()
    kept = [value for state in optimiser.state.values() for value in state.values() if isinstance(value, torch.Tensor) and value.ndim]
    assert sum(value.numel() * 4 for value in kept) == optimiser_bytes(name, parameters.values())


def test_live_bytes_follow_tensors() -> None:
    with LiveBytes() as live:
        a = torch.ones(256)
        b = a.view(16, 16)
        del a
        assert live.now == 1024
        c = b + 1
        del b
    assert (live.now, live.peak) == (1024, 2048)
    assert c.numel() == 256


def test_too_little_memory_names_the_next_setting(plain, monkeypatch, caplog) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(forecast, "free_bytes", lambda device: plain.still_to_come - 1)
    log_forecast(TrainDitConfig(), lambda: plain, device=CPU)
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
    assert "try: add --gradient_checkpointing" in caplog.records[1].message
    monkeypatch.setattr(forecast, "free_bytes", lambda device: plain.still_to_come)
    log_forecast(TrainDitConfig(), lambda: plain, device=CPU)
    assert len(caplog.records) == 3
    log_forecast(TrainDitConfig(memory_forecast="none"), lambda: pytest.fail("made"), device=CPU)
    assert len(caplog.records) == 3
