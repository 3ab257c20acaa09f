"""Stage 1: the RGBA VAE into every layout and back, and as the folders that diffusers and ComfyUI read."""

import itertools
from pathlib import Path

import pytest
import torch

from converting import HOW, close, run, stage1_of
from small_weights import LORA_RANK
from wan_alpha.checkpoints.files import read_metadata, read_tensors, write_tensors
from wan_alpha.checkpoints.folders import COMFYUI_VAES, STAGE1_FILE
from wan_alpha.checkpoints.stage1 import read_stage1
from wan_alpha.config import BaseSourceConfig
from wan_alpha.errors import CheckpointError, UsageError
from wan_alpha.models.load import load_vae
from wan_alpha.models.rgba_vae import RGBAlphaVAE, build_rgba_vae
from wan_alpha.models.sources import resolve_base

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
