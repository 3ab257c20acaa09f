"""ZeRO-2: processes with a share of the optimiser each train as one with all of it; what the shipped configuration says."""

import os
import warnings
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.commands import launch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DeepSpeedPlugin, DistributedType
from accelerate.utils.launch import prepare_deepspeed_cmd_env
from torch import nn

from forked import together
from tiny_stage2 import tiny_stage2
from toy_training import CPU, toy_config
from training_log import log_lines
from wan_alpha.checkpoints.files import read_tensors
from wan_alpha.data.draws import normal_at
from wan_alpha.errors import UsageError
from wan_alpha.train import dit, loop
from wan_alpha.train.loop import Stage, fit
from wan_alpha.train.optimisers import make_optimiser
from wan_alpha.train.zero2 import engine_settings, require_zero2

CONFIG = Path(__file__).parents[2] / "runs" / "zero2.yaml"


@pytest.fixture(scope="module")
def deepspeed():
    """Imported for its own CPU backend, without the kernel that it would compile for messages between processes of one machine."""
    if find_spec("deepspeed") is None:
        pytest.skip("DeepSpeed is not installed (extra 'deepspeed')")
    os.environ["DS_ACCELERATOR"] = "cpu"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import deepspeed
    deepspeed.ops.__compatible_ops__ = {}


class Zero2Accelerator(Accelerator):
    """accelerate ignores DeepSpeed on a CPU, DeepSpeed does not: this one says what accelerate would say on a GPU."""

    deepspeed_engine_wrapped = None

    def __init__(self, **settings) -> None:
        super().__init__(**settings)
        plugin = DeepSpeedPlugin(zero_stage=2)
        plugin.set_mixed_precision("no")
        self.state.distributed_type, self.state.deepspeed_plugins = DistributedType.DEEPSPEED, plugin


def in_shares() -> None:
    """From now on this process trains with DeepSpeed, whose warnings are not ours."""
    warnings.simplefilter("ignore")
    loop.Accelerator = Zero2Accelerator


def train_parts(settings: dict) -> list[list[float]]:
    """Two learning rates for parameters of 15, 4 and 2 values, of which the last takes no part; returns them."""
    names = {"large": (3, 5), "lora_small": (4,), "idle": (2,)}
    parts = {name: nn.Parameter(torch.ones(shape)) for name, shape in names.items()}
    config = toy_config(**settings)

    def loss(positions):
        x = normal_at(config.seed, positions, (15,))
        error = parts["large"].flatten() * x - 2 * x
        return {"total": error.square().mean() + (parts["lora_small"] * x[:, :4]).mean() * 1e-2}

    stage = Stage(
        verb="train-vae",
        trainables=parts,
        loss=loss,
        save=lambda epoch: [],
        num_clips=6,
        data_fingerprint="clips",
        device=CPU,
        rate_factor=lambda name: 2.0 if "lora_" in name else 1.0,
    )
    fit(config, stage=stage)
    return [part.detach().flatten().tolist() for part in parts.values()]


def train_parts_in_shares(rank: int, settings: dict) -> list[list[float]] | str:
    in_shares()
    try:
        return train_parts(settings)
    except UsageError as error:
        return str(error)


def stored(folder: Path) -> dict:
    """The tensors of the last state."""
    state = folder / "states" / "step_000004"
    return {
        "optimiser": torch.load(state / "optimiser.pt", weights_only=True),
        **{name: read_tensors(state / f"{name}.safetensors") for name in ("trainables", "ema")},
    }


def test_a_run_goes_on_with_shares_and_without(tmp_path, deepspeed) -> None:
    """Clipped, accumulated, averaged and decayed as by one process, whose states and numbers they leave."""
    common = {"gradient_accumulation_steps": 2, "max_grad_norm": 0.3, "ema_decay": 0.9, "warmup_steps": 3, "save_every_epochs": 100}
    alone = {**common, "batch_size": 4, "output_path": tmp_path / "alone"}
    expected = train_parts(alone)
    first, last = tmp_path / "first", tmp_path / "last"
    both = together(2, train_parts_in_shares, {**common, "batch_size": 2, "output_path": first, "max_steps": 2})
    assert both[0] == both[1]
    ended_alone = train_parts({**common, "batch_size": 2, "gradient_accumulation_steps": 4, "output_path": first, "resume": "latest"})
    train_parts({**common, "batch_size": 2, "gradient_accumulation_steps": 4, "output_path": last, "max_steps": 2})
    ended_in_shares, other = together(2, train_parts_in_shares, {**common, "batch_size": 2, "output_path": last, "resume": "latest"})
    assert ended_in_shares == other
    for folder, found in ((first, ended_alone), (last, ended_in_shares)):
        torch.testing.assert_close([torch.tensor(part) for part in found], [torch.tensor(part) for part in expected], atol=1e-6, rtol=0)
        for ours, theirs in zip(log_lines(folder), log_lines(tmp_path / "alone"), strict=True):
            assert ours == pytest.approx(theirs, abs=1e-6)
        torch.testing.assert_close(stored(folder), stored(tmp_path / "alone"), atol=1e-6, rtol=0)
    assert max(line["gradient_norm"] for line in log_lines(first)) > 0.3


def test_a_gradient_that_is_not_finite_stops_the_run(tmp_path, deepspeed) -> None:
    settings = {"output_path": tmp_path, "learning_rate": 1e30, "warmup_steps": 0, "log_every_steps": 1, "max_steps": 9}
    assert (
        together(2, train_parts_in_shares, settings)
        == [
            "training, step 2: got a gradient norm of inf, expected a finite one; "
            "start anew with a lower --learning_rate, or with --precision float32"
        ]
        * 2
    )


def train_dit_in_shares(rank: int, config) -> float:
    """The share of AdamW's moments that this process held."""
    in_shares()
    kept = []
    loop.make_optimiser = lambda *args, **settings: kept.append(make_optimiser(*args, **settings)) or kept[0]
    trained = []
    dit.adapter_parameters = lambda transformer, original=dit.adapter_parameters: trained.append(original(transformer)) or trained[-1]
    dit.train(config)
    held = sum(state["exp_avg_sq"].numel() for state in kept[0].state.values())
    return held / sum(parameter.numel() for parameter in trained[-1].values())


def test_an_adapter_is_trained_in_shares_as_by_one_process(tmp_path, deepspeed) -> None:
    settings = {"draws": 1, "gradient_checkpointing": True, "precision": "float32", "validation_clips": 1, "validate_every_steps": 2}
    config = tiny_stage2(tmp_path, **settings, gradient_accumulation_steps=2, output_path=tmp_path / "alone")
    (alone,) = dit.train(config)
    shared = replace(config, batch_size=1, output_path=tmp_path / "shared")
    assert together(2, train_dit_in_shares, shared) == pytest.approx([0.5, 0.5], abs=1e-3)
    found, expected = read_tensors(shared.output_path / alone.name), read_tensors(alone)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    for ours, theirs in zip(log_lines(shared.output_path), log_lines(config.output_path), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)


def test_the_shipped_configuration_asks_for_zero2(monkeypatch, tmp_path) -> None:
    """Read and checked by accelerate as its launcher does it; the environment that it gives is read back as a plugin."""
    assert load_config_from_file(str(CONFIG)).distributed_type == DistributedType.DEEPSPEED
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    launched = []
    monkeypatch.setattr(launch, "deepspeed_launcher", launched.append)
    arguments = ["--config_file", str(CONFIG), "-m", "wan_alpha", "train-dit"]
    launch.launch_command(launch.launch_command_parser().parse_args(arguments))
    _, environment = prepare_deepspeed_cmd_env(*launched)
    assert environment["ACCELERATE_USE_DEEPSPEED"] == "true"
    for name, value in environment.items():
        if name.startswith("ACCELERATE_"):
            monkeypatch.setitem(os.environ, name, value)
    plugin, config = DeepSpeedPlugin(), toy_config(tmp_path, batch_size=3, gradient_accumulation_steps=2, max_grad_norm=0.5)
    require_zero2(config, plugin=plugin)
    settings = engine_settings(config, given=plugin.deepspeed_config)
    assert settings["zero_optimization"]["stage"] == 2
    assert (settings["train_micro_batch_size_per_gpu"], settings["gradient_clipping"]) == (3, 0.5)
    assert [name for name, value in settings.items() if value == "auto"] == ["train_batch_size"]  # accelerate multiplies it


@pytest.mark.parametrize(
    ("plugin", "optimiser", "message"),
    [
        (
            {"zero_stage": 3},
            "adamw",
            "zero_stage: got 3, expected 2: FSDP2 shares the frozen base out; accelerate launch --config_file runs/zero2",
        ),
        ({"zero_stage": 2, "offload_optimizer_device": "cpu"}, "adamw", "offload_optimizer_device: got cpu, expected none"),
        ({"zero_stage": 2}, "adafactor", "--optimiser adafactor: got ZeRO-2, expected adamw"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(plugin, optimiser, message, tmp_path) -> None:
    with pytest.raises(UsageError, match=message):
        require_zero2(toy_config(tmp_path, optimiser=optimiser), plugin=DeepSpeedPlugin(zero3_init_flag=False, **plugin))
