"""Names of Wan's DiT and text encoder: the original ones, and those of diffusers and transformers, both ways.

The maps work on modules (`blocks.0.attn1.to_q`) and on tensors (`blocks.0.attn1.to_q.weight`). Adapters are published in the
original names. The VAE's names are in vae_layout.py.
"""

import hashlib
import re
from collections.abc import Mapping

from torch import Tensor

from wan_alpha.errors import CheckpointError

_DIT_BLOCK = {
    **{
        f"{diffusers}.{inner}": f"{original}.{outer}"
        for diffusers, original in (("attn1", "self_attn"), ("attn2", "cross_attn"))
        for inner, outer in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "o"), ("norm_q", "norm_q"), ("norm_k", "norm_k"))
    },
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
    "norm2": "norm3",  # the one norm with weights: before cross attention, second in diffusers' order, third by its original name
    "scale_shift_table": "modulation",
}
_DIT_TOP = {
    "patch_embedding": "patch_embedding",
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "proj_out": "head.head",
    "scale_shift_table": "head.modulation",
}
_ONLY_DIFFUSERS = re.compile(r"\.(attn[12]|ffn\.net|norm2)\.|^condition_embedder\.|^proj_out\.|scale_shift_table$")
_TEXT_BLOCK = {
    "layer.0.layer_norm": "norm1",
    "layer.1.layer_norm": "norm2",
    **{f"layer.0.SelfAttention.{name}": f"attn.{name}" for name in "qkvo"},
    "layer.0.SelfAttention.relative_attention_bias": "pos_embedding.embedding",
    "layer.1.DenseReluDense.wi_0": "ffn.gate.0",
    "layer.1.DenseReluDense.wi_1": "ffn.fc1",
    "layer.1.DenseReluDense.wo": "ffn.fc2",
}
_TEXT_TOP = {"shared": "token_embedding", "encoder.final_layer_norm": "norm"}
TIED_EMBEDDING = "encoder.embed_tokens.weight"  # transformers' second name of shared.weight


def dit_original_name(name: str) -> str:
    """Original name of a module or tensor of diffusers' WanTransformer3DModel; raises CheckpointError for a name it does not have.

    >>> dit_original_name("blocks.3.attn2.to_out.0.bias"), dit_original_name("blocks.3.ffn.net.0.proj")
    ('blocks.3.cross_attn.o.bias', 'blocks.3.ffn.0')
    """
    return _rename(name, blocks=("blocks", "blocks", _DIT_BLOCK), top=_DIT_TOP, what="DiT tensor")


def dit_diffusers_name(name: str) -> str:
    """The inverse of dit_original_name."""
    return _rename(name, blocks=("blocks", "blocks", _inverse(_DIT_BLOCK)), top=_inverse(_DIT_TOP), what="DiT tensor")


def dit_any_name_to_original(name: str) -> str:
    """The original name of a module or tensor that has either name; `model.diffusion_model.` may stand before it."""
    name = name.removeprefix("model.diffusion_model.")
    return dit_original_name(name) if _ONLY_DIFFUSERS.search(name) else name


def dit_to_original(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State of a WanTransformer3DModel in the original names."""
    return {dit_original_name(key): tensor for key, tensor in tensors.items()}


def text_to_original(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State of a UMT5EncoderModel in the names of models_t5_umt5-xxl-enc-bf16.pth, the tied embedding once."""
    blocks = ("encoder.block", "blocks", _TEXT_BLOCK)
    return {
        _rename(key, blocks=blocks, top=_TEXT_TOP, what="text encoder tensor"): tensor
        for key, tensor in tensors.items()
        if key != TIED_EMBEDDING
    }


def text_from_original(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of text_to_original, the tied embedding under both of its names."""
    blocks, top = ("blocks", "encoder.block", _inverse(_TEXT_BLOCK)), _inverse(_TEXT_TOP)
    renamed = {_rename(key, blocks=blocks, top=top, what="text encoder tensor"): tensor for key, tensor in tensors.items()}
    if "shared.weight" in renamed:
        renamed[TIED_EMBEDDING] = renamed["shared.weight"]
    return renamed


def layout_md5(tensors: Mapping[str, Tensor]) -> str:
    """Fingerprint of names and shapes by which DiffSynth-Studio recognises a model: md5 of the sorted `name` and `name:d0_d1_...`."""
    entries = [entry for key, tensor in tensors.items() for entry in (key, f"{key}:{'_'.join(map(str, tensor.shape))}")]
    return hashlib.md5(",".join(sorted(entries)).encode(), usedforsecurity=False).hexdigest()


def _inverse(table: Mapping[str, str]) -> dict[str, str]:
    return {new: old for old, new in table.items()}


def _rename(name: str, *, blocks: tuple[str, str, Mapping[str, str]], top: Mapping[str, str], what: str) -> str:
    """Replace the leading module path by its entry in the table of its place: inside block i, or at the top."""
    old_blocks, new_blocks, inside = blocks
    match = re.fullmatch(rf"{re.escape(old_blocks)}\.(\d+)\.(.+)", name)
    prefix, rest, table = (f"{new_blocks}.{match[1]}.", match[2], inside) if match else ("", name, top)
    for old, new in table.items():
        if rest == old or rest.startswith(old + "."):
            return prefix + new + rest[len(old) :]
    raise CheckpointError(what, got=repr(name), expected=f"one of this model's, such as {next(iter(top))}")
