"""Prompts to text embeddings, as Wan's pipeline makes them: cleaned, padded to one fixed length, zero after the real end.

The DiT has no text mask, so cache, training and sampling must share one `max_sequence_length`.
"""

import html
import re
from collections.abc import Iterable

import ftfy
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase, UMT5EncoderModel

from wan_alpha.errors import UsageError


def clean_prompt(prompt: str) -> str:
    """Repair mojibake, unescape HTML twice (captions from the web are often escaped twice), collapse white space."""
    return re.sub(r"\s+", " ", html.unescape(html.unescape(ftfy.fix_text(prompt)))).strip()


def check_lengths(prompts: Iterable[str], tokenizer: PreTrainedTokenizerBase, *, limit: int) -> None:
    """UsageError for the first prompt of more than `limit` tokens: nothing is cut off."""
    for text in map(clean_prompt, prompts):
        length = len(tokenizer(text).input_ids)
        if length > limit:
            raise UsageError(f"prompt {text[:40]!r}", got=f"{length} tokens", expected=f"at most {limit}", do="shorten it")


@torch.no_grad()
def encode_prompts(
    prompts: list[str], *, encoder: UMT5EncoderModel, tokenizer: PreTrainedTokenizerBase, max_sequence_length: int
) -> Float[Tensor, "B L D"]:
    """Embeddings (B, max_sequence_length, D) in float32; an over-long prompt raises UsageError rather than lose its end."""
    texts = [clean_prompt(prompt) for prompt in prompts]
    check_lengths(texts, tokenizer, limit=max_sequence_length)
    tokens = tokenizer(texts, padding="max_length", max_length=max_sequence_length, truncation=True, return_tensors="pt")
    device = encoder.get_input_embeddings().weight.device
    hidden = encoder(input_ids=tokens.input_ids.to(device), attention_mask=tokens.attention_mask.to(device)).last_hidden_state
    return hidden.float() * tokens.attention_mask.to(hidden.device)[..., None].float()  # an offloaded encoder ran elsewhere
