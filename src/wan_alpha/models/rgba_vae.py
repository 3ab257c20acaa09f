"""The RGBA VAE: one frozen Wan encoder for colour and matte, a merge block, one latent, two decoders.

    z = merge(encoder(hard render), encoder(alpha)),   rgb = D_rgb(z),   alpha = D_alpha(z)        (paper, Eq. 2-6; reference.md 1)

Pixels are [-1, 1] here, (B, 3, T, H, W). Latents leave `encode` and enter `decode` un-normalised; the diffusion transformer works
on `normalise(latents)`. Both decoders share the frozen base weights; each may have its own LoRA.
"""

import json
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKLWan, ModelMixin
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanDecoder3d, WanEncoder3d
from diffusers.utils.accelerate_utils import apply_forward_hook
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from wan_alpha.checkpoints.files import existing_file, read_tensors, require_shapes, write_tensors
from wan_alpha.checkpoints.stage1 import Stage1Tensors, read_stage1
from wan_alpha.checkpoints.vae_layout import original_decoder_path
from wan_alpha.errors import CheckpointError
from wan_alpha.geometry import SPATIAL_FACTOR, TEMPORAL_FACTOR
from wan_alpha.media.atomic import beside
from wan_alpha.models import whole_clip
from wan_alpha.models.feature_merge import (
    FeatureMergeBlock,
    MergeBlock,
    MergeLayout,
    initialise_from_encoder,
    make_merge_block,
    merge_block_from_tensors,
)
from wan_alpha.models.low_rank import convolutions, inject_low_rank, load_low_rank, low_rank_layers, low_rank_tensors, merge_low_rank
from wan_alpha.models.tiles import tiled_decode

Passes = Literal["auto", "whole", "chunked", "tiled"]
WHOLE_UP_TO_PIXELS, CHUNKED_UP_TO_PIXELS = 2**23, 2**20
"""With passes "auto": larger clips (pixels times frames, of the batch) go a latent frame at a time, larger frames in tiles as well."""
TrainMode = Literal["merge", "merge+decoders"]
WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"


class RGBAlphaVAE(ModelMixin):
    """Encode (colour, matte) to one latent, decode it to both. Build it with `build_rgba_vae`.

    It is a component of a diffusers pipeline: `save_pretrained` writes one folder with merged decoders, `from_pretrained` reads it.

    gradient_checkpointing: the merge block and whole-clip decoders keep the inputs of their residual and attention blocks only, and run
    these again in the backward pass.
    passes: "whole" runs each network once over the whole clip; "chunked" is diffusers' way, a latent frame at a time, for clips too
    large for memory; "tiled" also decodes each frame in tiles. All are equal up to rounding; "auto" chooses by size.
    """

    latents_mean: Tensor
    latents_std: Tensor

    def __init__(
        self,
        vae: AutoencoderKLWan,
        *,
        merge_block: MergeBlock,
        rgb_decoder: WanDecoder3d,
        alpha_decoder: WanDecoder3d,
        passes: Passes = "whole",
    ) -> None:
        super().__init__()
        self.encoder: WanEncoder3d = vae.encoder
        self.quant_conv: WanCausalConv3d = vae.quant_conv
        self.post_quant_conv: WanCausalConv3d = vae.post_quant_conv
        self.merge_block = merge_block
        self.rgb_decoder, self.alpha_decoder = rgb_decoder, alpha_decoder
        self.passes: Passes = passes
        self.gradient_checkpointing = False
        self.z_dim: int = vae.config.z_dim
        self.num_res_blocks: int = vae.config.num_res_blocks
        self.vae_config = {name: value for name, value in vae.config.items() if not name.startswith("_")}
        for name in ("latents_mean", "latents_std"):
            constants = torch.tensor(getattr(vae.config, name), dtype=torch.float32).view(1, -1, 1, 1, 1)
            self.register_buffer(name, constants, persistent=False)

    @torch.no_grad()
    def features(
        self, rgb: Float[Tensor, "B 3 T H W"], alpha: Float[Tensor, "B A T H W"]
    ) -> tuple[Float[Tensor, "B D t h w"], Float[Tensor, "B D t h w"]]:
        """What the merge block takes, of colour (already rendered on a background) and of the matte (1 or 3 channels), in [-1, 1].

        Feature layout: the encoder's features before its head. Latent layout: normalised posterior means. Both go through the
        encoder as one batch; no gradient, since the encoder is frozen.
        """
        clip = torch.cat([rgb, alpha.expand_as(rgb)])
        encode = chunked_features if self._in_chunks(clip.shape[0] * clip[0, 0].numel()) else whole_clip.encoder_features
        features = encode(self.encoder, clip.to(_dtype(self.encoder)))
        if self.merge_block.layout == "latent":
            moments = whole_clip.encoder_head(self.encoder, self.quant_conv, features)
            features = self.normalise(moments[:, : self.z_dim].to(rgb.dtype))
        of_rgb, of_alpha = features.to(rgb.dtype).chunk(2)
        return of_rgb, of_alpha

    def merge(self, rgb_features: Float[Tensor, "B D t h w"], alpha_features: Float[Tensor, "B D t h w"]) -> Float[Tensor, "B z t h w"]:
        """Un-normalised latents from `features`, in either layout; gradients reach the merge block."""
        merged = self.merge_block(rgb_features, alpha_features, run=self._run)
        return self.denormalise(merged) if self.merge_block.layout == "latent" else merged

    def encode(self, rgb: Float[Tensor, "B 3 T H W"], alpha: Float[Tensor, "B A T H W"]) -> Float[Tensor, "B z t h w"]:
        """Un-normalised latents of colour rendered on a background and of the matte, both in [-1, 1]."""
        return self.merge(*self.features(rgb, alpha))

    def decode_raw(self, latents: Float[Tensor, "B z t h w"]) -> tuple[Float[Tensor, "B 3 T H W"], Float[Tensor, "B 3 T H W"]]:
        """Colour and three-channel matte of un-normalised latents, nominally [-1, 1], not clamped: what the losses compare."""
        return self._decode(self.rgb_decoder, latents), self._decode(self.alpha_decoder, latents)

    @apply_forward_hook  # an offloaded model comes to its device
    def decode(self, latents: Float[Tensor, "B z t h w"]) -> tuple[Float[Tensor, "B 3 T H W"], Float[Tensor, "B 1 T H W"]]:
        """Colour and matte of un-normalised latents, nominally [-1, 1], not clamped; the matte is the mean of its three channels."""
        rgb, alpha = self.decode_raw(latents)
        return rgb, alpha.mean(dim=1, keepdim=True)

    def normalise(self, latents: Float[Tensor, "B z t h w"]) -> Float[Tensor, "B z t h w"]:
        """(z - mean) / std with the VAE's own constants: the diffusion transformer's scale."""
        return (latents - self.latents_mean.to(latents)) / self.latents_std.to(latents)

    def denormalise(self, latents: Float[Tensor, "B z t h w"]) -> Float[Tensor, "B z t h w"]:
        return latents * self.latents_std.to(latents) + self.latents_mean.to(latents)

    def trainable_parameters(self, *, mode: TrainMode) -> dict[str, nn.Parameter]:
        """Named parameters that the mode trains: the merge block's, and with "merge+decoders" the LoRA factors of both decoders."""
        named = {f"merge_block.{name}": parameter for name, parameter in self.merge_block.named_parameters()}
        if mode == "merge":
            return named
        for which in ("rgb_decoder", "alpha_decoder"):
            layers = dict(low_rank_layers(getattr(self, which)))
            if not layers:
                raise CheckpointError(f"mode {mode}", got=f"a {which} without LoRA", expected="decoder LoRA", do="give --decoder_lora_rank")
            for name, layer in layers.items():
                named.update({f"{which}.{name}.{part}": factor for part, factor in layer.named_parameters()})
        return named

    def stage1_tensors(self) -> Stage1Tensors:
        """Everything that Stage 1 trains, ready for `checkpoints.stage1.write_*`."""
        return Stage1Tensors(
            source="this model",
            merge={key: tensor.detach() for key, tensor in self.merge_block.state_dict().items()},
            rgb_lora=self._original_lora(self.rgb_decoder),
            alpha_lora=self._original_lora(self.alpha_decoder),
        )

    def decoder_tensors(self) -> dict[str, Tensor]:
        """Both decoders by name, with their LoRA."""
        return {name: tensor for name, tensor in self.state_dict().items() if name.startswith(("rgb_decoder.", "alpha_decoder."))}

    def merge_decoder_lora(self) -> None:
        """Fold the LoRA into both decoders' weights (W + B A / r): for inference and for merged exports."""
        merge_low_rank(self.rgb_decoder)
        merge_low_rank(self.alpha_decoder)

    def save_pretrained(self, save_directory: str | Path, **_: object) -> None:
        """config.json (the base VAE's) and one file of weights, the decoders' LoRA merged; the model itself does not change."""
        folder = Path(save_directory)
        write_tensors(folder / WEIGHTS_NAME, _merged_state(self), metadata={})
        with beside(folder / "config.json") as partial:
            partial.write_text(json.dumps({"_class_name": type(self).__name__, "passes": self.passes, "vae": self.vae_config}, indent=1))

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *, torch_dtype: torch.dtype | None = None, **_: object
    ) -> "RGBAlphaVAE":
        """The model of a folder, frozen, float32 unless another dtype is asked for: what `save_pretrained` wrote, or the rgba_vae folder
        that `wan-alpha convert --to diffusers` wrote, whose config.json names its base VAE beside. Raises CheckpointError."""
        folder, prefix = Path(pretrained_model_name_or_path), "merge_block."
        path, config = folder / WEIGHTS_NAME, _folder_config(folder / "config.json")
        if "base" in config:
            return _on_base(read_stage1(path), base=folder / config["base"]).to(torch_dtype or torch.float32)
        tensors = {name: tensor.to(torch_dtype or torch.float32) for name, tensor in read_tensors(path).items()}
        with init_empty_weights():
            vae = AutoencoderKLWan.from_config(config["vae"])
        block = merge_block_from_tensors({k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}, what=str(path))
        decoders = {"rgb_decoder": deepcopy(vae.decoder), "alpha_decoder": deepcopy(vae.decoder)}
        model = cls(vae, merge_block=block, passes=config["passes"], **decoders)
        require_shapes(tensors, model.state_dict(), what=path)
        model.load_state_dict(tensors, strict=True, assign=True)
        return model.eval().requires_grad_(False)

    def _decode(self, decoder: WanDecoder3d, latents: Tensor) -> Tensor:
        frame = latents.shape[0] * SPATIAL_FACTOR**2 * latents[0, 0, 0].numel()
        pixels = frame * TEMPORAL_FACTOR * latents.shape[2]
        run: Callable[..., Tensor] = partial(whole_clip.decode, run=self._run)
        if self.passes == "tiled" or (self.passes == "auto" and frame > CHUNKED_UP_TO_PIXELS):
            run = tiled_decode
        elif self._in_chunks(pixels):
            run = chunked_decode
        return run(decoder, self.post_quant_conv, latents.to(_dtype(self.post_quant_conv))).to(latents.dtype)

    @property
    def _run(self) -> whole_clip.Run:
        return whole_clip.recomputed if self.gradient_checkpointing else whole_clip.kept

    def _in_chunks(self, pixels: int) -> bool:
        return self.passes in ("chunked", "tiled") or (self.passes == "auto" and pixels > WHOLE_UP_TO_PIXELS)

    def _original_lora(self, decoder: WanDecoder3d) -> dict[str, Tensor]:
        rename = _original_names(decoder, self.num_res_blocks)
        return {rename(key): tensor for key, tensor in low_rank_tensors(decoder).items()}


def build_rgba_vae(
    vae: AutoencoderKLWan,
    *,
    merge: Stage1Tensors | None = None,
    decoder_lora: Stage1Tensors | None = None,
    layout: MergeLayout = "feature",
    merge_init: Literal["encoder", "random"] = "encoder",
    width: int | None = None,
    rank: int | None = None,
    generator: torch.Generator | None = None,
) -> RGBAlphaVAE:
    """An RGBA VAE on a base VAE, whose encoder it shares and freezes; `vae.decoder` itself is not touched.

    merge, decoder_lora: loaded parts (checkpoints.stage1.read_merge, read_decoder_lora; one Stage-1 file can be both). Without
    `merge` a new block of `layout` and `width` is made, started as `merge_init` says. Without `decoder_lora` the decoders are
    plain, or get fresh factors of `rank`. Whatever is new follows from `generator`. Raises CheckpointError, naming the file, for
    parts that belong to another VAE.
    """
    vae.requires_grad_(False)
    feature_dim = vae.encoder.norm_out.gamma.shape[0]
    if merge is not None:
        block = merge_block_from_tensors(merge.merge, what=merge.source)
        _require_fit(block, z_dim=vae.config.z_dim, feature_dim=feature_dim, source=merge.source)
    else:
        with torch.random.fork_rng(devices=[]):  # layers draw their start from torch's global generator
            torch.manual_seed(generator.initial_seed() if generator else torch.initial_seed())
            block = make_merge_block(layout, feature_dim=feature_dim, z_dim=vae.config.z_dim, width=width)
        if isinstance(block, FeatureMergeBlock) and merge_init == "encoder":
            initialise_from_encoder(block, encoder=vae.encoder, quant_conv=vae.quant_conv)
    rgb_decoder, alpha_decoder = _share(vae.decoder), _share(vae.decoder)
    if decoder_lora is not None:
        _load_lora(rgb_decoder, decoder_lora.rgb_lora, vae=vae, what=f"{decoder_lora.source} (colour decoder)")
        _load_lora(alpha_decoder, decoder_lora.alpha_lora, vae=vae, what=f"{decoder_lora.source} (matte decoder)")
    elif rank is not None:
        inject_low_rank(rgb_decoder, rank=rank, generator=generator)
        inject_low_rank(alpha_decoder, rank=rank, generator=generator)
    block = block.to(vae.post_quant_conv.weight.device)
    return RGBAlphaVAE(vae, merge_block=block, rgb_decoder=rgb_decoder, alpha_decoder=alpha_decoder)


def _folder_config(path: Path) -> dict[str, Any]:
    """config.json of either folder; the base VAE is in "vae" (its settings) with "passes", or in "base" (its folder)."""
    try:
        config = json.loads(existing_file(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(path, got=f"no JSON ({error})", expected="the config.json of an RGBA VAE") from error
    if not isinstance(config, dict) or not ("base" in config or {"vae", "passes"} <= config.keys()):
        do = "wan-alpha convert FILE --to diffusers, or give the file of weights as --feature_merge_checkpoint"
        raise CheckpointError(path, got="no word of the base VAE", expected="the config.json of an RGBA VAE", do=do)
    return config


def _on_base(parts: Stage1Tensors, *, base: Path) -> RGBAlphaVAE:
    """Merge block and decoder LoRA, merged, on a diffusers VAE's folder."""
    missing = [name for name, have in (("merge block", parts.merge), ("decoder LoRA", parts.rgb_lora and parts.alpha_lora)) if not have]
    if missing:
        do = "give it as --feature_merge_checkpoint or --vae_lora_path, and the other part beside it"
        raise CheckpointError(parts.source, got=f"no {missing[0]}", expected="merge block and decoder LoRA", do=do)
    if not (base / "config.json").is_file():
        do = "keep vae/ beside rgba_vae/, as convert --to diffusers writes them"
        raise CheckpointError(parts.source, got=f"no {base / 'config.json'}", expected="the base VAE", do=do)
    vae = AutoencoderKLWan.from_pretrained(base, torch_dtype=torch.float32, local_files_only=True)
    model = build_rgba_vae(vae, merge=parts, decoder_lora=parts)
    model.merge_decoder_lora()
    return model.eval().requires_grad_(False)


def _share(decoder: WanDecoder3d) -> WanDecoder3d:
    """A second decoder on the same parameters: deepcopy with a memo in which every parameter is its own copy."""
    return deepcopy(decoder, {id(parameter): parameter for parameter in decoder.parameters()})


def _load_lora(decoder: WanDecoder3d, lora: dict[str, Tensor], *, vae: AutoencoderKLWan, what: str) -> None:
    rename = _original_names(decoder, vae.config.num_res_blocks)
    ours = {rename(f"{name}.lora_{part}"): f"{name}.lora_{part}" for name in convolutions(decoder) for part in "AB"}
    load_low_rank(decoder, {ours.get(key, key): tensor for key, tensor in lora.items()}, what=what)


def _original_names(decoder: WanDecoder3d, num_res_blocks: int) -> Callable[[str], str]:
    return lambda key: original_decoder_path(key, num_res_blocks=num_res_blocks)


def _require_fit(block: MergeBlock, *, z_dim: int, feature_dim: int, source: str) -> None:
    if block.z_dim != z_dim:
        raise CheckpointError(source, got=f"a merge block to {block.z_dim} latent channels", expected=f"{z_dim}, as the base VAE has")
    if isinstance(block, FeatureMergeBlock) and block.feature_dim != feature_dim:
        raise CheckpointError(source, got=f"a merge block on {block.feature_dim} features", expected=f"{feature_dim}, as the base VAE has")


def _merged_state(model: nn.Module) -> dict[str, Tensor]:
    """The state of the same model with its LoRA folded in: `X.weight` in place of `X.parametrizations.weight.*`."""
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        convolution, marker, _ = name.partition(".parametrizations.weight.")
        state[f"{convolution}.weight" if marker else name] = torch.as_tensor(model.get_submodule(convolution).weight) if marker else tensor
    return state


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype


def chunked_features(encoder: WanEncoder3d, clip: Float[Tensor, "B 3 T H W"]) -> Float[Tensor, "B D t h w"]:
    """diffusers' chunked encoder (1 frame, then 4 at a time, with its feature caches), stopped before the head."""
    before_head: list[Tensor] = []
    hook = encoder.norm_out.register_forward_pre_hook(lambda _module, args: before_head.append(args[0]))
    caches = _empty_caches(encoder)
    try:
        for chunk in [clip[:, :, :1], *clip[:, :, 1:].split(4, dim=2)]:
            if chunk.shape[2]:
                encoder(chunk, feat_cache=caches, feat_idx=[0])
    finally:
        hook.remove()
    return torch.cat(before_head, dim=2)


def chunked_decode(decoder: WanDecoder3d, post_quant_conv: nn.Conv3d, latents: Float[Tensor, "B z t h w"]) -> Float[Tensor, "B 3 T H W"]:
    """diffusers' chunked decoder (a latent frame at a time, with its feature caches), not clamped."""
    caches = _empty_caches(decoder)
    frames = []
    with parametrize.cached():  # W + s B A once for the clip, not once per frame
        for index, latent in enumerate(post_quant_conv(latents).split(1, dim=2)):
            frames.append(decoder(latent, feat_cache=caches, feat_idx=[0], first_chunk=index == 0))
    return torch.cat(frames, dim=2)


def _empty_caches(network: nn.Module) -> list[Tensor | None]:
    return [None] * sum(isinstance(module, WanCausalConv3d) for module in network.modules())
