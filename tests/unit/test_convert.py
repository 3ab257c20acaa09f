"""Adapters into every layout and back; whole folders; what is refused."""

import itertools
import json
import os
from pathlib import Path

import pytest
import torch

from converting import HOW, adapter_of, close, one, run, stage1_of
from small_weights import RANK
from wan_alpha.checkpoints import streams
from wan_alpha.checkpoints.adapter import layer_tensors, read_adapter, write_adapter
from wan_alpha.checkpoints.comfyui_workflow import WorkflowSettings, workflow
from wan_alpha.checkpoints.files import read_metadata, read_tensors
from wan_alpha.checkpoints.folders import COMFYUI_LORA, COMFYUI_VAES, COMFYUI_WORKFLOW, STAGE1_FILE
from wan_alpha.config import LAYOUTS, BaseSourceConfig, ConvertConfig
from wan_alpha.convert.run import convert
from wan_alpha.errors import CheckpointError, UsageError
from wan_alpha.models.load import load_vae
from wan_alpha.models.sources import resolve_base

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


def test_cut_rank_in_half_precision(small: Path, tmp_path: Path) -> None:
    run(small, adapter_of(small), to="adapter", out=tmp_path / "a.safetensors", rank=2, dtype="float16", max_residual=1.0)
    cut = read_adapter(tmp_path / "a.safetensors")
    assert (cut.rank, cut.kind, cut.metadata["rank"]) == (2, "dora", "2")
    assert {tensor.dtype for tensor in layer_tensors(cut).values()} == {torch.float16}
    with pytest.raises(CheckpointError, match="rank 3, expected at least --rank 9"):
        run(small, adapter_of(small), to="adapter", out=tmp_path / "b.safetensors", rank=9)


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
