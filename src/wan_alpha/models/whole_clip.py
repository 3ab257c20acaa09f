"""The causal Wan VAE as one pass over the whole clip, forward and backward.

diffusers runs AutoencoderKLWan in chunks of four frames with feature caches. Every layer of it is causal with zero history, so
one pass over all frames gives the same numbers (tests/parity), in fewer and larger operations. Three rules make them equal:

* a causal convolution pads two zero frames on the left;
* a temporal down-sampler passes frame 0 and convolves the whole sequence with stride 2;
* a temporal up-sampler passes frame 0 and convolves frames 1.. alone, two frames out for each.

The functions walk diffusers' own modules, so they hold no weights. Clips are (B, C, T, H, W) at the door; inside, frames are
folded into the batch, (B*T, C, H, W): in channels-last memory, where 2-D layers, attention and conv3d all read without a copy; in
float32 on a CPU in contiguous memory, where the backward pass of its convolutions is two to three times as fast.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    WanAttentionBlock,
    WanDecoder3d,
    WanEncoder3d,
    WanMidBlock,
    WanResample,
    WanResidualBlock,
    WanRMS_norm,
)
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from wan_alpha.models import slabs

Run = Callable[..., Tensor]
"""How a pass over one block, given with its arguments, is run: `kept` or `recomputed`."""

recomputed: Run = partial(checkpoint, use_reentrant=False)
"""Keeps the block's input only, and runs it again in the backward pass."""

STACK_UP_TO_CHANNELS = 16  # CPU float32 conv3d is slow with few channels; bfloat16 conv3d is not (docs/log.md)


def kept(block_pass: Run, *arguments: object) -> Tensor:
    """Keeps what the backward pass needs."""
    return block_pass(*arguments)


def fold(clip: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B*T, C, H, W), in the layout of this file."""
    return _laid_out(clip.transpose(1, 2).flatten(0, 1))


def unfold(frames: Tensor, num_frames: int) -> Tensor:
    """(B*T, C, H, W) -> (B, C, T, H, W), a view."""
    return frames.unflatten(0, (-1, num_frames)).transpose(1, 2)


def rms_norm(norm: WanRMS_norm, x: Tensor) -> Tensor:
    """x / ||x|| * sqrt(C) * gamma over channels; x (N, C, H, W)."""
    normalized = F.normalize(x.float() if x.dtype in (torch.float16, torch.bfloat16) else x, dim=1).to(x.dtype)
    return normalized * (norm.gamma.view(1, -1, 1, 1) * norm.scale)


def _in_full_precision_on_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")


def _laid_out(frames: Tensor) -> Tensor:
    on_cpu = _in_full_precision_on_cpu(frames)
    return frames.contiguous(memory_format=torch.contiguous_format if on_cpu else torch.channels_last)


def _stacking_is_faster(conv: nn.Conv3d, x: Tensor) -> bool:
    return _in_full_precision_on_cpu(x) and conv.in_channels <= STACK_UP_TO_CHANNELS


def causal_conv(conv: nn.Conv3d, x: Tensor, num_frames: int) -> Tensor:
    """Causal 3-D convolution of folded frames, zero history; stride 1 in time."""
    kt, kh, kw = conv.kernel_size
    weight, bias, pad = conv.weight, conv.bias, (kh // 2, kw // 2)
    if kt == 1:
        return F.conv2d(x, weight.squeeze(2), bias, padding=pad)
    clip = x.unflatten(0, (-1, num_frames))
    if _stacking_is_faster(conv, x):
        past = F.pad(clip, (0, 0, 0, 0, 0, 0, kt - 1, 0))
        stacked = torch.cat([past[:, k : k + num_frames] for k in range(kt)], dim=2).flatten(0, 1)
        return F.conv2d(stacked, weight.transpose(1, 2).flatten(1, 2), bias, padding=pad)
    clip = F.pad(clip.transpose(1, 2), (0, 0, 0, 0, kt - 1, 0))
    return F.conv3d(clip, weight, bias, padding=(0, *pad)).transpose(1, 2).flatten(0, 1)


def norm_silu_conv(norm: WanRMS_norm, conv: nn.Conv3d, x: Tensor, num_frames: int) -> Tensor:
    """conv(SiLU(norm(x))) of folded frames, 3x3x3."""
    if _in_full_precision_on_cpu(x) and not _stacking_is_faster(conv, x):
        return slabs.norm_silu_conv(norm, conv, x, num_frames)
    return causal_conv(conv, F.silu(rms_norm(norm, x)), num_frames)


def residual_block(block: WanResidualBlock, x: Tensor, num_frames: int) -> Tensor:
    shortcut = x if isinstance(block.conv_shortcut, nn.Identity) else causal_conv(block.conv_shortcut, x, num_frames)
    x = norm_silu_conv(block.norm1, block.conv1, x, num_frames)
    return norm_silu_conv(block.norm2, block.conv2, x, num_frames) + shortcut  # between them a dropout, which is 0 in Wan


def attention_block(block: WanAttentionBlock, x: Tensor) -> Tensor:
    """Single-head attention over the positions of each frame."""
    n, c, h, w = x.shape
    qkv = block.to_qkv(rms_norm(block.norm, x)).flatten(2).transpose(1, 2).unsqueeze(1)
    out = F.scaled_dot_product_attention(*qkv.chunk(3, dim=-1))
    return x + block.proj(out.squeeze(1).transpose(1, 2).reshape(n, c, h, w))


def mid_block(block: WanMidBlock, x: Tensor, num_frames: int, *, run: Run = kept) -> Tensor:
    x = run(residual_block, block.resnets[0], x, num_frames)
    for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
        x = run(residual_block, resnet, run(attention_block, attention, x), num_frames)
    return x


def downsample(layer: WanResample, x: Tensor, num_frames: int) -> tuple[Tensor, int]:
    x = layer.resample(x)
    if layer.mode != "downsample3d" or num_frames == 1:
        return x, num_frames
    clip = unfold(x, num_frames)
    later = F.conv3d(clip, layer.time_conv.weight, layer.time_conv.bias, stride=(2, 1, 1))
    clip = torch.cat([clip[:, :, :1], later], dim=2)
    return fold(clip), clip.shape[2]


def upsample(layer: WanResample, x: Tensor, num_frames: int) -> tuple[Tensor, int]:
    if layer.mode == "upsample3d" and num_frames > 1:
        clip = x.unflatten(0, (-1, num_frames))
        first, later = clip[:, :1], clip[:, 1:]
        pairs = causal_conv(layer.time_conv, later.flatten(0, 1), num_frames - 1)
        b, _, c, h, w = later.shape
        pairs = pairs.reshape(b, (num_frames - 1) * 2, c, h, w)
        x = torch.cat([first, pairs], dim=1).flatten(0, 1)
        num_frames = 2 * num_frames - 1
    return layer.resample(_laid_out(x)), num_frames


def encoder_features(encoder: WanEncoder3d, clip: Tensor) -> Tensor:
    """Features before the encoder's head: (B, 3, T, H, W) in [-1, 1] -> (B, D, t, h, w), D = base_dim * dim_mult[-1]."""
    num_frames = clip.shape[2]
    x = causal_conv(encoder.conv_in, fold(clip), num_frames)
    for layer in encoder.down_blocks:
        if isinstance(layer, WanResample):
            x, num_frames = downsample(layer, x, num_frames)
        elif isinstance(layer, WanAttentionBlock):
            x = attention_block(layer, x)
        else:
            x = residual_block(layer, x, num_frames)
    return unfold(mid_block(encoder.mid_block, x, num_frames), num_frames)


def encoder_head(encoder: WanEncoder3d, quant_conv: nn.Conv3d, features: Tensor) -> Tensor:
    """Posterior moments (B, 2z, t, h, w), mean then log-variance, of features (B, D, t, h, w)."""
    num_frames = features.shape[2]
    x = norm_silu_conv(encoder.norm_out, encoder.conv_out, fold(features), num_frames)
    return unfold(causal_conv(quant_conv, x, num_frames), num_frames)


def decode(decoder: WanDecoder3d, post_quant_conv: nn.Conv3d, latents: Tensor, *, run: Run = kept) -> Tensor:
    """(B, z, t, h, w) un-normalised latents -> (B, 3, T, H, W), nominally [-1, 1], not clamped."""
    num_frames = latents.shape[2]
    x = causal_conv(post_quant_conv, fold(latents), num_frames)
    x = mid_block(decoder.mid_block, causal_conv(decoder.conv_in, x, num_frames), num_frames, run=run)
    for block in decoder.up_blocks:
        for resnet in block.resnets:
            x = run(residual_block, resnet, x, num_frames)
        for layer in block.upsamplers or []:
            x, num_frames = upsample(layer, x, num_frames)
    return unfold(norm_silu_conv(decoder.norm_out, decoder.conv_out, x, num_frames), num_frames)
