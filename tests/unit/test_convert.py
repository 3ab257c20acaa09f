"""Every layout into every other, with the consumers that can be installed, and ComfyUI's arithmetic written from its formula."""

import itertools
import json
import os
from pathlib import Path

import pytest
import torch
from diffusers import UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from peft import PeftModel
from torch import Tensor

from small_weights import LORA_RANK, RANK, write_small_weights
from wan_alpha.checkpoints import streams
from wan_alpha.checkpoints.adapter import layer_tensors, read_adapter, write_adapter
from wan_alpha.checkpoints.comfyui_workflow import WorkflowSettings, workflow
from wan_alpha.checkpoints.files import read_metadata, read_tensors, write_tensors
from wan_alpha.checkpoints.folders import COMFYUI_LORA, COMFYUI_VAES, COMFYUI_WORKFLOW, STAGE1_FILE
from wan_alpha.checkpoints.originals import dit_diffusers_name, dit_to_original, layout_md5
from wan_alpha.checkpoints.stage1 import read_stage1
from wan_alpha.config import LAYOUTS, BaseSourceConfig, ConvertConfig
from wan_alpha.convert.run import ConvertReport, convert
from wan_alpha.errors import CheckpointError, UsageError
from wan_alpha.models.load import load_transformer, load_vae
from wan_alpha.models.merge import merge_acceleration_lora, merge_adapter
from wan_alpha.models.rewrite import best_factors
from wan_alpha.models.rgba_vae import RGBAlphaVAE, build_rgba_vae
from wan_alpha.models.sources import resolve_base

HOW = {"dtype": torch.float32, "device": "cpu"}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    write_small_weights(folder)
    return folder


@pytest.fixture
def base(small: Path) -> WanTransformer3DModel:
    return load_transformer(resolve_base(BaseSourceConfig(model=str(small / "base"))), **HOW)


def run(small: Path, *sources: Path, to: str, out: Path, **options: object) -> ConvertReport:
    return convert(ConvertConfig(source=sources, to=to, output_path=out, model=str(small / "base"), device="cpu", **options))


def one(folder: Path) -> Path:
    (path,) = [path for path in folder.rglob("*.safetensors")] + [path for path in folder.rglob("*.bin")]
    return path


def close(left: dict[str, Tensor], right: dict[str, Tensor], *, atol: float = 1e-5) -> bool:
    return left.keys() == right.keys() and all(torch.allclose(left[key], right[key], atol=atol) for key in left)


def adapter_of(small: Path) -> Path:
    return small / "epoch-2.safetensors"


def stage1_of(small: Path) -> Path:
    return small / "stage1_epoch_4.safetensors"


def merged(base: WanTransformer3DModel, small: Path) -> dict[str, Tensor]:
    return dit_to_original(merge_adapter(base, read_adapter(adapter_of(small))).state_dict())


STAGE2 = {
    "adapter": {"to": "adapter"},
    "diffusers": {"to": "diffusers"},
    "comfyui": {"to": "comfyui"},
    "comfyui, norm of the base": {"to": "comfyui", "comfyui_norm": "base"},
}


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(STAGE2, 2)))
def test_adapters_through_every_pair_of_layouts(small: Path, tmp_path: Path, first: str, second: str) -> None:
    run(small, adapter_of(small), out=tmp_path / "1", **STAGE2[first])
    run(small, tmp_path / "1", out=tmp_path / "2", **STAGE2[second]) if first != "adapter" else run(
        small, one(tmp_path / "1"), out=tmp_path / "2", **STAGE2[second]
    )
    source = tmp_path / "2" if second != "adapter" else one(tmp_path / "2")
    run(small, source, to="adapter", out=tmp_path / "back.safetensors")
    assert close(read_tensors(tmp_path / "back.safetensors"), read_tensors(adapter_of(small)))
    metadata = read_metadata(tmp_path / "back.safetensors")
    assert (metadata["noise_shift"], metadata["rank"], metadata["kind"]) == ("0.05", str(RANK), "dora")
    assert "comfyui_norm" not in metadata


PLAIN_LORA = ("adapter", "diffusers", "comfyui", "lora")


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(PLAIN_LORA, 2)))
def test_plain_lora_through_every_pair_of_layouts(small: Path, tmp_path: Path, first: str, second: str) -> None:
    """No layout but `merged` needs the base or changes a value: the factors come back to the bit."""
    source = plain_lora(small, tmp_path)
    for step in (first, second, "adapter"):
        run(small, source, to=step, out=tmp_path / "steps" / step, comfyui_norm="base", max_residual=0.0)
        source = tmp_path / "steps" / step if step in ("diffusers", "comfyui") else one(tmp_path / "steps" / step)
    before, after = read_tensors(tmp_path / "lora.safetensors"), read_tensors(source)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    metadata = read_metadata(source)
    assert (metadata["noise_shift"], metadata["rank"], metadata["kind"]) == ("0.05", str(RANK), "lora")
    assert "comfyui_norm" not in metadata


def plain_lora(small: Path, folder: Path) -> Path:
    """What `train-dit --adapter lora` writes."""
    tensors = {key: tensor for key, tensor in read_tensors(adapter_of(small)).items() if "magnitude" not in key}
    assert len(tensors) == 40
    write_adapter(folder / "lora.safetensors", tensors, metadata={"noise_shift": "0.05", "rank": str(RANK)})
    return folder / "lora.safetensors"


STAGE1 = ("stage1", "diffusers", "comfyui", "parts")


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(STAGE1, 2)))
def test_stage1_through_every_pair_of_layouts(small: Path, tmp_path: Path, first: str, second: str) -> None:
    """Compared as merged VAEs and merge blocks: factors out of merged files are others with the same product."""
    sources: tuple[Path, ...] = (stage1_of(small),)
    for step in (first, second):
        sources = into(small, sources, step, tmp_path / step)
    run(small, *sources, to="stage1", out=tmp_path / "back.safetensors", rank=LORA_RANK)
    before, after = read_tensors(stage1_of(small)), read_tensors(tmp_path / "back.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before if key.startswith("middle."))
    for key in before:
        if ".lora_A." in key:
            twin = key.replace(".lora_A.", ".lora_B.")
            products = [found[twin].flatten(1) @ found[key].flatten(1) for found in (before, after)]
            assert torch.allclose(*products, atol=1e-5), key


def into(small: Path, sources: tuple[Path, ...], layout: str, out: Path) -> tuple[Path, ...]:
    """A layout that loses the merge block is kept with it beside."""
    if layout in ("stage1", "diffusers"):
        run(small, *sources, to="stage1", out=out / "s.safetensors", rank=LORA_RANK)
        if layout == "stage1":
            return (out / "s.safetensors",)
        run(small, out / "s.safetensors", to="diffusers", out=out / "d")
        return (out / "d",)
    run(small, *sources, to="stage1", out=out / "s.safetensors", rank=LORA_RANK)
    run(small, out / "s.safetensors", to="merge-block", out=out)
    merge = next(out.glob("feature_merge_*.safetensors"))
    if layout == "parts":
        run(small, out / "s.safetensors", to="decoder-lora", out=out)
        return (merge, out / "decoder.bin")
    run(small, out / "s.safetensors", to="comfyui", out=out / "c")
    return (merge, out / "c")


def rgba_vae_of(small: Path) -> RGBAlphaVAE:
    parts = read_stage1(stage1_of(small))
    return build_rgba_vae(load_vae(resolve_base(BaseSourceConfig(model=str(small / "base"))), **HOW), merge=parts, decoder_lora=parts)


def test_from_pretrained_reads_the_diffusers_folder(small: Path, tmp_path: Path) -> None:
    run(small, stage1_of(small), to="diffusers", out=tmp_path)
    folder = tmp_path / STAGE1_FILE.parent
    found, expected = RGBAlphaVAE.from_pretrained(folder), rgba_vae_of(small)
    latents, clip = torch.randn(1, 2, 2, 2, 2), torch.rand(1, 3, 3, 4, 4)
    for ours, theirs in zip(found.decode_raw(latents), expected.decode_raw(latents), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
    assert torch.allclose(found.encode(clip, clip), expected.encode(clip, clip), atol=1e-5)
    assert not any(parameter.requires_grad for parameter in found.parameters())
    assert RGBAlphaVAE.from_pretrained(folder, torch_dtype=torch.bfloat16).dtype == torch.bfloat16
    (tmp_path / "vae" / "config.json").rename(tmp_path / "kept.json")
    with pytest.raises(CheckpointError, match="expected the base VAE; keep vae/ beside rgba_vae/"):
        RGBAlphaVAE.from_pretrained(folder)
    for text, message in (('{"_class_name": "RGBAlphaVAE"}', "no word of the base VAE.*--to diffusers"), ("{", "no JSON")):
        (folder / "config.json").write_text(text)
        with pytest.raises(CheckpointError, match=message):
            RGBAlphaVAE.from_pretrained(folder)


def test_from_pretrained_names_the_reader_of_one_part_alone(small: Path, tmp_path: Path) -> None:
    run(small, stage1_of(small), to="merge-block", out=tmp_path / "m.safetensors")
    run(small, tmp_path / "m.safetensors", to="diffusers", out=tmp_path / "d")
    with pytest.raises(CheckpointError, match=r"got no decoder LoRA.*--feature_merge_checkpoint"):
        RGBAlphaVAE.from_pretrained(tmp_path / "d" / STAGE1_FILE.parent)


@pytest.mark.parametrize("place", ["rgba_vae", "", "rgba_vae/diffusion_pytorch_model.safetensors"])
def test_what_save_pretrained_writes_is_read_as_folder_pipeline_and_file(small: Path, tmp_path: Path, place: str) -> None:
    rgba_vae_of(small).save_pretrained(tmp_path / "rgba_vae")
    report = run(small, tmp_path / place, to="merge-block", out=tmp_path / "m.safetensors")
    merge = {key: tensor for key, tensor in read_tensors(stage1_of(small)).items() if key.startswith("middle.")}
    assert close(read_tensors(tmp_path / "m.safetensors"), merge, atol=0)
    assert len(report.left_out) == 1


def test_what_save_pretrained_writes_is_converted_to_the_other_folders(small: Path, tmp_path: Path) -> None:
    source, latents = tmp_path / "rgba_vae", torch.randn(1, 2, 2, 2, 2)
    rgba_vae_of(small).save_pretrained(source)
    assert run(small, source, to="diffusers", out=tmp_path / "d", rank=LORA_RANK).left_out == ()
    again = RGBAlphaVAE.from_pretrained(tmp_path / "d" / "rgba_vae").decode_raw(latents)
    for ours, theirs in zip(again, rgba_vae_of(small).decode_raw(latents), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)
    run(small, source, to="comfyui", out=tmp_path / "c")
    run(small, stage1_of(small), to="comfyui", out=tmp_path / "expected")
    for path in COMFYUI_VAES.values():
        assert close(read_tensors(tmp_path / "c" / path), read_tensors(tmp_path / "expected" / path))
        assert read_metadata(tmp_path / "c" / path)["latents_std"] == "[2.0, 3.0]"
    with pytest.raises(UsageError, match="--rank: got none"):
        run(small, source, to="stage1", out=tmp_path / "s.safetensors")


def test_usual_names_and_what_is_left_out(small: Path, tmp_path: Path) -> None:
    report = run(small, stage1_of(small), to="merge-block", out=tmp_path)
    assert [path.name for path in report.written] == ["feature_merge_epoch_4.safetensors"]
    lora = sum(key.startswith("vae_") for key in read_tensors(stage1_of(small)))
    assert report.left_out == (f"decoder LoRA ({lora} tensors)",)
    assert any(line.startswith("left out: decoder LoRA") for line in report.summary)
    baggage = {**read_tensors(stage1_of(small)), "vae_pha.conv2.bias": torch.ones(1)}
    write_tensors(tmp_path / "run.safetensors", baggage, metadata={})
    report = run(small, tmp_path / "run.safetensors", to="stage1", out=tmp_path / "s.safetensors")
    assert report.left_out == ("1 frozen tensors of a training run in run.safetensors",)


def test_comfyui_vaes_are_whole_vaes_under_the_original_keys(small: Path, tmp_path: Path) -> None:
    from wan_alpha.checkpoints.stage1 import read_stage1
    from wan_alpha.checkpoints.vae_layout import to_original
    from wan_alpha.models.rgba_vae import build_rgba_vae

    run(small, stage1_of(small), to="comfyui", out=tmp_path)
    vae = load_vae(resolve_base(BaseSourceConfig(model=str(small / "base"))), **HOW)
    rgba = build_rgba_vae(vae, decoder_lora=read_stage1(stage1_of(small)))
    latents = torch.randn(1, 2, 2, 2, 2)
    for which, decoded in zip(("rgb", "alpha"), rgba.decode_raw(latents), strict=True):
        path = tmp_path / COMFYUI_VAES[which]
        assert read_tensors(path).keys() == to_original(vae.state_dict(), num_res_blocks=1).keys()
        stock = load_vae(resolve_base(BaseSourceConfig(model=str(small / "base"), base_vae_path=path)), **HOW)
        assert torch.allclose(stock.decode(latents).sample, decoded.clamp(-1, 1), atol=1e-5)
        assert list(stock.config["latents_std"]) == [2.0, 3.0]


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


def test_cut_rank_in_half_precision(small: Path, tmp_path: Path) -> None:
    run(small, adapter_of(small), to="adapter", out=tmp_path / "a.safetensors", rank=2, dtype="float16", max_residual=1.0)
    cut = read_adapter(tmp_path / "a.safetensors")
    assert (cut.rank, cut.kind, cut.metadata["rank"]) == (2, "dora", "2")
    assert {tensor.dtype for tensor in layer_tensors(cut).values()} == {torch.float16}
    with pytest.raises(CheckpointError, match="rank 3, expected at least --rank 9"):
        run(small, adapter_of(small), to="adapter", out=tmp_path / "b.safetensors", rank=9)


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


def test_a_peft_adapter_of_another_scale_is_folded(small: Path, tmp_path: Path) -> None:
    run(small, adapter_of(small), to="diffusers", out=tmp_path / "d")
    (tmp_path / "d" / "pytorch_lora_weights.safetensors").unlink()
    config = tmp_path / "d" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "lora_alpha": 2 * RANK}))
    run(small, tmp_path / "d", to="adapter", out=tmp_path / "a.safetensors")
    once, twice = (read_adapter(path).layers["blocks.0.ffn.0"].lora_B for path in (adapter_of(small), tmp_path / "a.safetensors"))
    assert torch.equal(twice, 2 * once)
    config.write_text(json.dumps({**json.loads(config.read_text()), "alpha_pattern": {"x": 1}}))
    with pytest.raises(CheckpointError, match="alpha_pattern"):
        run(small, tmp_path / "d", to="adapter", out=tmp_path / "a.safetensors")


def test_both_stages_in_one_folder(small: Path, tmp_path: Path) -> None:
    report = run(small, stage1_of(small), adapter_of(small), to="comfyui", out=tmp_path / "c", acceleration_lora=Path("fast.safetensors"))
    assert {path.relative_to(tmp_path / "c") for path in report.written} == {COMFYUI_LORA, *COMFYUI_VAES.values(), COMFYUI_WORKFLOW}
    assert any("noise_shift 0.05" in note for note in report.notes)
    nodes = json.loads((tmp_path / "c" / COMFYUI_WORKFLOW).read_text())
    assert nodes["acceleration"]["inputs"] == {"model": ["adapter", 0], "lora_name": "fast.safetensors", "strength_model": 1.0}
    run(small, stage1_of(small), adapter_of(small), to="diffusers", out=tmp_path / "d")
    assert (tmp_path / "d" / STAGE1_FILE).is_file()
    vae = load_vae(resolve_base(BaseSourceConfig(model=str(tmp_path / "d"))), **HOW)
    assert vae.config.z_dim == 2


@pytest.mark.parametrize("fast", [None, "fast.safetensors"])
def test_the_workflow_is_a_closed_graph(fast: str | None) -> None:
    nodes = workflow(WorkflowSettings(acceleration_lora=fast))
    for node in nodes.values():
        links = [value for value in node["inputs"].values() if isinstance(value, list)]
        assert all(target in nodes and slot == 0 for target, slot in links)
    classes = [node["class_type"] for node in nodes.values()]
    assert (classes.count("VAELoader"), classes.count("VAEDecode"), classes.count("LoraLoaderModelOnly")) == (2, 2, 1 + (fast is not None))
    assert {"UNETLoader", "CLIPLoader", "KSampler", "InvertMask", "JoinImageWithAlpha"} <= set(classes)
    assert (nodes["sample"]["inputs"]["steps"], nodes["sample"]["inputs"]["cfg"]) == ((4, 1.0) if fast else (50, 5.0))


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("decoder.bin", {"to": "merge-block"}, r"got decoder LoRA, expected for --to merge-block: merge block; from this can be made:"),
        ("epoch-2.safetensors", {"to": "stage1"}, "for --to stage1: merge block and decoder LoRA or"),
        ("epoch-2.safetensors", {"to": "adpter"}, "did you mean 'adapter'"),
        ("epoch-2.safetensors", {"to": None}, "--to: got no layout"),
        ("epoch-2.safetensors", {"to": "comfyui", "output_path": Path("x.safetensors")}, "expected a folder"),
        ("epoch-2.safetensors", {"to": "adapter", "output_path": Path("x.bin")}, r"expected \.safetensors"),
        ("epoch-2.safetensors", {"to": "adapter", "adapter_strength": 0.5}, "--adapter_strength"),
        ("epoch-2.safetensors", {"to": "adapter", "acceleration_lora": Path("x")}, "--acceleration_lora"),
        ("epoch-2.safetensors", {"to": "merged", "model": "tiny"}, r"a change of blocks.0.cross_attn.k.weight \(24, 24\).*--model"),
        ("base", {"to": "adapter"}, "a folder of none of the layouts"),
        ("base/vae/diffusion_pytorch_model.safetensors", {"to": "adapter"}, "a diffusers VAE.*--base_vae_path"),
        ("comfyui", {"to": "decoder-lora"}, "--rank: got none"),
    ],
)
def test_what_cannot_be_converted(small: Path, tmp_path: Path, source: str, options: dict, message: str) -> None:
    if source in ("decoder.bin", "comfyui"):
        run(small, stage1_of(small), to="decoder-lora" if source == "decoder.bin" else "comfyui", out=tmp_path / source)
    path = tmp_path / source if source in ("decoder.bin", "comfyui") else small / source
    config = {"output_path": tmp_path / "out", "model": str(small / "base"), **options}
    with pytest.raises((CheckpointError, UsageError), match=message):
        convert(ConvertConfig(source=(path,), device="cpu", **config))
    assert not (tmp_path / "out").exists()


def test_two_of_a_kind_and_the_source_itself(small: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a second adapter"):
        run(small, adapter_of(small), adapter_of(small), to="adapter", out=tmp_path)
    with pytest.raises(UsageError, match="the source itself"):
        run(small, adapter_of(small), to="adapter", out=adapter_of(small))
    with pytest.raises(UsageError, match="no source"):
        run(small, to="adapter", out=tmp_path)


def test_a_full_disk_leaves_nothing(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_args: object, **_kwargs: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(streams, "_header", full_disk)
        with pytest.raises(OSError, match="no space"):
            run(small, adapter_of(small), to="merged", out=tmp_path / "new" / "m.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr("wan_alpha.checkpoints.files.save_file", full_disk)
        with pytest.raises(OSError, match="no space"):
            run(small, stage1_of(small), adapter_of(small), to="comfyui", out=tmp_path / "c")
    assert os.listdir(tmp_path) == []


def test_layouts_have_one_table() -> None:
    from wan_alpha.convert.run import NEEDS

    assert NEEDS.keys() == LAYOUTS.keys()


def test_diffsynth_recognises_a_merged_file(tmp_path: Path) -> None:
    loader = pytest.importorskip("diffsynth.core.loader.file", reason="DiffSynth-Studio needs torchvision, which is not installed here")
    tensors = {dit_diffusers_name("blocks.0.ffn.0.weight"): torch.zeros(2, 3)}
    write_tensors(tmp_path / "m.safetensors", tensors, metadata={})
    assert loader.hash_model_file(str(tmp_path / "m.safetensors")) == layout_md5(tensors)
