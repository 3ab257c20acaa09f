import pytest
import torch
from diffusers import AutoencoderKLWan

from wan_alpha.errors import CheckpointError, UsageError
from wan_alpha.models import whole_clip
from wan_alpha.models.feature_merge import (
    FeatureMergeBlock,
    LatentMergeBlock,
    MergeBlock,
    initialise_from_encoder,
    make_merge_block,
    merge_block_from_tensors,
)


def tiny_vae() -> AutoencoderKLWan:
    return AutoencoderKLWan(base_dim=4, z_dim=2, num_res_blocks=1, latents_mean=[0.0] * 2, latents_std=[1.0] * 2).requires_grad_(False)


def small_block(layout: str) -> MergeBlock:
    return make_merge_block(layout, feature_dim=6, z_dim=2, width=8)


@pytest.mark.parametrize(
    ("block_class", "sizes", "num_tensors", "num_parameters"),
    [
        (FeatureMergeBlock, {"feature_dim": 384, "z_dim": 16, "width": 384}, 33, 25_537_552),
        (LatentMergeBlock, {"z_dim": 16}, 37, 6_668_560),
    ],
)
def test_real_size(block_class: type, sizes: dict[str, int], num_tensors: int, num_parameters: int) -> None:
    with torch.device("meta"):
        block = block_class(**sizes)
    assert len(block.state_dict()) == num_tensors
    assert sum(parameter.numel() for parameter in block.parameters()) == num_parameters


@pytest.mark.parametrize("layout", ["feature", "latent"])
@pytest.mark.parametrize("prefix", ["", "middle."])
def test_recognised_from_its_tensors(layout: str, prefix: str) -> None:
    block = small_block(layout)
    again = merge_block_from_tensors({prefix + key: tensor for key, tensor in block.state_dict().items()})
    assert again.layout == layout
    assert (again.z_dim, again.width) == (2, 8)
    channels = 6 if layout == "feature" else 2
    colour, matte = torch.randn(2, 1, channels, 3, 2, 2)
    torch.testing.assert_close(again(colour, matte), block(colour, matte))
    assert all(parameter.requires_grad and not parameter.is_meta for parameter in again.parameters())


@pytest.mark.parametrize("layout", ["feature", "latent"])
def test_causal_and_per_frame_shape(layout: str) -> None:
    block = small_block(layout)
    channels = 6 if layout == "feature" else 2
    colour, matte = torch.randn(2, 2, channels, 4, 3, 2)
    merged = block(colour, matte)
    assert merged.shape == (2, 2, 4, 3, 2)
    torch.testing.assert_close(block(colour[:, :, :2], matte[:, :, :2]), merged[:, :, :2])


def test_attention_starts_at_zero() -> None:
    """Published: the projection's weight is zero, its bias is not."""
    block = small_block("feature")
    assert not block.block.middle[1].proj.weight.any()
    assert block.block.middle[1].proj.bias.any()


@torch.no_grad()
def test_starts_as_the_encoders_head() -> None:
    vae = tiny_vae()
    vae.encoder.norm_out.gamma.uniform_(0.5, 2)
    block = make_merge_block("feature", feature_dim=16, z_dim=2)
    initialise_from_encoder(block, encoder=vae.encoder, quant_conv=vae.quant_conv)
    features = whole_clip.encoder_features(vae.encoder, 2 * torch.rand(1, 3, 5, 16, 16) - 1)
    posterior_mean = whole_clip.encoder_head(vae.encoder, vae.quant_conv, features)[:, :2]
    torch.testing.assert_close(block(features, torch.randn_like(features)), posterior_mean, rtol=0, atol=1e-5)


def test_encoder_start_reaches_the_matte_by_training() -> None:
    """Zeroed branches must not be dead: the matte's weights and every zeroed layer get a gradient."""
    vae = tiny_vae()
    block = make_merge_block("feature", feature_dim=16, z_dim=2)
    initialise_from_encoder(block, encoder=vae.encoder, quant_conv=vae.quant_conv)
    block(*torch.randn(2, 1, 16, 2, 2, 2)).square().mean().backward()
    assert block.block.conv1.weight.grad[:, 16:].abs().max() > 0
    assert block.block.middle[0].residual[6].weight.grad.abs().max() > 0
    assert block.block.middle[1].proj.weight.grad.abs().max() > 0


def test_encoder_start_needs_the_feature_width() -> None:
    vae = tiny_vae()
    with pytest.raises(UsageError, match="merge_width: got 8, expected 16"):
        initialise_from_encoder(
            make_merge_block("feature", feature_dim=16, z_dim=2, width=8), encoder=vae.encoder, quant_conv=vae.quant_conv
        )


def test_refuses_what_is_no_merge_block() -> None:
    with pytest.raises(CheckpointError, match=r"some\.bin: got what looks like a DiT adapter"):
        merge_block_from_tensors({"blocks.0.self_attn.q.lora_magnitude_vector.default.weight": torch.ones(2)}, what="some.bin")
    tensors = small_block("latent").state_dict()
    with pytest.raises(CheckpointError, match=r"1 missing \(conv_in.bias\) and 1 unexpected \(more\)"):
        merge_block_from_tensors({key: tensor for key, tensor in tensors.items() if key != "conv_in.bias"} | {"more": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"other shapes, first res_blocks.1.residual.2.bias \(3,\), expected \(8,\)"):
        merge_block_from_tensors(tensors | {"res_blocks.1.residual.2.bias": torch.ones(3)})
