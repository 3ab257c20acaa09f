"""From files to the RGBA VAE, and from a clip to its latents: what several stages share."""

from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from wan_alpha.checkpoints.stage1 import Stage1Tensors, read_decoder_lora, read_merge
from wan_alpha.config import BaseModelConfig
from wan_alpha.data.clips import Sample
from wan_alpha.data.draws import generator_at
from wan_alpha.data.latents import fingerprint
from wan_alpha.errors import UsageError
from wan_alpha.models.load import load_vae, resolve_base
from wan_alpha.models.rgba_vae import RGBAlphaVAE, build_rgba_vae
from wan_alpha.models.sources import PartName
from wan_alpha.objectives.transparency import gaussian_ellipse
from wan_alpha.rgba import RENDER_COLOURS, hard_render, to_signed

NO_MERGE_BLOCK = fingerprint({}, {})
"""What merge_fingerprint says of files without a merge block, such as decoder.bin."""
Stage1Part = Literal["merge block", "decoders"]


def stage1_parts(config: BaseModelConfig) -> tuple[Stage1Tensors | None, Stage1Tensors | None]:
    """(merge block, decoder LoRA) of the files in the config; a full Stage-1 checkpoint given once serves for both."""
    merge_path, lora_path = config.feature_merge_checkpoint, config.vae_lora_path
    merge = read_merge(merge_path) if merge_path else None
    lora = read_decoder_lora(lora_path) if lora_path else None
    if merge is None and lora is not None and lora.merge:
        merge = lora
    if lora is None and merge is not None and merge.rgb_lora:
        lora = merge
    return merge, lora


def load_rgba_vae(config: BaseModelConfig, *, device: torch.device, needs: tuple[Stage1Part, ...]) -> RGBAlphaVAE:
    """The trained RGBA VAE for inference, float32, frozen. Raises UsageError when a part that the caller needs is in no file.

    needs: "merge block" to encode clips, "decoders" to decode them; without its LoRA a decoder would be Wan's own RGB decoder.
    """
    merge, lora = stage1_parts(config)
    have = {"merge block": merge, "decoders": lora}
    missing = [part for part in needs if have[part] is None]
    if missing:
        flag = "--feature_merge_checkpoint" if missing[0] == "merge block" else "--vae_lora_path"
        do = f"give a Stage-1 checkpoint, or a file with the {missing[0]}, as {flag}"
        raise UsageError("RGBA VAE", got=f"no file with the {missing[0]}", expected=" and ".join(needs), do=do)
    vae = load_vae(resolve_base(config), dtype=torch.float32, device=device)
    model = build_rgba_vae(vae, merge=merge, decoder_lora=lora).to(device).eval().requires_grad_(False)
    model.passes = config.vae_passes
    return model


def loaded_weights(config: BaseModelConfig, *parts: PartName) -> dict[str, Path]:
    """Role -> file of everything that a config loads: the named parts of the base, and the files of both stages. For run.json."""
    source = resolve_base(config)
    named = {f"{part} {file.name}": file for part in parts for file in source.part(part).files()}
    fields = ("feature_merge_checkpoint", "vae_lora_path", "adapter_path", "acceleration_lora")
    given = {field: getattr(config, field, None) for field in fields}
    return {**named, **{field: path for field, path in given.items() if path is not None}}


@torch.no_grad()
def encode_clip(
    rgba_vae: RGBAlphaVAE,
    rgb: Float[Tensor, "B 3 T H W"],
    alpha: Float[Tensor, "B 1 T H W"],
    *,
    colour: Float[Tensor, "B 3"],
    hard_threshold: float,
) -> Float[Tensor, "B z t h w"]:
    """Normalised latents of straight clips in [0, 1], hard-rendered on one background colour per clip (Eq. 2-4)."""
    rendered = hard_render(rgb, alpha, colour, threshold=hard_threshold)
    return rgba_vae.normalise(rgba_vae.encode(to_signed(rendered), to_signed(alpha)))


def merge_fingerprint(config: BaseModelConfig) -> str:
    """A hash of the merge block's tensors, whichever file of the config holds them."""
    merge, _ = stage1_parts(config)
    return fingerprint(merge.merge if merge else {}, {})


def encode_draw(
    rgba_vae: RGBAlphaVAE, sample: Sample, *, draw: int, seed: int, hard_threshold: float, device: torch.device
) -> tuple[Float[Tensor, "c t h w"], Float[Tensor, "t h w"]]:
    """Normalised latents of a clip on the draw's background colour, and the Gaussian ellipse of its matte; float32 on the CPU."""
    rgb, alpha = sample.rgb[None].to(device), sample.alpha[None].to(device)
    latents = encode_clip(rgba_vae, rgb, alpha, colour=_colour(draw, seed=seed).to(device), hard_threshold=hard_threshold)
    return latents[0].float().cpu(), gaussian_ellipse(sample.alpha[None])[0]  # on the CPU, as everywhere: rounding decides its steps


def _colour(draw: int, *, seed: int) -> Float[Tensor, "1 3"]:
    """Eight draws see the eight colours, in an order of the clip's own."""
    order = torch.randperm(len(RENDER_COLOURS), generator=generator_at(seed, draw // len(RENDER_COLOURS)))
    return RENDER_COLOURS[order[draw % len(RENDER_COLOURS)]][None]


def encoder_tensors(rgba_vae: RGBAlphaVAE) -> dict[str, Tensor]:
    """Everything on the way from pixels to normalised latents."""
    kept = ("encoder.", "quant_conv.", "merge_block.")
    tensors = {name: tensor for name, tensor in rgba_vae.state_dict().items() if name.startswith(kept)}
    return {**tensors, "latents_mean": rgba_vae.latents_mean, "latents_std": rgba_vae.latents_std}
