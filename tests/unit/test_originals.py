"""Names and sizes: both ways, against diffusers' converters, and at the real sizes on the meta device."""

import pytest
import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers, convert_wan_vae_to_diffusers
from transformers import UMT5Config, UMT5EncoderModel

from wan_alpha.checkpoints.originals import (
    dit_diffusers_name,
    dit_original_name,
    dit_to_original,
    layout_md5,
    text_from_original,
    text_to_original,
)
from wan_alpha.checkpoints.sizes import dit_sizes, text_sizes, vae_sizes
from wan_alpha.checkpoints.vae_layout import to_original
from wan_alpha.errors import CheckpointError

DIT_1_3B = dict(num_attention_heads=12, ffn_dim=8960, num_layers=30)
DIT_14B = dict(num_attention_heads=40, ffn_dim=13824, num_layers=40)
TINY_TEXT = dict(vocab_size=40, d_model=12, d_kv=4, d_ff=20, num_layers=2, num_heads=3)
XXL = dict(vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64)


@pytest.mark.parametrize(
    ("sizes", "keys", "md5"),
    [(DIT_1_3B, 825, "9269f8db9040a9d860eaca435be61814"), (DIT_14B, 1095, "aafcfd9672c3a2456dc46e1cb6e52c70")],
)
def test_real_dit(sizes: dict, keys: int, md5: str) -> None:
    with torch.device("meta"):
        transformer = WanTransformer3DModel(**sizes)
    original = dit_to_original(transformer.state_dict())
    assert (len(original), layout_md5(original)) == (keys, md5)
    inferred = dit_sizes(original, num_heads=None, eps=1e-6)
    assert {name: transformer.config[name] for name in inferred} == inferred


def test_dit_names_agree_with_diffusers_converter() -> None:
    with torch.device("meta"):
        transformer = WanTransformer3DModel(num_attention_heads=2, attention_head_dim=8, ffn_dim=32, num_layers=2)
    state = transformer.state_dict()
    original = dit_to_original(state)
    assert {dit_diffusers_name(key) for key in original} == state.keys()
    converted = convert_wan_transformer_to_diffusers({key: key for key in original} | {})
    assert converted == {dit_diffusers_name(key): key for key in original}


def test_unknown_dit_name() -> None:
    with pytest.raises(CheckpointError, match=r"got 'blocks.0.attn3.to_q', expected"):
        dit_original_name("blocks.0.attn3.to_q")


def test_real_vae() -> None:
    with torch.device("meta"):
        vae = AutoencoderKLWan()
    original = to_original(vae.state_dict(), num_res_blocks=2)
    assert (len(original), layout_md5(original)) == (194, "ccc42284ea13e1ad04693284c7a09be6")
    inferred = vae_sizes(original)
    assert inferred.pop("decoder_base_dim") == 96
    assert {name: vae.config[name] for name in inferred} == inferred
    assert convert_wan_vae_to_diffusers(original).keys() == vae.state_dict().keys()


@pytest.mark.parametrize("blocks", [1, 3])
def test_vae_sizes_with_other_numbers_of_blocks(blocks: int) -> None:
    sizes = dict(base_dim=4, z_dim=4, dim_mult=[1, 2, 4], num_res_blocks=blocks, temperal_downsample=[True, False])
    with torch.device("meta"):
        vae = AutoencoderKLWan(**sizes)
    assert vae_sizes(to_original(vae.state_dict(), num_res_blocks=blocks)) == {**sizes, "decoder_base_dim": 4}


@pytest.mark.parametrize("sizes", [TINY_TEXT, XXL])
def test_text_names_and_sizes(sizes: dict) -> None:
    with init_empty_weights():
        state = UMT5EncoderModel(UMT5Config(**sizes)).state_dict()
    original = text_to_original(state)
    per_block = 2 + 4 + 1 + 3
    assert len(original) == 2 + per_block * sizes["num_layers"]
    assert {key: tensor.shape for key, tensor in text_from_original(original).items()} == {
        key: tensor.shape for key, tensor in state.items()
    }
    inferred = text_sizes(original)
    assert {name: inferred[name] for name in sizes} == sizes


def test_original_text_names_of_the_published_file() -> None:
    with init_empty_weights():
        original = text_to_original(UMT5EncoderModel(UMT5Config(**TINY_TEXT)).state_dict())
    block = {key.removeprefix("blocks.1.") for key in original if key.startswith("blocks.1.")}
    assert block == {
        *(f"attn.{name}.weight" for name in "qkvo"),
        *("norm1.weight", "norm2.weight", "pos_embedding.embedding.weight"),
        *("ffn.gate.0.weight", "ffn.fc1.weight", "ffn.fc2.weight"),
    }
    assert {"token_embedding.weight", "norm.weight"} <= original.keys()


def test_sizes_of_something_else() -> None:
    with pytest.raises(
        CheckpointError, match=r"without patch_embedding.weight: got 1 tensors of an unknown layout, expected an original Wan DiT"
    ):
        dit_sizes({"weight": torch.zeros(1)}, num_heads=None, eps=1e-6)
    with pytest.raises(CheckpointError, match="multiple of 128"):
        dit_sizes({"patch_embedding.weight": torch.zeros(48, 4, 1, 2, 2)}, num_heads=None, eps=1e-6)
