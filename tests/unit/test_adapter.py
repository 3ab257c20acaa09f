"""Files of Stage 2: the published layout, its variants, and what is refused."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from wan_alpha.checkpoints.adapter import layer_tensors, parse_adapter, read_adapter, write_adapter
from wan_alpha.checkpoints.files import write_tensors
from wan_alpha.errors import CheckpointError

MODULES = {"blocks.0.self_attn.q": (6, 6), "blocks.0.ffn.0": (10, 6), "blocks.0.ffn.2": (6, 10)}


def tensors(rank: int = 2) -> dict[str, Tensor]:
    found = {}
    for module, (outputs, inputs) in MODULES.items():
        found[f"{module}.lora_A.default.weight"] = torch.randn(rank, inputs)
        found[f"{module}.lora_B.default.weight"] = torch.randn(outputs, rank)
        found[f"{module}.lora_magnitude_vector.default.weight"] = torch.rand(outputs)
    return found


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def test_round_trip_with_metadata(tmp_path: Path) -> None:
    original = tensors()
    write_adapter(tmp_path / "epoch-0.safetensors", original, metadata={"noise_shift": "0.05", "max_sequence_length": "128"})
    adapter = read_adapter(tmp_path / "epoch-0.safetensors")
    assert same(layer_tensors(adapter), original)
    assert (adapter.kind, adapter.rank, adapter.noise_shift, adapter.max_sequence_length) == ("dora", 2, 0.05, 128)
    assert list(tmp_path.iterdir()) == [tmp_path / "epoch-0.safetensors"]


def test_published_files_without_metadata(tmp_path: Path) -> None:
    write_tensors(tmp_path / "t2v.safetensors", tensors(), metadata={})
    adapter = read_adapter(tmp_path / "t2v.safetensors")
    assert (adapter.noise_shift, adapter.max_sequence_length) == (None, None)


@pytest.mark.parametrize(
    "rename",
    [
        lambda key: f"pipe.dit.{key}",
        lambda key: f"diffusion_model.{key}",
        lambda key: f"base_model.model.{key}",
        lambda key: key.replace(".default", ""),
        lambda key: key.replace(".default", ".other"),
        lambda key: "diffusion_model." + key.replace(".default", ""),
        lambda key: key.replace("magnitude_vector.default.weight", "magnitude_vector"),
        lambda key: key.replace("lora_A.default", "lora_down").replace("lora_B.default", "lora_up"),
        lambda key: (
            "transformer." + key.replace("self_attn.q", "attn1.to_q").replace("ffn.0", "ffn.net.0.proj").replace("ffn.2", "ffn.net.2")
        ),
    ],
)
def test_variants_of_the_names(rename) -> None:
    original = tensors()
    assert same(layer_tensors(parse_adapter({rename(key): tensor for key, tensor in original.items()}, source="file")), original)


def test_comfyui_dora_scale_is_the_magnitude_as_a_column() -> None:
    original = tensors()
    renamed = {}
    for key, tensor in original.items():
        name = "diffusion_model." + key.replace(".default", "")
        is_magnitude = "magnitude" in key
        renamed[name.replace("lora_magnitude_vector.weight", "dora_scale") if is_magnitude else name] = (
            tensor[:, None] if is_magnitude else tensor
        )
    assert same(layer_tensors(parse_adapter(renamed, source="file")), original)


def test_alpha_is_folded_into_lora_b() -> None:
    original = {key: tensor for key, tensor in tensors(rank=2).items() if "magnitude" not in key}
    with_alpha = {**original, **{f"{module}.alpha": torch.tensor(1.0) for module in MODULES}}
    adapter = parse_adapter(with_alpha, source="file")
    assert adapter.kind == "lora"
    assert torch.equal(adapter.layers["blocks.0.ffn.0"].lora_B, original["blocks.0.ffn.0.lora_B.default.weight"] / 2)


def test_mixed_ranks_cannot_be_trained_on() -> None:
    found = tensors(2) | {key: tensor for key, tensor in tensors(3).items() if "ffn.0" in key}
    adapter = parse_adapter(found, source="file")
    with pytest.raises(CheckpointError, match=r"layers of ranks \[2, 3\]"):
        adapter.rank  # noqa: B018 - the property raises


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            ["vae_fgr.decoder.conv1.conv3D.lora_A.default.weight"],
            r"got a decoder LoRA .* use --feature_merge_checkpoint or --vae_lora_path",
        ),
        (["middle.block.conv1.weight", "vae_fgr.decoder.conv1.conv3D.lora_A.default.weight"], "a full Stage-1 checkpoint"),
        (["blocks.0.self_attn.q.weight"], r"got a DiT \(1 tensors\), with blocks.0.self_attn.q.weight"),
        (["blocks.0.self_attn.q.lora_up.weight", "blocks.0.norm3.diff_b"], "an acceleration LoRA .* use --acceleration_lora"),
        (["decoder.upsamples.0.residual.0.gamma"], "an original VAE"),
        (["blocks.0.self_attn.q.lora_A.default.weight"], "q without lora_B"),
        ([], "an empty file"),
    ],
)
def test_other_files_are_refused(keys: list[str], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        parse_adapter({key: torch.zeros(2, 2) for key in keys}, source="file")


def test_incomplete_layers_are_refused() -> None:
    some = tensors()
    del some["blocks.0.ffn.0.lora_magnitude_vector.default.weight"]
    with pytest.raises(CheckpointError, match="1 of 3 layers without magnitude"):
        parse_adapter(some, source="file")
    wrong = tensors() | {"blocks.0.ffn.0.lora_B.default.weight": torch.zeros(10, 5)}
    with pytest.raises(CheckpointError, match=r"lora_A \(2, 6\), lora_B \(10, 5\)"):
        parse_adapter(wrong, source="file")
    twice = tensors() | {"pipe.dit.blocks.0.ffn.0.lora_A.default.weight": torch.zeros(2, 6)}
    with pytest.raises(CheckpointError, match="twice"):
        parse_adapter(twice, source="file")


def test_only_the_published_layout_is_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"got keys such as pipe.dit"):
        write_adapter(tmp_path / "epoch-0.safetensors", {f"pipe.dit.{key}": tensor for key, tensor in tensors().items()}, metadata={})
    assert not list(tmp_path.iterdir())
