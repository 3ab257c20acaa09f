"""What a file is, from the names of its tensors."""

import re
from collections.abc import Collection
from typing import Literal

Kind = Literal[
    "a full Stage-1 checkpoint",
    "a decoder LoRA",
    "a merge block, feature layout",
    "a merge block, latent layout",
    "an acceleration LoRA",
    "a DiT adapter",
    "an RGBA VAE, decoders merged",
    "a diffusers VAE",
    "an original VAE",
    "a DiT",
    "VGG16",
    "a text encoder",
]
_SIGNS: dict[Kind, str] = {
    "a full Stage-1 checkpoint": r"middle\.(block|conv_in)\.",
    "a decoder LoRA": r"vae_(fgr|pha)\.decoder\.",
    "a merge block, feature layout": r"(middle\.)?block\.conv1\.",
    "a merge block, latent layout": r"(middle\.)?(res_blocks|attn_blocks)\.0\.",
    "an acceleration LoRA": r".+\.diff(_b|_m)?$",
    "a DiT adapter": r".+\.(lora_(A|B|down|up|magnitude_vector)(\.|$)|dora_scale$)",
    "an RGBA VAE, decoders merged": r"(rgb|alpha)_decoder\.",
    "a diffusers VAE": r"decoder\.up_blocks\.",
    "an original VAE": r"decoder\.upsamples\.",
    "a DiT": r"(.+\.)?blocks\.0\.(self_attn|attn1)\.",
    "VGG16": r"features\.0\.weight",
    "a text encoder": r"token_embedding\.|encoder\.block\.0\.",
}


def kind_of(keys: Collection[str]) -> Kind | None:
    """The first kind in the order above of which a key shows the sign; None when no kind is recognised."""
    found = next((kind for kind, sign in _SIGNS.items() if any(re.match(sign, key) for key in keys)), None)
    if found == "a full Stage-1 checkpoint" and not any("vae_fgr." in key or "vae_pha." in key for key in keys):
        return "a merge block, feature layout" if any(".block." in key for key in keys) else "a merge block, latent layout"
    return found


def describe(keys: Collection[str]) -> str:
    """What a file of these keys looks like, for error messages."""
    kind = kind_of(keys)
    return f"{kind} ({len(keys)} tensors)" if kind else f"{len(keys)} tensors of an unknown layout"
