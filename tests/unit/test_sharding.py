"""FSDP2: processes that share the frozen base out train as one with the whole of it; what the shipped configuration says."""

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_multi_gpu_env
from torch.distributed.fsdp import FSDPModule, OffloadPolicy
from torch.distributed.tensor import DTensor

from forked import together
from tiny_stage2 import tiny_stage2
from wan_alpha.checkpoints.files import read_tensors
from wan_alpha.config import TrainDitConfig
from wan_alpha.errors import UsageError
from wan_alpha.train import dit, loop
from wan_alpha.train.dit import build_transformer, train
from wan_alpha.train.sharding import share_out

CONFIG = Path(__file__).parents[2] / "runs" / "fsdp2.yaml"
PLUGIN = SimpleNamespace(fsdp_version=2, reshard_after_forward=True, cpu_offload=OffloadPolicy())


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> TrainDitConfig:
    """Two clips of 32 x 48 x 5 in a cache; validation and a preview after the last of two steps."""
    root = tmp_path_factory.mktemp("shares")
    validation = {"validation_clips": 1, "validate_every_steps": 2, "preview_clips": 1, "num_inference_steps": 1}
    return tiny_stage2(root, draws=1, gradient_checkpointing=True, precision="float32", output_path=root / "alone", **validation)


class SharingAccelerator(Accelerator):
    """accelerate ignores FSDP on a CPU, torch does not: this one says what accelerate would say on a GPU."""

    distributed_type = DistributedType.FSDP

    def __init__(self, **settings) -> None:
        super().__init__(**settings)
        self.state.__dict__["fsdp_plugin"] = PLUGIN


def train_in_shares(rank: int, config: TrainDitConfig) -> tuple[list[str], float]:
    """What a process wrote, and its share of the frozen weights."""
    loop.Accelerator = SharingAccelerator
    kept = []
    dit.build_transformer = lambda *args, **settings: kept.append(build_transformer(*args, **settings)) or kept[0]
    written = train(config)
    for module in kept[0].modules():
        if isinstance(module, FSDPModule):
            module.reshard()  # what the last step gathered
    frozen = [weight for weight in kept[0].parameters() if not weight.requires_grad]
    assert all(isinstance(weight, DTensor) for weight in frozen)
    share = sum(weight.to_local().numel() for weight in frozen) / sum(weight.numel() for weight in frozen)
    return [str(path) for path in written], share


def test_processes_with_a_share_each_train_as_one_with_the_whole_base(config) -> None:
    (alone,) = train(config)
    shared = replace(config, batch_size=1, output_path=config.output_path.with_name("shared"))
    first, second = together(2, train_in_shares, shared)
    assert first[0] == second[0]
    assert first[1] == pytest.approx(0.5, abs=0.05)
    assert first[1] + second[1] == pytest.approx(1)
    found, expected = read_tensors(Path(first[0][0])), read_tensors(alone)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-5, rtol=0)
    logs = [run.output_path / "metrics.jsonl" for run in (shared, config)]
    lines = [[json.loads(line) for line in log.read_text().splitlines()] for log in logs]
    assert len(lines[0]) == len(lines[1]) == 3
    for ours, theirs in zip(*lines, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)
    assert (shared.output_path / "previews" / "step_000002.png").is_file()


def test_the_shipped_configuration_asks_for_fsdp2(monkeypatch) -> None:
    """Read and checked by accelerate as its launcher does it; the environment that it gives is read back as a plugin."""
    assert load_config_from_file(str(CONFIG)).distributed_type == DistributedType.FSDP
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    arguments = ["--config_file", str(CONFIG), "-m", "wan_alpha", "train-dit"]
    launched, defaults, _ = _validate_launch_command(launch_command_parser().parse_args(arguments))
    assert defaults.distributed_type == DistributedType.FSDP
    assert launched.use_fsdp
    for name, value in prepare_multi_gpu_env(launched).items():
        if name.startswith(("FSDP_", "ACCELERATE_")):
            monkeypatch.setitem(os.environ, name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert (plugin.fsdp_version, plugin.reshard_after_forward, plugin.cpu_ram_efficient_loading) == (2, True, False)


class ToldAccelerator(Accelerator):
    """Says what it is told, and starts nothing."""

    distributed_type = state = device = num_processes = None

    def __init__(self, kind: DistributedType, **plugin) -> None:
        self.distributed_type, self.device, self.num_processes = kind, torch.device("cpu"), 1
        self.state = SimpleNamespace(fsdp_plugin=SimpleNamespace(**{**vars(PLUGIN), **plugin}))


@pytest.mark.parametrize(
    ("kind", "plugin", "message"),
    [
        (DistributedType.FSDP, {"fsdp_version": 1}, "fsdp_version: got 1, expected 2"),
        (DistributedType.FSDP, {}, "this stage has no large frozen base"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(kind, plugin, message) -> None:
    with pytest.raises(UsageError, match=message):
        share_out(None, accelerator=ToldAccelerator(kind, **plugin))


def test_without_fsdp_nothing_changes(config) -> None:
    base = build_transformer(config, device=torch.device("cpu"))
    assert not share_out(base, accelerator=ToldAccelerator(DistributedType.MULTI_GPU))
    assert not any(isinstance(weight, DTensor) for weight in base.parameters())
