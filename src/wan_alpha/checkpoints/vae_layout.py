"""Names of the Wan VAE's tensors: diffusers' and the original ones, by index arithmetic for any number of residual blocks.

diffusers                                   original
encoder.conv_in | conv_out | norm_out       encoder.conv1 | head.2 | head.0        (decoder the same)
*.mid_block.resnets.{0,1}                   *.middle.{0,2}
*.mid_block.attentions.0                    *.middle.1
encoder.down_blocks.N                       encoder.downsamples.N
decoder.up_blocks.I.resnets.J               decoder.upsamples.(I*(R+2)+J)          R residual blocks per level, R+1 in the decoder
decoder.up_blocks.I.upsamplers.0            decoder.upsamples.(I*(R+2)+R+1)
norm1 | conv1 | norm2 | conv2               residual.0 | residual.2 | residual.3 | residual.6
quant_conv | post_quant_conv                conv1 | conv2
"""

import re
from collections.abc import Collection, Iterable, Mapping

from torch import Tensor

from wan_alpha.checkpoints.kinds import describe
from wan_alpha.errors import CheckpointError

_RESIDUAL = {"norm1": "residual.0", "conv1": "residual.2", "norm2": "residual.3", "conv2": "residual.6", "conv_shortcut": "shortcut"}
_ENDS = {"conv_in": "conv1", "norm_out": "head.0", "conv_out": "head.2"}
_TOP = {"quant_conv": "conv1", "post_quant_conv": "conv2"}


def original_decoder_path(path: str, *, num_res_blocks: int) -> str:
    """Original name of a decoder's module (or tensor), both without `decoder.`.

    >>> original_decoder_path("up_blocks.1.resnets.0.conv_shortcut", num_res_blocks=2)
    'upsamples.4.shortcut'
    """
    parts = path.split(".")
    if parts[0] == "up_blocks":
        level, kind, index = int(parts[1]), parts[2], int(parts[3])
        flat = level * (num_res_blocks + 2) + (num_res_blocks + 1 if kind == "upsamplers" else index)
        return ".".join(["upsamples", str(flat), *_inside(parts[4:])])
    return _ends_and_middle(parts)


def original_key(key: str, *, num_res_blocks: int) -> str:
    """Original name of any tensor of diffusers' AutoencoderKLWan."""
    top, _, rest = key.partition(".")
    if top in _TOP:
        return f"{_TOP[top]}.{rest}"
    if top == "decoder":
        return f"decoder.{original_decoder_path(rest, num_res_blocks=num_res_blocks)}"
    parts = rest.split(".")
    if top == "encoder" and parts[0] == "down_blocks":
        return ".".join(["encoder", "downsamples", parts[1], *_inside(parts[2:])])
    if top == "encoder":
        return f"encoder.{_ends_and_middle(parts)}"
    raise CheckpointError("VAE tensor", got=repr(key), expected="a tensor of AutoencoderKLWan")


def to_original(tensors: Mapping[str, Tensor], *, num_res_blocks: int) -> dict[str, Tensor]:
    """A diffusers VAE's state in the original names."""
    return {original_key(key, num_res_blocks=num_res_blocks): tensor for key, tensor in tensors.items()}


def from_original(tensors: Mapping[str, Tensor], *, diffusers_keys: Iterable[str], num_res_blocks: int) -> dict[str, Tensor]:
    """An original VAE's state in diffusers' names. Keys of the file that the model has no place for stay as they are."""
    names = {original_key(key, num_res_blocks=num_res_blocks): key for key in diffusers_keys}
    return {names.get(key, key): tensor for key, tensor in tensors.items()}


def one_decoder_key(key: str, *, decoder: str, num_res_blocks: int) -> str | None:
    """Original name of an RGBAlphaVAE's tensor in the whole VAE of one of its decoders, "rgb" or "alpha"; None where it has no place."""
    top, _, rest = key.partition(".")
    if top == f"{decoder}_decoder":
        return original_key(f"decoder.{rest}", num_res_blocks=num_res_blocks)
    return original_key(key, num_res_blocks=num_res_blocks) if top in ("encoder", *_TOP) else None


def count_res_blocks(keys: Collection[str]) -> int:
    """Residual blocks per level of an original VAE, from the number of its decoder's `upsamples` entries."""
    entries = {int(match[1]) for key in keys if (match := re.match(r"decoder\.upsamples\.(\d+)\.", key))}
    levels = 1 + sum(bool(re.fullmatch(r"decoder\.upsamples\.\d+\.resample\.1\.weight", key)) for key in keys)
    if not entries or (len(entries) + 1) % levels:
        raise CheckpointError("VAE checkpoint", got=describe(keys), expected="an original Wan VAE, decoder.upsamples.N.*")
    return (len(entries) + 1) // levels - 2


def _inside(parts: list[str]) -> list[str]:
    return [_RESIDUAL.get(part, part) for part in parts]


def _ends_and_middle(parts: list[str]) -> str:
    if parts[0] in _ENDS:
        return ".".join([_ENDS[parts[0]], *parts[1:]])
    if parts[0] == "mid_block":
        index = 2 * int(parts[2]) + (1 if parts[1] == "attentions" else 0)
        return ".".join(["middle", str(index), *_inside(parts[3:])])
    raise CheckpointError("VAE module", got=repr(".".join(parts)), expected="a module of the Wan encoder or decoder")
