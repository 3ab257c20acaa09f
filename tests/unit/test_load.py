"""Base models from folders, original files and the hub, on models of a few thousand weights."""

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import load_file, save_file
from transformers import ByT5Tokenizer, UMT5Config, UMT5EncoderModel

from wan_alpha.checkpoints.originals import dit_to_original, text_to_original
from wan_alpha.checkpoints.vae_layout import to_original
from wan_alpha.config import BaseModelConfig
from wan_alpha.errors import CheckpointError, UsageError
from wan_alpha.models.load import load_text_encoder, load_transformer, load_vae, resolve_base
from wan_alpha.models.sources import tiny_folder

HOW = {"dtype": torch.float32, "device": "cpu"}
STATISTICS = {"latents_mean": [0.5, -0.5], "latents_std": [2.0, 3.0]}


@pytest.fixture(scope="module")
def diffusers_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole base model in diffusers' layout."""
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    vae = AutoencoderKLWan(base_dim=4, z_dim=2, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[True], **STATISTICS)
    vae.save_pretrained(folder / "vae")
    sizes = dict(
        num_attention_heads=2, attention_head_dim=12, in_channels=2, out_channels=2, text_dim=12, freq_dim=8, ffn_dim=16, num_layers=2
    )
    WanTransformer3DModel(**sizes).save_pretrained(folder / "transformer", max_shard_size="12KB")
    text = UMT5Config(vocab_size=384, d_model=12, d_kv=4, d_ff=16, num_layers=2, num_heads=3)
    UMT5EncoderModel(text).save_pretrained(folder / "text_encoder")
    ByT5Tokenizer().save_pretrained(folder / "tokenizer")
    (folder / "model_index.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def original_folder(diffusers_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights as Wan's original files; the DiT in two shards."""
    models = tmp_path_factory.mktemp("models")
    folder = models / "Wan-AI" / "Wan-Small"
    folder.mkdir(parents=True)
    source = resolve_base(BaseModelConfig(model=str(diffusers_folder)))
    torch.save(to_original(load_vae(source, **HOW).state_dict(), num_res_blocks=1), folder / "Wan2.1_VAE.pth")
    torch.save(text_to_original(load_text_encoder(source, **HOW)[0].state_dict()), folder / "models_t5_umt5-xxl-enc-bf16.pth")
    dit = dit_to_original(load_transformer(source, **HOW).state_dict())
    for number, keys in enumerate((list(dit)[:20], list(dit)[20:]), start=1):
        save_file({key: dit[key].contiguous() for key in keys}, folder / f"diffusion_pytorch_model-0000{number}-of-00002.safetensors")
    shutil.copytree(diffusers_folder / "tokenizer", folder / "google" / "umt5-xxl")
    (folder / "config.json").write_text(json.dumps({"num_heads": 2, "eps": 1e-6, **STATISTICS}))
    return folder


def equal(left: torch.nn.Module, right: torch.nn.Module) -> bool:
    a, b = left.state_dict(), right.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_diffusers_folder_as_diffusers_loads_it(diffusers_folder: Path) -> None:
    source = resolve_base(BaseModelConfig(model=str(diffusers_folder)))
    vae, dit = load_vae(source, **HOW), load_transformer(source, **HOW)
    assert equal(vae, AutoencoderKLWan.from_pretrained(diffusers_folder / "vae"))
    assert equal(dit, WanTransformer3DModel.from_pretrained(diffusers_folder / "transformer"))
    assert len(source.weight_files()["transformer"]) > 1
    assert dict(vae.config)["latents_std"] == STATISTICS["latents_std"]
    for model in (vae, dit):
        assert not model.training
        assert not any(parameter.requires_grad or parameter.is_meta for parameter in model.parameters())
        assert not any(buffer.is_meta for buffer in model.buffers())


def test_text_encoder(diffusers_folder: Path) -> None:
    encoder, tokenizer = load_text_encoder(resolve_base(BaseModelConfig(model=str(diffusers_folder))), **HOW)
    expected = UMT5EncoderModel.from_pretrained(diffusers_folder / "text_encoder")
    assert isinstance(tokenizer, ByT5Tokenizer)
    assert equal(encoder, expected)
    tokens = tokenizer(["red ball"], return_tensors="pt")
    assert torch.allclose(encoder(**tokens).last_hidden_state, expected(**tokens).last_hidden_state, atol=1e-5)
    assert encoder.encoder.embed_tokens.weight.data_ptr() == encoder.shared.weight.data_ptr()


def test_original_files(diffusers_folder: Path, original_folder: Path) -> None:
    ours = resolve_base(BaseModelConfig(model=str(diffusers_folder)))
    theirs = resolve_base(BaseModelConfig(model=str(original_folder)))
    for load in (load_vae, load_transformer):
        left, right = load(ours, **HOW), load(theirs, **HOW)
        assert equal(left, right)
        for name in ("z_dim", "latents_mean", "num_res_blocks", "num_attention_heads", "attention_head_dim", "num_layers", "eps"):
            assert left.config.get(name) == right.config.get(name)
    (encoder, _), (other, tokenizer) = load_text_encoder(ours, **HOW), load_text_encoder(theirs, **HOW)
    assert equal(encoder, other)
    tokens = tokenizer(["a kite", "b"], padding=True, return_tensors="pt")
    assert torch.equal(encoder(**tokens).last_hidden_state, other(**tokens).last_hidden_state)


def test_bfloat16_keeps_what_diffusers_keeps(diffusers_folder: Path) -> None:
    source = resolve_base(BaseModelConfig(model=str(diffusers_folder)))
    ours = load_transformer(source, dtype=torch.bfloat16, device="cpu").state_dict()
    theirs = WanTransformer3DModel.from_pretrained(diffusers_folder / "transformer", torch_dtype=torch.bfloat16).state_dict()
    assert {key: tensor.dtype for key, tensor in ours.items()} == {key: tensor.dtype for key, tensor in theirs.items()}
    assert {tensor.dtype for tensor in load_vae(source, dtype=torch.bfloat16, device="cpu").state_dict().values()} == {torch.bfloat16}


def test_origin_paths(original_folder: Path) -> None:
    models, name = original_folder.parents[1], "Wan-AI/Wan-Small"
    patterns = f"{name}:diffusion_pytorch_model*.safetensors,{name}:models_t5_umt5-xxl-enc-bf16.pth,{name}:Wan2.1_VAE.pth"
    source = resolve_base(BaseModelConfig(model_id_with_origin_paths=patterns, models_folder=models))
    assert {part: len(files) for part, files in source.weight_files().items()} == {"vae": 1, "transformer": 2, "text_encoder": 1}
    load_text_encoder(source, **HOW)  # its tokenizer lies beside
    alone = resolve_base(BaseModelConfig(model_id_with_origin_paths=f"Some/Id:{name}/Wan2.1_VAE.pth", models_folder=original_folder))
    assert alone.part("vae").where == original_folder / "Wan2.1_VAE.pth"
    with pytest.raises(UsageError, match=r"Some/Id \(diffusion_pytorch_model.*no answer from the hub"):
        alone.part("transformer")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Wan-AI/Wan2.1", "got 'Wan-AI/Wan2.1', expected ID:PATTERN"),
        ("A/B:x_vae.pth,A/B:y_vae.pth", "two patterns for the vae"),
        ("A/B:readme.txt", "got 'readme.txt'"),
    ],
)
def test_bad_origin_paths(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "A" / "B").mkdir(parents=True)
    for name in ("x_vae.pth", "y_vae.pth"):
        (tmp_path / "A" / "B" / name).touch()
    with pytest.raises(UsageError, match=message):
        resolve_base(BaseModelConfig(model_id_with_origin_paths=text, models_folder=tmp_path))


def test_no_answer_from_the_hub_names_every_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(repo: str, **_: object) -> str:
        raise ConnectionError("no route.\nmore")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(UsageError) as one:
        resolve_base(BaseModelConfig(model_id_with_origin_paths="Wan-AI/X:Wan2.1_VAE.pth", models_folder=tmp_path))
    for words in (f"{tmp_path}/Wan-AI/X/Wan2.1_VAE.pth", f"{tmp_path}/Wan2.1_VAE.pth", "no answer from the hub (no route)"):
        assert words in str(one.value)
    with pytest.raises(UsageError, match=f"put the files in {tmp_path}/Wan-AI/X"):
        resolve_base(BaseModelConfig(model="Wan-AI/X", models_folder=tmp_path))


def test_the_hub_is_asked_for_one_part_at_a_time(diffusers_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda repo, allow_patterns: asked.append(allow_patterns) or str(diffusers_folder)
    )
    source = resolve_base(BaseModelConfig(model="Org/Model", models_folder=tmp_path))
    load_vae(source, **HOW)
    assert asked == [["*.json"], ["vae/*"]]


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'tiny'"):
        resolve_base(BaseModelConfig(model="tyny", models_folder=tmp_path))
    with pytest.raises(UsageError, match="a folder without a Wan model"):
        resolve_base(BaseModelConfig(model=str(tmp_path)))


def test_tiny_is_in_the_package() -> None:
    import wan_alpha

    assert tiny_folder() == Path(wan_alpha.__file__).parent / "assets" / "tiny"


def test_base_vae_path(diffusers_folder: Path, original_folder: Path, tmp_path: Path) -> None:
    expected = load_vae(resolve_base(BaseModelConfig(model=str(diffusers_folder))), **HOW)
    original = original_folder / "Wan2.1_VAE.pth"
    places = [
        original,
        original_folder,
        diffusers_folder,
        diffusers_folder / "vae",
        diffusers_folder / "vae" / "diffusion_pytorch_model.safetensors",
    ]
    for place in places:
        source = resolve_base(BaseModelConfig(model=str(diffusers_folder), base_vae_path=place))
        vae = load_vae(source, **HOW)
        assert equal(vae, expected), place
        assert list(vae.config["latents_mean"]) == STATISTICS["latents_mean"]
    with pytest.raises(UsageError, match=r"--base_vae_path .*got no such file"):
        resolve_base(BaseModelConfig(model=str(diffusers_folder), base_vae_path=tmp_path / "none.pth"))
    shutil.copy(original, tmp_path)
    lonely = resolve_base(BaseModelConfig(model=str(diffusers_folder), base_vae_path=tmp_path / original.name))
    with pytest.raises(CheckpointError, match=r"base_dim 4 and z_dim 2, not Wan2.1's.*put a config.json with latents_mean"):
        load_vae(lonely, **HOW)


def test_statistics_in_metadata(original_folder: Path, tmp_path: Path) -> None:
    tensors = torch.load(original_folder / "Wan2.1_VAE.pth", weights_only=True)
    metadata = {name: json.dumps(values) for name, values in STATISTICS.items()}
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, tmp_path / "vae.safetensors", metadata=metadata)
    vae = load_vae(resolve_base(BaseModelConfig(model=str(original_folder), base_vae_path=tmp_path / "vae.safetensors")), **HOW)
    assert list(vae.config["latents_std"]) == STATISTICS["latents_std"]


def test_missing_and_extra_tensors_are_named(original_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(original_folder, tmp_path / "base")
    shards = sorted((tmp_path / "base").glob("diffusion*.safetensors"))
    tensors = load_file(shards[1])
    removed = next(key for key in tensors if key.startswith("blocks.1."))
    save_file({key: tensor for key, tensor in tensors.items() if key != removed} | {"extra": torch.zeros(1)}, shards[1])
    with pytest.raises(CheckpointError, match=rf"1 missing .{removed}. and 1 unexpected .extra."):
        load_transformer(resolve_base(BaseModelConfig(model=str(tmp_path / "base"))), **HOW)
    shards[0].unlink()
    with pytest.raises(CheckpointError, match=r"without patch_embedding.weight|missing"):
        load_transformer(resolve_base(BaseModelConfig(model=str(tmp_path / "base"))), **HOW)


def test_a_vae_file_of_another_kind(original_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "Wan2.1_VAE.safetensors"
    save_file({"blocks.0.self_attn.q.weight": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="got a DiT"):
        load_vae(resolve_base(BaseModelConfig(model=str(original_folder), base_vae_path=path)), **HOW)
