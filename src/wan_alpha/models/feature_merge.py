"""The merge block: what the encoder saw of colour and of the matte, to one latent.

Two layouts, both one causal pass over all latent frames (reference.md, section 1.2; decisions.md, first row):

    feature (released)           encoder features 2D -> 1x1x1 -> width -> Res, Attn, Res, Attn, Res -> RMSnorm, SiLU, conv 3 -> z
    latent (paper v1, Figure 3)  normalised posterior means 2z -> conv 3 -> width -> 3 x (Res, Attn) -> conv 3 -> z, normalised

Attribute names are the published key names; a file of the feature layout has the prefix `middle.` before them.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanAttentionBlock, WanCausalConv3d, WanEncoder3d, WanRMS_norm
from jaxtyping import Float
from torch import Tensor, nn

from wan_alpha.checkpoints.files import require_shapes
from wan_alpha.checkpoints.kinds import describe
from wan_alpha.errors import CheckpointError, UsageError
from wan_alpha.models.whole_clip import Run, attention_block, causal_conv, fold, kept, rms_norm, unfold

MergeLayout = Literal["feature", "latent"]
LATENT_WIDTH_PER_CHANNEL = 12


def run_folded(layers: nn.Sequential, x: Float[Tensor, "N D h w"], num_frames: int) -> Float[Tensor, "N E h w"]:
    """Norms, activations and causal convolutions in turn, on frames folded into the batch (whole_clip.fold)."""
    for layer in layers:
        if isinstance(layer, WanRMS_norm):
            x = rms_norm(layer, x)
        elif isinstance(layer, nn.Conv3d):
            x = causal_conv(layer, x, num_frames)
        else:
            x = layer(x)
    return x


class MergeResidual(nn.Module):
    """x + conv(SiLU(norm(conv(SiLU(norm(x)))))), causal 3x3x3; keys `residual.{0.gamma, 2.*, 3.gamma, 6.*}`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            WanRMS_norm(width, images=False),
            nn.SiLU(),
            WanCausalConv3d(width, width, 3, padding=1),
            WanRMS_norm(width, images=False),
            nn.SiLU(),
            nn.Identity(),  # the published block has a dropout of 0 here; it keeps the next index
            WanCausalConv3d(width, width, 3, padding=1),
        )

    def forward(self, x: Float[Tensor, "N D h w"], num_frames: int) -> Float[Tensor, "N D h w"]:
        return x + run_folded(self.residual, x, num_frames)


class _PublishedBlock(nn.Module):
    """The modules under the published name `block`."""

    def __init__(self, *, feature_dim: int, z_dim: int, width: int) -> None:
        super().__init__()
        self.conv1 = WanCausalConv3d(2 * feature_dim, width, 1)
        self.middle = nn.ModuleList(
            [MergeResidual(width), _attention(width), MergeResidual(width), _attention(width), MergeResidual(width)]
        )
        self.head = nn.Sequential(WanRMS_norm(width, images=False), nn.SiLU(), WanCausalConv3d(width, z_dim, 3, padding=1))


class FeatureMergeBlock(nn.Module):
    """Feature layout: (B, feature_dim, t, h, w) of colour and of the matte -> un-normalised latent (B, z_dim, t, h, w)."""

    layout: MergeLayout = "feature"

    def __init__(self, *, feature_dim: int, z_dim: int, width: int) -> None:
        super().__init__()
        self.feature_dim, self.z_dim, self.width = feature_dim, z_dim, width
        self.block = _PublishedBlock(feature_dim=feature_dim, z_dim=z_dim, width=width)

    def forward(self, rgb: Float[Tensor, "B D t h w"], alpha: Float[Tensor, "B D t h w"], *, run: Run = kept) -> Float[Tensor, "B z t h w"]:
        num_frames = rgb.shape[2]
        x = causal_conv(self.block.conv1, fold(torch.cat([rgb, alpha], dim=1)), num_frames)
        for layer in self.block.middle:
            x = run(layer, x, num_frames) if isinstance(layer, MergeResidual) else run(attention_block, layer, x)
        return unfold(run_folded(self.block.head, x, num_frames), num_frames)


class LatentMergeBlock(nn.Module):
    """Latent layout: normalised posterior means (B, z_dim, t, h, w) of colour and of the matte -> normalised latent of that shape."""

    layout: MergeLayout = "latent"

    def __init__(self, *, z_dim: int, width: int | None = None) -> None:
        super().__init__()
        width = width or LATENT_WIDTH_PER_CHANNEL * z_dim
        self.z_dim, self.width = z_dim, width
        self.conv_in = WanCausalConv3d(2 * z_dim, width, 3, padding=1)
        self.res_blocks = nn.ModuleList([MergeResidual(width) for _ in range(3)])
        self.attn_blocks = nn.ModuleList([_attention(width) for _ in range(3)])
        self.conv_out = WanCausalConv3d(width, z_dim, 3, padding=1)

    def forward(self, rgb: Float[Tensor, "B z t h w"], alpha: Float[Tensor, "B z t h w"], *, run: Run = kept) -> Float[Tensor, "B z t h w"]:
        num_frames = rgb.shape[2]
        x = causal_conv(self.conv_in, fold(torch.cat([rgb, alpha], dim=1)), num_frames)
        for residual, attention in zip(self.res_blocks, self.attn_blocks, strict=True):
            x = run(attention_block, attention, run(residual, x, num_frames))
        return unfold(causal_conv(self.conv_out, x, num_frames), num_frames)


MergeBlock = FeatureMergeBlock | LatentMergeBlock


def make_merge_block(layout: MergeLayout, *, feature_dim: int, z_dim: int, width: int | None = None) -> MergeBlock:
    """A new block, randomly initialised; default width: feature_dim (feature layout), 12 x z_dim (latent layout)."""
    if layout == "latent":
        return LatentMergeBlock(z_dim=z_dim, width=width)
    return FeatureMergeBlock(feature_dim=feature_dim, z_dim=z_dim, width=width or feature_dim)


def merge_block_from_tensors(tensors: Mapping[str, Tensor], *, what: object = "merge block") -> MergeBlock:
    """The block that these tensors belong to, loaded; layout and sizes follow from keys and shapes, `middle.` may stand before them.

    Raises CheckpointError, naming `what`, when they are no merge block, or when a key is missing, extra, or of another shape.
    """
    tensors = {key.removeprefix("middle."): tensor for key, tensor in tensors.items()}
    if "block.conv1.weight" in tensors and "block.head.2.weight" in tensors:
        width, doubled = tensors["block.conv1.weight"].shape[:2]
        sizes = {"feature_dim": doubled // 2, "z_dim": tensors["block.head.2.weight"].shape[0], "width": width}
        layout: MergeLayout = "feature"
    elif "conv_in.weight" in tensors and "conv_out.weight" in tensors and "res_blocks.0.residual.2.weight" in tensors:
        width, doubled = tensors["conv_in.weight"].shape[:2]
        sizes = {"feature_dim": 0, "z_dim": tensors["conv_out.weight"].shape[0], "width": width}
        layout = "latent"
    else:
        raise CheckpointError(what, got=f"what looks like {describe(tensors.keys())}", expected="a merge block, feature or latent layout")
    with torch.device("meta"):
        block = make_merge_block(layout, **sizes)
    require_shapes(tensors, block.state_dict(), what=f"{what} ({layout} layout)")
    block.load_state_dict({key: tensor.detach().to(torch.float32, copy=True) for key, tensor in tensors.items()}, assign=True)
    return block.requires_grad_(True)


@torch.no_grad()
def initialise_from_encoder(block: FeatureMergeBlock, *, encoder: WanEncoder3d, quant_conv: nn.Conv3d) -> None:
    """Start the block as the encoder's own head applied to colour: block(rgb, anything) = the posterior mean of rgb.

    The 1x1x1 convolution passes colour and ignores the matte, residual and attention branches add zero, and the last convolution is
    the mean's half of quant_conv after the encoder's conv_out. Needs width = feature_dim, else UsageError.
    """
    if block.width != block.feature_dim:
        raise UsageError(
            "merge_width", got=block.width, expected=block.feature_dim, do="drop --merge_width, or start with --merge_init random"
        )
    identity = torch.eye(block.width).to(block.block.conv1.weight)
    block.block.conv1.weight.copy_(torch.cat([identity, torch.zeros_like(identity)], dim=1)[..., None, None, None])
    nn.init.zeros_(block.block.conv1.bias)
    for layer in block.block.middle:
        last = layer.get_submodule("residual.6" if isinstance(layer, MergeResidual) else "proj")
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
    norm, conv = block.block.head.get_submodule("0"), block.block.head.get_submodule("2")
    norm.get_parameter("gamma").copy_(encoder.norm_out.gamma)
    mean_rows = quant_conv.weight[: block.z_dim].flatten(1)
    conv.get_parameter("weight").copy_(torch.einsum("zm,mdijk->zdijk", mean_rows, encoder.conv_out.weight))
    conv.get_parameter("bias").copy_(mean_rows @ encoder.conv_out.bias + quant_conv.get_parameter("bias")[: block.z_dim])


def _attention(width: int) -> WanAttentionBlock:
    """Attention over each frame's positions; its projection starts at zero, as published."""
    attention = WanAttentionBlock(width)
    nn.init.zeros_(attention.proj.weight)
    return attention
