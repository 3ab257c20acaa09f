from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan

from wan_alpha.checkpoints.stage1 import Stage1Tensors, read_stage1, write_stage1
from wan_alpha.errors import CheckpointError
from wan_alpha.models import rgba_vae, whole_clip
from wan_alpha.models.low_rank import low_rank_layers
from wan_alpha.models.rgba_vae import RGBAlphaVAE, build_rgba_vae

MEAN, STD = [0.5, -1.0], [2.0, 0.25]


def tiny_vae(z_dim: int = 2, num_res_blocks: int = 1) -> AutoencoderKLWan:
    constants = {"latents_mean": (MEAN * z_dim)[:z_dim], "latents_std": (STD * z_dim)[:z_dim]}
    return AutoencoderKLWan(base_dim=4, z_dim=z_dim, num_res_blocks=num_res_blocks, **constants)


def clips(num_frames: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    return 2 * torch.rand(1, 3, num_frames, 16, 32) - 1, 2 * torch.rand(1, 1, num_frames, 16, 32) - 1


def with_random_lora(model: RGBAlphaVAE) -> RGBAlphaVAE:
    with torch.no_grad():
        for decoder in (model.rgb_decoder, model.alpha_decoder):
            for _, layer in low_rank_layers(decoder):
                layer.lora_B.normal_()
    return model


@pytest.mark.parametrize("layout", ["feature", "latent"])
def test_shapes_and_gradients(layout: str) -> None:
    model = build_rgba_vae(tiny_vae(), layout=layout, rank=2)
    rgb, alpha = clips()
    latents = model.encode(rgb, alpha)
    assert latents.shape == (1, 2, 2, 2, 4)
    decoded_rgb, decoded_alpha = model.decode(latents)
    assert decoded_rgb.shape == rgb.shape
    assert decoded_alpha.shape == alpha.shape
    (decoded_rgb.square().mean() + decoded_alpha.square().mean()).backward()
    trained = model.trainable_parameters(mode="merge+decoders")
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == {
        name.replace(".lora_", ".parametrizations.weight.0.lora_") for name in trained
    }
    assert all(name.startswith("merge_block.") for name in model.trainable_parameters(mode="merge"))


@torch.no_grad()
def test_starts_as_the_plain_vae_on_colour() -> None:
    """Encoder start and plain decoders: colour comes back as from the base VAE (float32: other orders of sums), whatever the matte is."""
    vae = tiny_vae()
    model = build_rgba_vae(vae)
    rgb, alpha = clips()
    latents = model.encode(rgb, alpha)
    torch.testing.assert_close(latents, vae.encode(rgb).latent_dist.mode(), rtol=0, atol=1e-4)
    torch.testing.assert_close(model.decode(latents)[0].clamp(-1, 1), vae.decode(latents).sample, rtol=0, atol=1e-4)


def test_normalisation_uses_the_vaes_own_constants() -> None:
    model = build_rgba_vae(tiny_vae())
    latents = torch.randn(1, 2, 1, 2, 2)
    normalised = model.normalise(latents)
    torch.testing.assert_close(normalised[:, 1], (latents[:, 1] + 1.0) / 0.25)
    torch.testing.assert_close(model.denormalise(normalised), latents)


@torch.no_grad()
def test_latent_layout_sees_normalised_means_and_encode_returns_unnormalised() -> None:
    vae = tiny_vae()
    model = build_rgba_vae(vae, layout="latent")
    rgb, alpha = clips()
    of_rgb, of_alpha = model.features(rgb, alpha)
    torch.testing.assert_close(of_rgb, model.normalise(vae.encode(rgb).latent_dist.mode()), rtol=0, atol=1e-4)
    merged = model.merge_block(of_rgb, of_alpha)
    torch.testing.assert_close(model.normalise(model.encode(rgb, alpha)), merged, rtol=0, atol=1e-5)


def test_base_weights_are_shared_and_survive_merging() -> None:
    vae = tiny_vae()
    before = {key: tensor.clone() for key, tensor in vae.state_dict().items()}
    model = with_random_lora(build_rgba_vae(vae, rank=2))
    base = vae.decoder.conv_out.bias
    assert model.rgb_decoder.conv_out.bias is base
    assert model.alpha_decoder.conv_out.bias is base
    assert model.rgb_decoder.conv_in.parametrizations.weight.original is vae.decoder.conv_in.weight
    alpha_weight = model.alpha_decoder.conv_in.weight.detach().clone()
    model.merge_decoder_lora()
    torch.testing.assert_close(model.alpha_decoder.conv_in.weight, alpha_weight)
    assert not torch.equal(model.rgb_decoder.conv_in.weight, model.alpha_decoder.conv_in.weight)
    assert all(torch.equal(tensor, before[key]) for key, tensor in vae.state_dict().items())


@torch.no_grad()
@pytest.mark.parametrize("layout", ["feature", "latent"])
def test_whole_and_chunked_passes_agree(layout: str) -> None:
    model = with_random_lora(build_rgba_vae(tiny_vae(), layout=layout, rank=2)).double()
    rgb, alpha = (clip.double() for clip in clips(9))
    whole = (*model.features(rgb, alpha), *model.decode_raw(model.encode(rgb, alpha)))
    model.passes = "chunked"
    chunked = (*model.features(rgb, alpha), *model.decode_raw(model.encode(rgb, alpha)))
    for ours, theirs in zip(whole, chunked, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_chunked_decode_has_gradients() -> None:
    model = with_random_lora(build_rgba_vae(tiny_vae(), rank=2))
    latents = torch.randn(1, 2, 2, 2, 2)
    found = {}
    for passes in ("whole", "chunked"):
        model.passes = passes
        model.zero_grad()
        model.decode(latents)[0].square().mean().backward()
        found[passes] = model.rgb_decoder.conv_in.parametrizations.weight[0].lora_A.grad.clone()
    torch.testing.assert_close(found["whole"], found["chunked"], rtol=1e-3, atol=1e-6)


@torch.no_grad()
def test_frozen_bfloat16_gives_float32_to_the_trainable_part() -> None:
    vae = tiny_vae().to(torch.bfloat16)
    model = build_rgba_vae(vae, rank=2)
    assert {p.dtype for p in model.trainable_parameters(mode="merge+decoders").values()} == {torch.float32}
    rgb, alpha = clips()
    latents = model.encode(rgb, alpha)
    assert latents.dtype == torch.float32
    assert all(clip.dtype == torch.float32 and clip.isfinite().all() for clip in model.decode(latents))


@pytest.mark.parametrize("num_res_blocks", [1, 2])
@pytest.mark.parametrize("layout", ["feature", "latent"])
def test_stage1_file_round_trip(tmp_path: Path, layout: str, num_res_blocks: int) -> None:
    vae = tiny_vae(num_res_blocks=num_res_blocks)
    model = with_random_lora(build_rgba_vae(vae, layout=layout, merge_init="random", rank=2))
    write_stage1(tmp_path / "stage1.safetensors", model.stage1_tensors(), metadata={})
    parts = read_stage1(tmp_path / "stage1.safetensors")
    again = build_rgba_vae(vae, merge=parts, decoder_lora=parts)
    rgb, alpha = clips()
    with torch.no_grad():
        latents = model.encode(rgb, alpha)
        assert torch.equal(again.encode(rgb, alpha), latents)
        assert torch.equal(again.decode(latents)[1], model.decode(latents)[1])


def test_parts_of_another_vae_are_refused() -> None:
    parts = build_rgba_vae(tiny_vae(), rank=2).stage1_tensors()
    other = AutoencoderKLWan(base_dim=8, z_dim=2, num_res_blocks=1, latents_mean=[0.0] * 2, latents_std=[1.0] * 2)
    with pytest.raises(CheckpointError, match="this model: got a merge block on 16 features, expected 32"):
        build_rgba_vae(other, merge=parts)
    with pytest.raises(CheckpointError, match=r"this model \(colour decoder\): got factors .* another size"):
        build_rgba_vae(other, decoder_lora=parts)
    with pytest.raises(CheckpointError, match="2 latent channels, expected 3"):
        build_rgba_vae(tiny_vae(z_dim=3), merge=parts)
    with pytest.raises(CheckpointError, match=r"colour decoder.* keys, .* missing"):
        build_rgba_vae(tiny_vae(num_res_blocks=2), decoder_lora=parts)


def test_training_decoders_needs_their_lora() -> None:
    with pytest.raises(CheckpointError, match="rgb_decoder without LoRA"):
        build_rgba_vae(tiny_vae()).trainable_parameters(mode="merge+decoders")


def test_a_seed_gives_the_same_lora() -> None:
    models = [build_rgba_vae(tiny_vae(), rank=2, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    first, second = (model.stage1_tensors() for model in models)
    assert isinstance(first, Stage1Tensors)
    assert all(torch.equal(first.alpha_lora[key], second.alpha_lora[key]) for key in first.alpha_lora)
    assert not torch.equal(first.alpha_lora["conv1.lora_A"], first.rgb_lora["conv1.lora_A"])


def test_loaded_decoder_equals_the_plain_pass_with_added_weights() -> None:
    """The LoRA is active in the whole-clip pass: adding B A / r by hand to a plain decoder gives the same video."""
    vae = tiny_vae()
    model = with_random_lora(build_rgba_vae(vae, rank=2))
    latents = torch.randn(1, 2, 2, 2, 2)
    with torch.no_grad():
        expected = model.decode(latents)[0]
        for name, layer in low_rank_layers(model.rgb_decoder):
            weight = vae.decoder.get_submodule(name).weight
            weight.add_(torch.einsum("or,r...->o...", layer.lora_B.flatten(1), layer.lora_A) / 2)
        plain = whole_clip.decode(vae.decoder, vae.post_quant_conv, latents)
    torch.testing.assert_close(plain, expected, rtol=0, atol=1e-4)


@torch.no_grad()
def test_automatic_passes_go_in_chunks_above_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_random_lora(build_rgba_vae(tiny_vae(), rank=2))
    rgb, alpha = clips()
    latents = model.encode(rgb, alpha)
    ran: list[str] = []
    monkeypatch.setattr(rgba_vae, "chunked_decode", lambda decoder, conv, z: ran.append("chunked") or whole_clip.decode(decoder, conv, z))
    model.passes = "auto"
    monkeypatch.setattr(rgba_vae, "WHOLE_UP_TO_PIXELS", 10**6)
    model.decode(latents)
    assert ran == []
    monkeypatch.setattr(rgba_vae, "WHOLE_UP_TO_PIXELS", 10)
    model.decode(latents)
    assert ran == ["chunked", "chunked"]
