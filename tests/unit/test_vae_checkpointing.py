"""Gradient checkpointing in the merge block and the decoders: the same gradients, fewer bytes kept."""

from collections.abc import Callable

import pytest
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from wan_alpha.config import TrainDitConfig, TrainVaeConfig
from wan_alpha.errors import UsageError
from wan_alpha.models.feature_merge import MergeLayout
from wan_alpha.models.rgba_vae import RGBAlphaVAE, build_rgba_vae


def model(layout: MergeLayout = "feature") -> RGBAlphaVAE:
    torch.manual_seed(0)
    vae = AutoencoderKLWan(base_dim=4, z_dim=2, num_res_blocks=1, latents_mean=[0.0] * 2, latents_std=[1.0] * 2)
    built = build_rgba_vae(vae, rank=2, layout=layout)
    for parameter in built.trainable_parameters(mode="merge+decoders").values():
        torch.nn.init.normal_(parameter.requires_grad_(True), std=0.1)
    return built


def decoded(built: RGBAlphaVAE) -> tuple[Tensor, Tensor]:
    return built.decode_raw(torch.randn((1, 2, 2, 4, 4), generator=torch.Generator().manual_seed(1), requires_grad=True))


def merged(built: RGBAlphaVAE) -> tuple[Tensor]:
    channels = 16 if built.merge_block.layout == "feature" else 2
    colour, matte = torch.randn((2, 1, channels, 2, 8, 8), generator=torch.Generator().manual_seed(1))
    return (built.merge(colour, matte),)


def kept_and_gradients(built: RGBAlphaVAE, run: Callable[[RGBAlphaVAE], tuple[Tensor, ...]]) -> tuple[int, dict[str, Tensor]]:
    """Bytes that autograd keeps after the forward pass, less the weights; the results and every gradient."""
    kept: dict[int, int] = {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in built.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)
        return tensor

    held: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        results = run(built)
    size = sum(kept.values())
    sum(result.square().mean() for result in results).backward()
    parameters = built.trainable_parameters(mode="merge+decoders")
    gradients = {name: p.grad.clone() for name, p in parameters.items() if p.grad is not None}
    return size, {**gradients, **{f"result {i}": result.detach() for i, result in enumerate(results)}}


@pytest.mark.parametrize(
    ("layout", "run", "share", "gradients"),
    [("feature", decoded, 0.6, 50), ("feature", merged, 0.5, 33), ("latent", merged, 0.5, 37)],
)
def test_same_gradients_and_less_memory(layout: MergeLayout, run, share: float, gradients: int) -> None:
    plain, recomputed = model(layout), model(layout)
    recomputed.gradient_checkpointing = True
    (size, expected), (less, same) = kept_and_gradients(plain, run), kept_and_gradients(recomputed, run)
    assert less < share * size
    assert expected.keys() == same.keys()
    assert len(expected) > gradients
    assert all(torch.equal(expected[name], same[name]) for name in expected)


@pytest.mark.parametrize("passes", ["chunked", "tiled"])
def test_passes_that_cannot_be_recomputed_are_refused(passes) -> None:
    with pytest.raises(UsageError, match=f"--gradient_checkpointing: got --vae_passes {passes}, .*--vae_passes whole"):
        TrainVaeConfig(vae_passes=passes, gradient_checkpointing=True)
    assert TrainVaeConfig(vae_passes=passes).piecewise
    assert not TrainVaeConfig(gradient_checkpointing=True).piecewise, "auto is whole in training"
    TrainDitConfig(vae_passes=passes, gradient_checkpointing=True)  # there the transformer is checkpointed, the VAE only encodes
