"""The RGBA VAE reproduces the recorded reference: features, latents, reconstructions, decoder LoRA, the latent merge block."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from wan_alpha.checkpoints.files import read_tensors, require_keys
from wan_alpha.checkpoints.stage1 import decoder_lora_keys, full_keys, read_decoder_lora, read_merge, read_stage1
from wan_alpha.checkpoints.vae_layout import count_res_blocks, from_original, to_original
from wan_alpha.models import whole_clip
from wan_alpha.models.feature_merge import merge_block_from_tensors
from wan_alpha.models.rgba_vae import RGBAlphaVAE, build_rgba_vae

TOLERANCE = 1e-4
GoldenFile = Callable[[str], Path]
LoadGolden = Callable[[str], dict[str, Tensor]]


def largest_difference(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max())


@pytest.fixture(scope="module")
def base(meta: dict, golden_file: GoldenFile) -> AutoencoderKLWan:
    from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

    tensors = read_tensors(golden_file("base_vae.safetensors"))
    sizes = {"base_dim": meta["vae"]["dim"], "z_dim": meta["vae"]["z_dim"]}
    vae = AutoencoderKLWan(**sizes, latents_mean=[0.0] * sizes["z_dim"], latents_std=[1.0] * sizes["z_dim"])
    vae.load_state_dict(convert_wan_vae_to_diffusers(dict(tensors)))
    return vae.eval()


@pytest.fixture(scope="module")
def full(base: AutoencoderKLWan, golden_file: GoldenFile) -> RGBAlphaVAE:
    parts = read_stage1(golden_file("vae_alpha.bin"))
    return build_rgba_vae(base, merge=parts, decoder_lora=parts)


@pytest.fixture(scope="module")
def recorded(load_golden: LoadGolden) -> dict[str, Tensor]:
    return load_golden("vae.safetensors")


@torch.no_grad()
def test_plain_vae(base: AutoencoderKLWan, recorded: dict[str, Tensor]) -> None:
    z = base.config.z_dim
    mode = whole_clip.encoder_head(base.encoder, base.quant_conv, whole_clip.encoder_features(base.encoder, recorded["rgb_render"]))[:, :z]
    recon = whole_clip.decode(base.decoder, base.post_quant_conv, recorded["base_mode"])
    assert largest_difference(mode, recorded["base_mode"]) < TOLERANCE
    assert largest_difference(recon, recorded["base_recon"]) < TOLERANCE


@pytest.mark.parametrize("passes", ["whole", "chunked"])
@torch.no_grad()
def test_rgba_vae(full: RGBAlphaVAE, recorded: dict[str, Tensor], passes: str) -> None:
    full.passes = passes
    rgb_features, alpha_features = full.features(recorded["rgb_render"], recorded["alpha"])
    assert largest_difference(rgb_features, recorded["rgb_features"]) < TOLERANCE
    assert largest_difference(alpha_features, recorded["alpha_features"]) < TOLERANCE
    assert largest_difference(full.merge(recorded["rgb_features"], recorded["alpha_features"]), recorded["latents"]) < TOLERANCE
    assert largest_difference(full.encode(recorded["rgb_render"], recorded["alpha"][:, :1]), recorded["latents"]) < TOLERANCE
    rgb, alpha = full.decode_raw(recorded["latents"])
    assert largest_difference(rgb, recorded["rgb_recon"]) < TOLERANCE
    assert largest_difference(alpha, recorded["alpha_recon"]) < TOLERANCE
    assert largest_difference(full.decode(recorded["latents"])[1], recorded["alpha_recon"].mean(1, keepdim=True)) < TOLERANCE


def test_full_checkpoint_has_the_published_keys(full: RGBAlphaVAE, golden_file: GoldenFile) -> None:
    published = read_tensors(golden_file("vae_alpha.bin"))
    ours = full_keys(full.stage1_tensors())
    require_keys(ours, published, what="full checkpoint")
    assert all(torch.equal(ours[key], published[key]) for key in published)


def test_decoder_file_has_the_published_keys(base: AutoencoderKLWan, golden_file: GoldenFile) -> None:
    published = read_tensors(golden_file("decoder.bin"))
    model = build_rgba_vae(base, decoder_lora=read_decoder_lora(golden_file("decoder.bin")))
    ours = decoder_lora_keys(model.stage1_tensors())
    require_keys(ours, published, what="decoder.bin")
    assert all(torch.equal(ours[key], published[key]) for key in published)


@torch.no_grad()
def test_merged_decoder_lora(base: AutoencoderKLWan, golden_file: GoldenFile, load_golden: LoadGolden) -> None:
    recorded = load_golden("decoder_lora.safetensors")
    model = build_rgba_vae(base, decoder_lora=read_decoder_lora(golden_file("decoder.bin")))
    model.latents_mean, model.latents_std = (recorded[name].view(1, -1, 1, 1, 1) for name in ("mean", "std"))
    latents = model.denormalise(recorded["latents_normalised"])
    for _merged in (False, True):
        rgb, alpha = model.decode_raw(latents)
        assert largest_difference(rgb, recorded["rgb_decoded"]) < TOLERANCE
        assert largest_difference(alpha, recorded["alpha_decoded"]) < TOLERANCE
        model.merge_decoder_lora()
    for name, decoder in (("rgb", model.rgb_decoder), ("alpha", model.alpha_decoder)):
        assert largest_difference(decoder.conv_in.weight, recorded[f"{name}.conv1.weight"]) < TOLERANCE
        assert largest_difference(decoder.mid_block.attentions[0].to_qkv.weight, recorded[f"{name}.to_qkv"]) < TOLERANCE


@torch.no_grad()
def test_latent_merge_block(golden_file: GoldenFile, load_golden: LoadGolden) -> None:
    recorded = load_golden("merge_latent.safetensors")
    parts = read_merge(golden_file("feature_merge_latent.safetensors"))
    block = merge_block_from_tensors(parts.merge, what=parts.source)
    assert block.layout == "latent"
    assert largest_difference(block(recorded["rgb_latents"], recorded["alpha_latents"]), recorded["merged"]) < TOLERANCE


def test_original_names_both_ways(base: AutoencoderKLWan, golden_file: GoldenFile) -> None:
    published = read_tensors(golden_file("base_vae.safetensors"))
    blocks = count_res_blocks(published)
    assert blocks == base.config.num_res_blocks
    ours = to_original(base.state_dict(), num_res_blocks=blocks)
    require_keys(ours, published, what="original VAE")
    assert all(torch.equal(ours[key], published[key]) for key in published)
    back = from_original(published, diffusers_keys=base.state_dict(), num_res_blocks=blocks)
    require_keys(back, base.state_dict(), what="diffusers VAE")
    assert all(torch.equal(back[key], tensor) for key, tensor in base.state_dict().items())
