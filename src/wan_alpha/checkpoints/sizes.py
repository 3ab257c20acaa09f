"""Sizes of a model from the shapes of its original tensors, as keyword arguments of diffusers' and transformers' classes."""

import re
from collections.abc import Collection, Mapping
from math import prod

from torch import Size, Tensor

from wan_alpha.checkpoints.kinds import describe
from wan_alpha.checkpoints.vae_layout import count_res_blocks
from wan_alpha.errors import CheckpointError

WAN_HEAD_DIM = 128  # 1536 / 12 in 1.3B, 5120 / 40 in 14B; the tensors do not show it


def dit_sizes(tensors: Mapping[str, Tensor], *, num_heads: int | None, eps: float) -> dict[str, object]:
    """Arguments of WanTransformer3DModel. Without num_heads, heads have Wan's 128 channels."""
    patch = _shape(tensors, "patch_embedding.weight", expected="an original Wan DiT")
    dim, in_channels, patch_size = patch[0], patch[1], tuple(patch[2:])
    if num_heads is None and dim % WAN_HEAD_DIM:
        raise CheckpointError(
            "DiT", got=f"width {dim}", expected=f"a multiple of {WAN_HEAD_DIM}", do='put a config.json with "num_heads" beside its file'
        )
    heads = num_heads or dim // WAN_HEAD_DIM
    return {
        "patch_size": patch_size,
        "num_attention_heads": heads,
        "attention_head_dim": dim // heads,
        "in_channels": in_channels,
        "out_channels": _shape(tensors, "head.head.weight")[0] // prod(patch_size),
        "text_dim": _shape(tensors, "text_embedding.0.weight")[1],
        "freq_dim": _shape(tensors, "time_embedding.0.weight")[1],
        "ffn_dim": _shape(tensors, "blocks.0.ffn.0.weight")[0],
        "num_layers": _count(tensors, r"blocks\.(\d+)\."),
        "eps": eps,
    }


def vae_sizes(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    """Arguments of AutoencoderKLWan, without the statistics of its latents, which no tensor holds."""
    blocks = count_res_blocks(tensors.keys())
    base_dim = _shape(tensors, "encoder.conv1.weight", expected="an original Wan VAE")[0]
    resamples = sorted(
        int(match[1]) for key in tensors if (match := re.fullmatch(r"encoder\.downsamples\.(\d+)\.resample\.1\.weight", key))
    )
    levels = range(len(resamples) + 1)
    widths = [_shape(tensors, f"encoder.downsamples.{level * (blocks + 1)}.residual.2.weight")[0] for level in levels]
    return {
        "base_dim": base_dim,
        "decoder_base_dim": _shape(tensors, "decoder.head.0.gamma")[0],
        "z_dim": _shape(tensors, "conv2.weight")[0],
        "dim_mult": [width // base_dim for width in widths],
        "num_res_blocks": blocks,
        "temperal_downsample": [f"encoder.downsamples.{index}.time_conv.weight" in tensors for index in resamples],
    }


def text_sizes(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    """Arguments of UMT5Config."""
    vocab_size, d_model = _shape(tensors, "token_embedding.weight", expected="an original umT5 encoder")
    num_buckets, num_heads = _shape(tensors, "blocks.0.pos_embedding.embedding.weight")
    return {
        "vocab_size": vocab_size,
        "d_model": d_model,
        "d_kv": _shape(tensors, "blocks.0.attn.q.weight")[0] // num_heads,
        "d_ff": _shape(tensors, "blocks.0.ffn.fc1.weight")[0],
        "num_layers": _count(tensors, r"blocks\.(\d+)\."),
        "num_heads": num_heads,
        "relative_attention_num_buckets": num_buckets,
    }


def _shape(tensors: Mapping[str, Tensor], key: str, *, expected: str = "a complete file") -> Size:
    if key not in tensors:
        raise CheckpointError(
            f"weights without {key}", got=describe(tensors.keys()), expected=expected, do="check that every part of the file is there"
        )
    return tensors[key].shape


def _count(keys: Collection[str], pattern: str) -> int:
    return 1 + max(int(match[1]) for key in keys if (match := re.match(pattern, key)))
