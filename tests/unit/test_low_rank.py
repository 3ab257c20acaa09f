from copy import deepcopy

import pytest
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanDecoder3d
from torch import nn

from wan_alpha.errors import CheckpointError
from wan_alpha.models import whole_clip
from wan_alpha.models.low_rank import (
    LowRank,
    convolutions,
    inject_low_rank,
    load_low_rank,
    low_rank_layers,
    low_rank_tensors,
    merge_low_rank,
)


def tiny_vae() -> AutoencoderKLWan:
    return AutoencoderKLWan(base_dim=4, z_dim=2, num_res_blocks=1, latents_mean=[0.0] * 2, latents_std=[1.0] * 2).requires_grad_(False)


def randomise(decoder: WanDecoder3d) -> None:
    with torch.no_grad():
        for _, layer in low_rank_layers(decoder):
            layer.lora_B.normal_()


def test_real_size() -> None:
    with torch.device("meta"):
        decoder = AutoencoderKLWan().decoder
    inject_low_rank(decoder, rank=128)
    assert len(list(low_rank_layers(decoder))) == 38
    assert sum(tensor.numel() for tensor in low_rank_tensors(decoder).values()) == 30_013_824


def test_fresh_factors_change_nothing_and_follow_the_seed() -> None:
    vae = tiny_vae()
    latents = torch.randn(1, 2, 2, 2, 2)
    before = whole_clip.decode(vae.decoder, vae.post_quant_conv, latents)
    other = deepcopy(vae.decoder)
    inject_low_rank(vae.decoder, rank=3, generator=torch.Generator().manual_seed(5))
    inject_low_rank(other, rank=3, generator=torch.Generator().manual_seed(5))
    assert torch.equal(whole_clip.decode(vae.decoder, vae.post_quant_conv, latents), before)
    first, second = low_rank_tensors(vae.decoder), low_rank_tensors(other)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert first["conv_in.lora_A"].std() > 0
    assert not first["conv_in.lora_B"].any()


def test_the_weight_is_w_plus_ba_per_tap() -> None:
    vae = tiny_vae()
    base = vae.decoder.conv_in.weight.clone()
    inject_low_rank(vae.decoder, rank=3)
    randomise(vae.decoder)
    factors = low_rank_tensors(vae.decoder)
    expected = base.clone()
    for i in range(3):
        for j in range(3):
            for k in range(3):
                expected[:, :, i, j, k] += factors["conv_in.lora_B"][:, :, 0, 0, 0] @ factors["conv_in.lora_A"][:, :, i, j, k] / 3
    torch.testing.assert_close(vae.decoder.conv_in.weight, expected)


@torch.no_grad()
def test_whole_clip_diffusers_chunks_and_merged_agree() -> None:
    vae = tiny_vae()
    inject_low_rank(vae.decoder, rank=2)
    randomise(vae.decoder)
    latents = 0.1 * torch.randn(1, 2, 3, 2, 2)
    whole = whole_clip.decode(vae.decoder, vae.post_quant_conv, latents).clamp(-1, 1)
    torch.testing.assert_close(vae.decode(latents).sample, whole, rtol=0, atol=1e-4)
    merge_low_rank(vae.decoder)
    assert low_rank_tensors(vae.decoder) == {}
    torch.testing.assert_close(whole_clip.decode(vae.decoder, vae.post_quant_conv, latents).clamp(-1, 1), whole, rtol=0, atol=1e-5)
    assert all(isinstance(conv.weight, nn.Parameter) for conv in convolutions(vae.decoder).values())


def test_gradients_reach_the_factors_only() -> None:
    vae = tiny_vae()
    inject_low_rank(vae.decoder, rank=2)
    randomise(vae.decoder)
    whole_clip.decode(vae.decoder, vae.post_quant_conv, torch.randn(1, 2, 2, 2, 2)).square().mean().backward()
    assert {name.rpartition(".")[2] for name, p in vae.decoder.named_parameters() if p.requires_grad} == {"lora_A", "lora_B"}
    assert all(layer.lora_A.grad is not None and layer.lora_B.grad is not None for _, layer in low_rank_layers(vae.decoder))


def test_bfloat16_base_keeps_float32_factors() -> None:
    vae = tiny_vae().to(torch.bfloat16)
    inject_low_rank(vae.decoder, rank=2)
    assert vae.decoder.conv_in.weight.dtype == torch.bfloat16
    assert {tensor.dtype for tensor in low_rank_tensors(vae.decoder).values()} == {torch.float32}


def test_load_round_trip_and_refusals() -> None:
    source, target = tiny_vae().decoder, tiny_vae().decoder
    inject_low_rank(source, rank=2)
    randomise(source)
    factors = low_rank_tensors(source)
    with pytest.raises(CheckpointError, match=r"f.bin: got \d+ keys, 1 missing \(conv_in.lora_B\)"):
        load_low_rank(target, {key: tensor for key, tensor in factors.items() if key != "conv_in.lora_B"}, what="f.bin")
    with pytest.raises(CheckpointError, match=r"f\.bin: got factors .* for conv_in"):
        load_low_rank(target, factors | {"conv_in.lora_A": torch.ones(2, 5, 3, 3, 3)}, what="f.bin")
    assert low_rank_tensors(target) == {}, "a refused file leaves the decoder plain"
    load_low_rank(target, factors, what="f.bin")
    loaded = low_rank_tensors(target)
    assert all(torch.equal(loaded[key], factors[key]) for key in factors)
    with pytest.raises(CheckpointError, match="a decoder that has one"):
        inject_low_rank(target, rank=2)


def test_autocast_leaves_the_product_in_float32():
    layer = LowRank(torch.randn(4, 8, 3, 3), torch.randn(16, 4, 1, 1))
    weight = torch.zeros(16, 8, 3, 3)
    expected = layer(weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(weight), expected)
