"""What the transformer's weights become: merged, low-rank, in ComfyUI's arithmetic from its formula, and as its consumers load them."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from peft import PeftModel
from torch import Tensor

from converting import HOW, adapter_of, close, run
from wan_alpha.checkpoints.adapter import read_adapter
from wan_alpha.checkpoints.files import read_metadata, read_tensors, write_tensors
from wan_alpha.checkpoints.folders import COMFYUI_LORA
from wan_alpha.checkpoints.originals import dit_diffusers_name, dit_to_original, layout_md5
from wan_alpha.config import BaseSourceConfig
from wan_alpha.errors import CheckpointError
from wan_alpha.models.load import load_transformer
from wan_alpha.models.merge import merge_acceleration_lora, merge_adapter
from wan_alpha.models.rewrite import best_factors
from wan_alpha.models.sources import resolve_base


@pytest.fixture
def base(small: Path) -> WanTransformer3DModel:
    return load_transformer(resolve_base(BaseSourceConfig(model=str(small / "base"))), **HOW)


def merged(base: WanTransformer3DModel, small: Path) -> dict[str, Tensor]:
    return dit_to_original(merge_adapter(base, read_adapter(adapter_of(small))).state_dict())


def test_merged_has_the_original_keys_and_loads_as_a_base(small: Path, tmp_path: Path, base: WanTransformer3DModel) -> None:
    report = run(small, adapter_of(small), to="merged", out=tmp_path / "one")
    expected = merged(base, small)
    assert close(read_tensors(report.written[0]), expected)
    assert layout_md5(expected) in report.notes[0]
    run(small, adapter_of(small), to="merged", out=tmp_path / "bf16", dtype="bfloat16", max_shard_gib=30_000 / 2**30)
    index = json.loads((tmp_path / "bf16" / "diffusion_pytorch_model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == expected.keys()
    assert len(set(index["weight_map"].values())) > 1
    for folder, atol in (("one", 1e-5), ("bf16", 2e-2)):
        loaded = load_transformer(resolve_base(BaseSourceConfig(model=str(tmp_path / folder))), **HOW)
        assert close(dit_to_original(loaded.state_dict()), expected, atol=atol)
        assert loaded.config.num_attention_heads == 2


def test_strength_0_is_the_base(small: Path, tmp_path: Path, base: WanTransformer3DModel) -> None:
    run(small, adapter_of(small), to="merged", out=tmp_path / "m.safetensors", adapter_strength=0.0)
    found = read_tensors(tmp_path / "m.safetensors")
    assert all(torch.equal(found[key], tensor) for key, tensor in dit_to_original(base.state_dict()).items())


@pytest.mark.parametrize("order", ["adapter-first", "acceleration-first"])
def test_acceleration_lora_in_either_order(small: Path, tmp_path: Path, base: WanTransformer3DModel, order: str) -> None:
    fast = {
        "blocks.0.ffn.0.lora_down.weight": torch.randn(2, 24),
        "blocks.0.ffn.0.lora_up.weight": torch.randn(32, 2),
        "blocks.1.norm3.diff_b": torch.ones(24),
    }
    write_tensors(tmp_path / "fast.safetensors", fast, metadata={})
    adapter = read_adapter(adapter_of(small))
    steps = [lambda: merge_adapter(base, adapter), lambda: merge_acceleration_lora(base, fast)]
    for step in steps if order == "adapter-first" else steps[::-1]:
        step()
    options = {"acceleration_lora": tmp_path / "fast.safetensors", "order": order}
    run(small, adapter_of(small), to="merged", out=tmp_path / "m.safetensors", **options)
    assert close(read_tensors(tmp_path / "m.safetensors"), dit_to_original(base.state_dict()))
    assert read_metadata(tmp_path / "m.safetensors")["order"] == order
    run(small, adapter_of(small), to="lora", out=tmp_path / "l.safetensors", rank=24, **options)
    again = load_transformer(resolve_base(BaseSourceConfig(model=str(small / "base"))), **HOW)
    merge_acceleration_lora(again, read_tensors(tmp_path / "l.safetensors"))
    assert close(dit_to_original(again.state_dict()), dit_to_original(base.state_dict()))


def test_plain_lora_by_singular_values(small: Path, tmp_path: Path, base: WanTransformer3DModel) -> None:
    before = {key: tensor.clone() for key, tensor in dit_to_original(base.state_dict()).items()}
    expected = merged(base, small)
    with pytest.raises(CheckpointError, match=r"residual .* expected at most 10\.00%; raise --rank"):
        run(small, adapter_of(small), to="lora", out=tmp_path / "l.safetensors", rank=1)
    assert not list(tmp_path.iterdir())
    report = run(small, adapter_of(small), to="lora", out=tmp_path / "l.safetensors", rank=8, max_residual=1.0)
    lora = read_adapter(tmp_path / "l.safetensors")
    missed = whole = 0.0
    for module, layer in lora.layers.items():
        delta = expected[f"{module}.weight"] - before[f"{module}.weight"]
        missed += (delta - layer.lora_B @ layer.lora_A).square().sum().item()
        whole += delta.square().sum().item()
    assert f"residual {(missed / whole) ** 0.5:.2%}" in report.notes[0]
    run(small, adapter_of(small), to="merged", out=tmp_path / "m.safetensors")
    run(small, tmp_path / "m.safetensors", to="lora", out=tmp_path / "m_lora.safetensors", rank=24)
    run(small, tmp_path / "m_lora.safetensors", to="merged", out=tmp_path / "back.safetensors")
    assert close(read_tensors(tmp_path / "back.safetensors"), expected)


def test_best_factors_of_large_matrices_are_nearly_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    delta = torch.randn(60, 8) @ torch.randn(8, 50) + 0.1 * torch.randn(60, 50)
    down, up = best_factors(delta, rank=5)
    exact = (delta - up @ down).norm()
    monkeypatch.setattr("wan_alpha.models.rewrite.EXACT_UP_TO", 10)
    down, up = best_factors(delta, rank=5)
    assert (delta - up @ down).norm() < 1.001 * exact


def comfyui_weight(weight: Tensor, tensors: dict[str, Tensor], module: str, *, divides_by: str) -> Tensor:
    """ComfyUI's published DoRA: (W + BA) dora_scale / norm, the norm of W in 2025's versions, of W + BA after the fix."""
    name = f"diffusion_model.{module}"
    adapted = weight + tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"]
    norm = (weight if divides_by == "base" else adapted).norm(dim=1, keepdim=True)
    return adapted * (tensors[f"{name}.dora_scale"] / norm)


@pytest.mark.parametrize("norm", ["adapted", "base"])
def test_comfyui_computes_the_adapters_weights(small: Path, tmp_path: Path, base: WanTransformer3DModel, norm: str) -> None:
    run(small, adapter_of(small), to="comfyui", out=tmp_path, comfyui_norm=norm)
    tensors = read_tensors(tmp_path / COMFYUI_LORA)
    assert read_metadata(tmp_path / COMFYUI_LORA)["comfyui_norm"] == norm
    before = {key: tensor.clone() for key, tensor in dit_to_original(base.state_dict()).items()}
    expected = merged(base, small)
    modules = [key.removesuffix(".dora_scale").removeprefix("diffusion_model.") for key in tensors if key.endswith(".dora_scale")]
    assert len(modules) == 20
    for module in modules:
        assert tensors[f"diffusion_model.{module}.dora_scale"].shape == (before[f"{module}.weight"].shape[0], 1)
        found = comfyui_weight(before[f"{module}.weight"], tensors, module, divides_by=norm)
        assert torch.allclose(found, expected[f"{module}.weight"], atol=1e-5), module
    if norm == "base":
        with pytest.raises(CheckpointError, match="--to adapter --model BASE"):
            read_adapter(tmp_path / COMFYUI_LORA)


def output(transformer: torch.nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    latents, context = torch.randn(1, 2, 2, 4, 6, generator=generator), torch.randn(1, 5, 12, generator=generator)
    with torch.no_grad():
        return transformer(latents, torch.tensor([500.0]), context, return_dict=False)[0]


def test_diffusers_and_peft_load_the_folder(small: Path, tmp_path: Path) -> None:
    run(small, adapter_of(small), to="diffusers", out=tmp_path)
    plain, for_pipe, for_model, for_peft = (
        load_transformer(resolve_base(BaseSourceConfig(model=str(small / "base"))), **HOW) for _ in range(4)
    )
    before = output(plain)
    expected = output(merge_adapter(plain, read_adapter(adapter_of(small))))
    assert (expected - before).abs().max() > 1e-2
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
    pipe = WanPipeline(tokenizer=None, text_encoder=None, vae=None, scheduler=scheduler, transformer=for_pipe)
    pipe.load_lora_weights(str(tmp_path))
    assert (output(pipe.transformer) - expected).abs().max() < 1e-5
    for_model.load_lora_adapter(str(tmp_path), weight_name="pytorch_lora_weights.safetensors")
    assert (output(for_model) - expected).abs().max() < 1e-5
    peft = PeftModel.from_pretrained(for_peft, str(tmp_path))
    assert (output(peft) - expected).abs().max() < 1e-5


def test_diffsynth_recognises_a_merged_file(tmp_path: Path) -> None:
    loader = pytest.importorskip("diffsynth.core.loader.file", reason="DiffSynth-Studio needs torchvision, which is not installed here")
    tensors = {dit_diffusers_name("blocks.0.ffn.0.weight"): torch.zeros(2, 3)}
    write_tensors(tmp_path / "m.safetensors", tensors, metadata={})
    assert loader.hash_model_file(str(tmp_path / "m.safetensors")) == layout_md5(tensors)
