"""The DiT: base, DoRA injected (our forward and PEFT's), DoRA merged, and an acceleration LoRA merged after it."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from peft.tuners.lora.variants import DoraLinearVariant
from torch import Tensor

from wan_alpha.checkpoints.adapter import Adapter, read_adapter
from wan_alpha.checkpoints.files import read_tensors
from wan_alpha.checkpoints.originals import dit_to_original
from wan_alpha.models.dora import adapter_layers, load_adapter
from wan_alpha.models.load import load_transformer
from wan_alpha.models.merge import merge_acceleration_lora, merge_adapter
from wan_alpha.models.sources import BaseSource, Part

TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def base(golden_file: Callable[[str], Path], meta: dict, tmp_path_factory: pytest.TempPathFactory) -> WanTransformer3DModel:
    folder = tmp_path_factory.mktemp("dit")
    (folder / "dit.safetensors").symlink_to(golden_file("dit_base.safetensors").resolve())
    (folder / "config.json").write_text(json.dumps(meta["dit"]))
    source = BaseSource(name="golden", parts={"transformer": Part(layout="original", path="dit.safetensors", root=folder)})
    return load_transformer(source, dtype=torch.float32, device="cpu")


@pytest.fixture
def transformer(base: WanTransformer3DModel) -> WanTransformer3DModel:
    return copy.deepcopy(base)


@pytest.fixture(scope="module")
def adapter(golden_file: Callable[[str], Path]) -> Adapter:
    return read_adapter(golden_file("dit_dora.safetensors"))


@pytest.fixture(scope="module")
def expected(load_golden: Callable[[str], dict[str, Tensor]]) -> dict[str, Tensor]:
    return load_golden("dit.safetensors")


@torch.no_grad()
def error(transformer: WanTransformer3DModel, expected: dict[str, Tensor], name: str) -> float:
    out = transformer(expected["xt"], expected["timestep"], expected["context"], return_dict=False)[0]
    return (out - expected[name]).abs().max().item()


def test_sizes_are_those_of_meta(base: WanTransformer3DModel, meta: dict) -> None:
    sizes, config = meta["dit"], base.config
    assert config.num_attention_heads * config.attention_head_dim == sizes["dim"]
    assert (config.ffn_dim, config.freq_dim, config.text_dim, config.num_layers) == tuple(
        sizes[name] for name in ("ffn_dim", "freq_dim", "text_dim", "num_layers")
    )
    assert (config.in_channels, config.out_channels, list(config.patch_size)) == (sizes["in_dim"], sizes["out_dim"], sizes["patch_size"])


def test_base(transformer: WanTransformer3DModel, expected: dict[str, Tensor]) -> None:
    assert error(transformer, expected, "y_base") < TOLERANCE


def test_dora_injected(transformer: WanTransformer3DModel, adapter: Adapter, expected: dict[str, Tensor], meta: dict) -> None:
    load_adapter(transformer, adapter)
    assert adapter.rank == meta["dora"]["r"] == meta["dora"]["lora_alpha"]
    assert error(transformer, expected, "y_dora") < TOLERANCE
    for module in adapter_layers(transformer).values():
        module.lora_variant["default"] = DoraLinearVariant()
    assert error(transformer, expected, "y_dora") < TOLERANCE


def test_dora_merged(transformer: WanTransformer3DModel, adapter: Adapter, expected: dict[str, Tensor]) -> None:
    merge_adapter(transformer, adapter)
    weights = dit_to_original(transformer.state_dict())
    recorded = [name for name in expected if name.startswith("merged.")]
    assert recorded
    for name in recorded:
        assert (weights[name.removeprefix("merged.")] - expected[name]).abs().max() < TOLERANCE
    assert error(transformer, expected, "y_dora_merged") < TOLERANCE


def test_acceleration_lora_after_dora(
    transformer: WanTransformer3DModel, adapter: Adapter, expected: dict[str, Tensor], golden_file: Callable[[str], Path]
) -> None:
    merge_adapter(transformer, adapter)
    merge_acceleration_lora(transformer, read_tensors(golden_file("dit_accel_lora.safetensors")))
    assert error(transformer, expected, "y_dora_accel") < TOLERANCE
