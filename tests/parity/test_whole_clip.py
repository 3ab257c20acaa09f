"""One pass over the clip equals diffusers' own chunks of four frames, forward and backward."""

import pytest
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from wan_alpha.models import slabs, whole_clip
from wan_alpha.models.rgba_vae import chunked_decode, chunked_features

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
Z_DIM = 2
HEIGHT, WIDTH = 16, 24


def make_vae(num_res_blocks: int, dtype: torch.dtype) -> AutoencoderKLWan:
    """Random weights everywhere, gammas and biases too."""
    constants = {"latents_mean": [0.0] * Z_DIM, "latents_std": [1.0] * Z_DIM}
    vae = AutoencoderKLWan(base_dim=4, z_dim=Z_DIM, num_res_blocks=num_res_blocks, **constants).to(dtype)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        vae.decoder.conv_out.weight.mul_(0.1)  # the video stays within [-1, 1]: diffusers clamps it
    return vae


def gradients(vae: AutoencoderKLWan, output: Tensor, direction: Tensor, *inputs: Tensor) -> dict[str, Tensor]:
    named = dict(vae.named_parameters())
    found = torch.autograd.grad((output * direction).mean(), [*inputs, *named.values()], allow_unused=True)
    names = [*(f"input {i}" for i in range(len(inputs))), *named]
    return {name: gradient for name, gradient in zip(names, found, strict=True) if gradient is not None}


def assert_gradients_close(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float) -> None:
    """Every tensor's gradient, its error's length relative to its own."""
    assert ours.keys() == theirs.keys()
    wrong = {name: float((ours[name] - theirs[name]).norm() / theirs[name].norm()) for name in ours}
    assert {name: error for name, error in wrong.items() if not error < tolerance} == {}


@pytest.mark.parametrize("formulation", ["stacked", "one slab", "slabs"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("num_res_blocks", [1, 2])
@pytest.mark.parametrize("num_frames", [1, 5, 9, 17])
def test_whole_clip_equals_chunks(
    monkeypatch: pytest.MonkeyPatch, num_frames: int, num_res_blocks: int, dtype: torch.dtype, formulation: str
) -> None:
    monkeypatch.setattr(whole_clip, "_stacking_is_faster", lambda conv, x: formulation == "stacked")
    monkeypatch.setattr(slabs, "SLAB_BYTES", 1 if formulation == "slabs" else 2**25)  # 1: as few frames in each as can be
    vae = make_vae(num_res_blocks, dtype)
    clip = (2 * torch.rand(2, 3, num_frames, HEIGHT, WIDTH, dtype=dtype) - 1).requires_grad_()

    moments = whole_clip.encoder_head(vae.encoder, vae.quant_conv, whole_clip.encoder_features(vae.encoder, clip))
    chunked_moments = vae.encode(clip).latent_dist.parameters
    torch.testing.assert_close(moments, chunked_moments, rtol=0, atol=TOLERANCE[dtype])
    direction = torch.randn_like(moments)
    assert_gradients_close(gradients(vae, moments, direction, clip), gradients(vae, chunked_moments, direction, clip), TOLERANCE[dtype])

    latents = torch.randn_like(moments[:, :Z_DIM]).requires_grad_()
    decoded = whole_clip.decode(vae.decoder, vae.post_quant_conv, latents)
    chunked_decoded = vae.decode(latents).sample
    assert decoded.shape == clip.shape
    assert decoded.abs().max() < 1
    torch.testing.assert_close(decoded, chunked_decoded, rtol=0, atol=TOLERANCE[dtype])
    direction = torch.randn_like(decoded)
    assert_gradients_close(
        gradients(vae, decoded, direction, latents), gradients(vae, chunked_decoded, direction, latents), TOLERANCE[dtype]
    )


@torch.no_grad()
def test_our_chunked_passes_equal_diffusers() -> None:
    """The chunked passes of the RGBA VAE: features before the head, and a decoder without the clamp."""
    vae = make_vae(1, torch.float64)
    clip = 2 * torch.rand(1, 3, 9, HEIGHT, WIDTH, dtype=torch.float64) - 1
    moments = vae.encode(clip).latent_dist.parameters
    ours = whole_clip.encoder_head(vae.encoder, vae.quant_conv, chunked_features(vae.encoder, clip))
    torch.testing.assert_close(ours, moments, rtol=0, atol=1e-10)
    decoded = chunked_decode(vae.decoder, vae.post_quant_conv, moments[:, :Z_DIM])
    torch.testing.assert_close(decoded, vae.decode(moments[:, :Z_DIM]).sample, rtol=0, atol=1e-10)


def test_the_future_does_not_reach_the_past() -> None:
    """Causality: changing the last four frames leaves every earlier latent and decoded frame alone."""
    vae = make_vae(1, torch.float64)
    clip = 2 * torch.rand(1, 3, 9, HEIGHT, WIDTH, dtype=torch.float64) - 1
    changed = torch.cat([clip[:, :, :5], -clip[:, :, 5:]], dim=2)
    with torch.no_grad():
        before, after = (whole_clip.encoder_features(vae.encoder, x) for x in (clip, changed))
    assert torch.equal(before[:, :, :2], after[:, :, :2])
    assert not torch.equal(before[:, :, 2], after[:, :, 2])
