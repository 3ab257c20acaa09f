"""Decoding in tiles, a latent frame at a time: for frames too large for memory, equal to the whole pass and therefore without seams.

The decoder's middle block attends to the whole frame, but at the latents' own size, where a clip is small. It runs on the whole clip
first. What follows is local (convolutions; norms over channels), so a tile decoded with the margin that its convolutions see, and
cropped to its core, has exactly the pixels of the whole frame: nothing is blended.
"""

import math

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import CACHE_T, WanCausalConv3d, WanDecoder3d
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from wan_alpha.models.whole_clip import causal_conv, fold, mid_block, unfold

TILE = 32
"""Side of a tile's core, in latent cells: 256 pixels."""


def tiled_decode(decoder: WanDecoder3d, post_quant_conv: nn.Conv3d, latents: Float[Tensor, "B z t h w"]) -> Float[Tensor, "B 3 T H W"]:
    """(B, z, t, h, w) un-normalised latents -> (B, 3, T, H, W), nominally [-1, 1], not clamped."""
    t, h, w = latents.shape[2:]
    around, scale = margin(decoder), 2 ** sum(block.upsamplers is not None for block in decoder.up_blocks)
    with parametrize.cached():  # W + s B A once for the clip, not once per tile
        x = causal_conv(decoder.conv_in, causal_conv(post_quant_conv, fold(latents), t), t)
        features = unfold(mid_block(decoder.mid_block, x, t), t)
        rows = []
        for top in range(0, h, TILE):
            row = []
            for left in range(0, w, TILE):
                y, x0 = max(0, top - around), max(0, left - around)
                tile = _decode_rest(decoder, features[..., y : top + TILE + around, x0 : left + TILE + around])
                first_y, first_x = (top - y) * scale, (left - x0) * scale
                row.append(tile[..., first_y : first_y + TILE * scale, first_x : first_x + TILE * scale].clone())
            rows.append(torch.cat(row, dim=-1))
    return torch.cat(rows, dim=-2)


def margin(decoder: WanDecoder3d) -> int:
    """Latent cells around a tile that its pixels depend on: the radii of all 3x3 convolutions after the middle block, each at the
    size at which it runs. 13 for Wan's decoder."""
    cells, scale = 0.0, 1
    for block in decoder.up_blocks:
        cells += 2 * len(block.resnets) / scale
        if block.upsamplers is not None:
            scale *= 2
            cells += 1 / scale
    return math.ceil(cells + 1 / scale)


def _decode_rest(decoder: WanDecoder3d, features: Float[Tensor, "B D t h w"]) -> Float[Tensor, "B 3 T H W"]:
    """From after the middle block to pixels, with diffusers' feature caches."""
    before = [decoder.conv_in, *decoder.mid_block.modules()]
    first = sum(isinstance(module, WanCausalConv3d) for module in before)
    caches: list[Tensor | None] = [None] * sum(isinstance(module, WanCausalConv3d) for module in decoder.modules())
    frames = []
    for number, x in enumerate(features.split(1, dim=2)):
        index = [first]
        for block in decoder.up_blocks:
            x = block(x, feat_cache=caches, feat_idx=index, first_chunk=number == 0)
        x = decoder.nonlinearity(decoder.norm_out(x))
        past = caches[index[0]]
        frames.append(decoder.conv_out(x, past))
        caches[index[0]] = (x if past is None else torch.cat([past, x], dim=2))[:, :, -CACHE_T:]
    return torch.cat(frames, dim=2)
