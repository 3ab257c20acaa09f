"""Gradient checkpointing in the decoders: the same gradients, fewer bytes kept."""

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from wan_alpha.models.rgba_vae import RGBAlphaVAE, build_rgba_vae


def model() -> RGBAlphaVAE:
    torch.manual_seed(0)
    vae = AutoencoderKLWan(base_dim=4, z_dim=2, num_res_blocks=1, latents_mean=[0.0] * 2, latents_std=[1.0] * 2)
    built = build_rgba_vae(vae, rank=2)
    for parameter in built.trainable_parameters(mode="merge+decoders").values():
        torch.nn.init.normal_(parameter.requires_grad_(True), std=0.1)
    return built


def kept_and_gradients(built: RGBAlphaVAE) -> tuple[int, dict[str, Tensor]]:
    """Bytes that autograd keeps after the forward pass, and every gradient."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        held.append(tensor)
        return tensor

    held: list[Tensor] = []
    generator = torch.Generator().manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        rgb, alpha = built.decode_raw(torch.randn((1, 2, 2, 4, 4), generator=generator, requires_grad=True))
    size = sum(kept.values())
    (rgb.square().mean() + alpha.square().mean()).backward()
    parameters = built.trainable_parameters(mode="merge+decoders")
    return size, {name: p.grad.clone() for name, p in parameters.items() if p.grad is not None}


def test_same_gradients_and_less_memory() -> None:
    plain, recomputed = model(), model()
    recomputed.gradient_checkpointing = True
    (size, gradients), (less, same) = kept_and_gradients(plain), kept_and_gradients(recomputed)
    assert less < 0.6 * size
    assert gradients.keys() == same.keys()
    assert len(gradients) > 50
    assert all(torch.equal(gradients[name], same[name]) for name in gradients)
