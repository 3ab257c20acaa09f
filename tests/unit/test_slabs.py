"""Norm, SiLU and convolution over slabs equal the three layers in turn, forward and backward, wherever the slabs are cut."""

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanRMS_norm

from wan_alpha.models import slabs, whole_clip

FRAME_BYTES = 6 * 4 * 5 * 8


def layers() -> tuple[WanRMS_norm, WanCausalConv3d]:
    torch.manual_seed(0)
    norm, conv = WanRMS_norm(6, images=False).double(), WanCausalConv3d(6, 5, 3, padding=1).double()
    torch.nn.init.normal_(norm.gamma)
    return norm, conv


@pytest.mark.parametrize("frames_in_slab", [1, 3, 100])
@pytest.mark.parametrize(("clips", "num_frames"), [(1, 1), (1, 2), (2, 7)])
def test_slabs_are_the_three_layers(monkeypatch: pytest.MonkeyPatch, clips: int, num_frames: int, frames_in_slab: int) -> None:
    monkeypatch.setattr(slabs, "SLAB_BYTES", frames_in_slab * clips * FRAME_BYTES)
    norm, conv = layers()
    x = torch.randn(clips * num_frames, 6, 4, 5, dtype=torch.float64, requires_grad=True)
    inputs = [x, norm.gamma, conv.weight, conv.bias]
    expected = whole_clip.causal_conv(conv, F.silu(whole_clip.rms_norm(norm, x)), num_frames)
    found = slabs.norm_silu_conv(norm, conv, x, num_frames)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    direction = torch.randn_like(expected)
    for mine, other in zip(torch.autograd.grad(found, inputs, direction), torch.autograd.grad(expected, inputs, direction), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-11)


def test_what_is_frozen_gets_no_gradient_and_only_the_input_is_kept() -> None:
    norm, conv = (layer.requires_grad_(False) for layer in layers())
    x, kept = torch.randn(5, 6, 4, 5, dtype=torch.float64, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        y = slabs.norm_silu_conv(norm, conv, x, 5)
    assert [tensor.shape for tensor in kept] == [(1, 5, 6, 4, 5), norm.gamma.shape, conv.weight.shape]
    y.sum().backward()
    assert x.grad is not None
    assert conv.weight.grad is None
