"""What inspect says of good files, and that it finds each kind of damage."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from wan_alpha import cli
from wan_alpha.checkpoints.examine import examine, groups
from wan_alpha.checkpoints.files import read_tensors, sha256, write_tensors
from wan_alpha.checkpoints.originals import dit_to_original
from wan_alpha.checkpoints.stage1 import read_stage1
from wan_alpha.checkpoints.vae_layout import to_original
from wan_alpha.config import BaseSourceConfig, InspectConfig
from wan_alpha.errors import CheckpointError, UsageError
from wan_alpha.inspect_file import DIFFSYNTH, FileReport, inspect
from wan_alpha.models.load import load_vae
from wan_alpha.models.rgba_vae import build_rgba_vae
from wan_alpha.models.sources import resolve_base, tiny_folder

Q = "blocks.0.self_attn.q"


def report(path: Path, depth: str = "auto") -> FileReport:
    (found,) = inspect(InspectConfig(source=(path,), depth=depth)).reports
    return found


def test_the_shipped_adapter() -> None:
    path = tiny_folder() / "adapter.safetensors"
    found = report(path)
    assert found.problems == ()
    expected = {"is": "a DiT adapter", "stage": "Stage 2, DoRA", "layout": "adapter", "fits": "tiny", "rank": "28"}
    assert {name: found.facts[name] for name in expected} == expected
    assert (found.facts["metadata noise_shift"], found.facts["types"]) == ("0.05", "float16 x 180")
    assert found.facts["sha256 adapter.safetensors"] == sha256(path)
    assert "blocks.*.ffn.0.lora_A.default.weight (28, 160) float16 x 6" in found.tensors
    headers = report(path, depth="headers")
    assert "sha256 adapter.safetensors" not in headers.facts
    assert "--depth full" in headers.facts["contents"]


def test_the_shipped_stage1_and_base() -> None:
    stage1 = report(tiny_folder() / "stage1.safetensors")
    assert (stage1.problems, stage1.facts["layout"], stage1.facts["fits"]) == ((), "stage1", "tiny's VAE")
    dit = report(tiny_folder() / "transformer")
    assert (dit.problems, dit.facts["fits"]) == ((), "tiny")
    assert "no model that it knows" in dit.facts["DiffSynth hash"]


@pytest.mark.parametrize(
    ("sizes", "name"),
    [
        (dict(num_attention_heads=12, ffn_dim=8960, num_layers=30), "Wan2.1 T2V 1.3B"),
        (dict(num_attention_heads=40, ffn_dim=13824, num_layers=40), "Wan2.1 T2V 14B"),
        (None, "Wan2.1's VAE"),
    ],
)
def test_real_sizes_on_the_meta_device(sizes: dict | None, name: str) -> None:
    from diffusers import AutoencoderKLWan, WanTransformer3DModel

    from wan_alpha.checkpoints.originals import layout_md5

    with torch.device("meta"):
        if sizes is None:
            tensors = to_original(AutoencoderKLWan().state_dict(), num_res_blocks=2)
        else:
            tensors = dit_to_original(WanTransformer3DModel(**sizes).state_dict())
    assert len(tensors) == {"Wan2.1's VAE": 194, "Wan2.1 T2V 1.3B": 825, "Wan2.1 T2V 14B": 1095}[name]
    assert examine(tensors, metadata={}).base == name
    assert DIFFSYNTH[layout_md5(tensors)] == name.replace("'s", "")
    assert len(groups(tensors)) < len(tensors) / (1 if sizes is None else 10) + 1


Damage = Callable[[dict[str, Tensor]], dict[str, Tensor]]
DAMAGES: dict[str, tuple[Damage, str]] = {
    "half": (lambda t: {k: v for k, v in t.items() if k != f"{Q}.lora_B.default.weight"}, f"{Q}: no lora_B"),
    "magnitude": (lambda t: {k: v for k, v in t.items() if k != f"{Q}.lora_magnitude_vector.default.weight"}, "magnitude missing"),
    "nan": (lambda t: {k: v / 0 if k.startswith(Q) else v for k, v in t.items()}, "are NaN or infinite"),
    "ranks": (lambda t: {k: _of_rank_1(k, v) if k.startswith(Q) else v for k, v in t.items()}, r"mixed ranks \[1, 3\]"),
    "prefix": (lambda t: {f"pipe.dit.{k}": v for k, v in t.items()}, "prefix pipe.dit. belongs to no published layout"),
    "comfyui": (lambda t: {f"diffusion_model.{k}": v for k, v in t.items()}, "ComfyUI ignores lora_magnitude_vector"),
    "shape": (lambda t: {k: v[:2] if k == f"{Q}.lora_A.default.weight" else v for k, v in t.items()}, "do not multiply"),
    "foreign": (lambda t: {**t, "surprise": torch.ones(1)}, "surprise: no adapter's name"),
}


def _of_rank_1(key: str, tensor: Tensor) -> Tensor:
    return tensor[:1] if "lora_A" in key else tensor[:, :1] if "lora_B" in key else tensor


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_adapters(small: Path, tmp_path: Path, name: str) -> None:
    damage, message = DAMAGES[name]
    tensors = read_tensors(small / "epoch-2.safetensors")
    write_tensors(tmp_path / "a.safetensors", damage(tensors), metadata={})
    assert report(small / "epoch-2.safetensors").problems == ()
    found = report(tmp_path / "a.safetensors")
    assert any(re.search(message, problem) for problem in found.problems), found.problems


def test_what_save_pretrained_writes(small: Path, tmp_path: Path) -> None:
    parts = read_stage1(small / "stage1_epoch_4.safetensors")
    vae = load_vae(resolve_base(BaseSourceConfig(model=str(small / "base"))), dtype=torch.float32, device="cpu")
    build_rgba_vae(vae, merge=parts, decoder_lora=parts).save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    found = report(path)
    assert (found.problems, found.facts["is"]) == ((), "an RGBA VAE, decoders merged")
    assert (found.facts["layout"], found.facts["fits"]) == (
        "diffusers, as save_pretrained writes it",
        "a VAE of base_dim 4 and z_dim 2",
    )
    tensors = {key: tensor for key, tensor in read_tensors(path).items() if not key.startswith("merge_block.")}
    tensors.pop("alpha_decoder.conv_in.bias")
    write_tensors(path, {**tensors, "surprise": torch.ones(1)}, metadata={})
    assert report(path).problems == ("no merge_block.*", "conv_in.bias: in one decoder only", "surprise: no tensor of an RGBA VAE")


def test_other_problems(small: Path, tmp_path: Path) -> None:
    whole = (small / "epoch-2.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-10])
    assert "cannot be read" in report(tmp_path / "cut.safetensors").problems[0]
    torch.save({"x": object}, tmp_path / "evil.bin")
    assert "pickled objects" in report(tmp_path / "evil.bin").problems[0]
    write_tensors(tmp_path / "odd.safetensors", {"x": torch.ones(1)}, metadata={})
    assert report(tmp_path / "odd.safetensors").problems == ("no layout that is known here",)
    lora = {key: tensor for key, tensor in read_tensors(small / "stage1_epoch_4.safetensors").items() if "vae_" in key}
    lora.pop(next(key for key in lora if "vae_pha" in key and "lora_B" in key))
    write_tensors(tmp_path / "decoder.bin", lora, metadata={})
    assert any("no lora_B beside it" in problem for problem in report(tmp_path / "decoder.bin").problems)
    dit = read_tensors(next((small / "base" / "transformer").glob("*.safetensors")))
    dit.pop("proj_out.bias")
    write_tensors(tmp_path / "dit.safetensors", dit, metadata={})
    assert any("1 missing (head.head.bias)" in problem for problem in report(tmp_path / "dit.safetensors").problems)
    with pytest.raises(CheckpointError, match="no such file"):
        report(tmp_path / "none.safetensors")
    with pytest.raises(UsageError, match="no source"):
        inspect(InspectConfig())


def test_folders_and_missing_shards(small: Path, tmp_path: Path) -> None:
    from wan_alpha.config import ConvertConfig
    from wan_alpha.convert.run import convert

    base = small / "base"
    convert(ConvertConfig(source=(base / "transformer",), to="merged", output_path=tmp_path, max_shard_gib=30_000 / 2**30))
    found = report(tmp_path)
    assert (found.path.name, found.problems) == ("diffusion_pytorch_model.safetensors.index.json", ())
    shard = sorted(tmp_path.glob("*.safetensors"))[-1]
    shard.unlink()
    assert f"shard {shard.name} is missing" in report(tmp_path).problems
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="without weights"):
        report(tmp_path / "empty")


def test_the_command_line_exits_with_2_on_problems(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(tiny_folder() / "adapter.safetensors")]) == 0
    assert "fits: tiny" in capsys.readouterr().out
    write_tensors(tmp_path / "odd.safetensors", {"x": torch.ones(1)}, metadata={})
    assert cli.main(["inspect", str(tmp_path / "odd.safetensors")]) == 2
    assert "PROBLEM: no layout that is known here" in capsys.readouterr().out
    assert cli.main(["inspect", "--recipe", "tiny"]) == 2
    assert "it is no stage" in capsys.readouterr().err
