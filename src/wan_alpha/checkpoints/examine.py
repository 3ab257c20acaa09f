"""What a set of tensors is and what is wrong with it, from names, shapes and types alone (tensors may be on the meta device)."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from wan_alpha.checkpoints.adapter import BASE_NORM, LORA_A, LORA_B, MAGNITUDE, split_key
from wan_alpha.checkpoints.kinds import Kind, kind_of
from wan_alpha.checkpoints.originals import dit_any_name_to_original
from wan_alpha.checkpoints.stage1 import Stage1Tensors, split_stage1
from wan_alpha.errors import CheckpointError

_LAYOUTS: dict[Kind, tuple[str, str]] = {
    "a full Stage-1 checkpoint": ("Stage 1", "stage1"),
    "a decoder LoRA": ("Stage 1", "decoder-lora"),
    "a merge block, feature layout": ("Stage 1", "merge-block"),
    "a merge block, latent layout": ("Stage 1", "merge-block"),
    "an acceleration LoRA": ("Stage 2", "lora"),
    "a DiT": ("base or merged", "merged"),
    "an RGBA VAE, decoders merged": ("Stage 1 on its base", "diffusers, as save_pretrained writes it"),
    "a diffusers VAE": ("base", "diffusers"),
    "an original VAE": ("base or merged", "comfyui"),
}
_DITS = {(160, 640, 6): "tiny", (1536, 8960, 30): "Wan2.1 T2V 1.3B", (5120, 13824, 40): "Wan2.1 T2V 14B"}
_VAES = {(16, 16): "tiny's VAE", (96, 16): "Wan2.1's VAE"}
_TOP_MULTIPLE = 4  # of base_dim: channels of the decoder's first layers and of the encoder's last
_SHOWN = 4


@dataclass(frozen=True, kw_only=True)
class Examination:
    """`layout` is a name that `convert --to` takes; `base` the model it belongs to, by name or by its sizes."""

    kind: Kind | None
    stage: str
    layout: str
    base: str
    ranks: tuple[int, ...]
    problems: tuple[str, ...]


def examine(tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str]) -> Examination:
    """Recognise a file by its keys. Whether a base model is complete is not asked here."""
    kind = kind_of(tensors.keys())
    if kind is None:
        return Examination(kind=None, stage="?", layout="?", base="?", ranks=(), problems=("no layout that is known here",))
    ranks = {tensor.shape[0] for key, tensor in tensors.items() if re.search(r"\.lora_(A|down)\.", key) and tensor.ndim}
    problems = _CHECKS[kind](tensors) if kind in _CHECKS else iter(())
    stage, layout = _adapter_layout(tensors, metadata) if kind == "a DiT adapter" else _LAYOUTS.get(kind, ("none", "none"))
    found = [*problems]
    if len(ranks) > 1:
        found.append(f"mixed ranks {sorted(ranks)}: one rank is needed to train on it")
    return Examination(kind=kind, stage=stage, layout=layout, base=_base(kind, tensors), ranks=tuple(sorted(ranks)), problems=tuple(found))


def groups(tensors: Mapping[str, Tensor]) -> list[str]:
    """One line for each name, shape and type, with block numbers as *: `blocks.*.ffn.0.weight (640, 160) float16 x 6`."""
    counts: Counter[tuple[str, tuple[int, ...], str]] = Counter()
    for key, tensor in tensors.items():
        name = re.sub(r"(?<=blocks\.)\d+(?=\.)", "*", key)
        counts[name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")] += 1
    return [f"{name} {shape} {dtype}" + (f" x {count}" if count > 1 else "") for (name, shape, dtype), count in counts.items()]


def _adapter_layout(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[str, str]:
    splits = [split for key in tensors if (split := split_key(key))]
    prefixes = {prefix for prefix, _, _ in splits}
    kind = "DoRA" if any(part == MAGNITUDE for _, _, part in splits) else "LoRA"
    if prefixes & {"transformer.", "base_model.model."}:
        return f"Stage 2, {kind}", "diffusers"
    if prefixes == {"diffusion_model."}:
        norm = f", for versions that divide by the {metadata[BASE_NORM]} norm" if BASE_NORM in metadata else ""
        return f"Stage 2, {kind}", ("comfyui" if kind == "DoRA" else "lora") + norm
    return f"Stage 2, {kind}", "adapter"


def _adapter_problems(tensors: Mapping[str, Tensor]) -> Iterator[str]:
    parts: dict[str, dict[str, Tensor]] = {}
    foreign = []
    for key, tensor in tensors.items():
        split = split_key(key)
        if split is None:
            foreign.append(key)
            continue
        parts.setdefault(split[1], {})[split[2]] = tensor
        if split[0] == "diffusion_model." and MAGNITUDE in key:
            yield f"{key}: ComfyUI ignores lora_magnitude_vector; it reads dora_scale"
        elif "dora_scale" in key and tensor.ndim != 2:
            yield f"{key} {tuple(tensor.shape)}: ComfyUI needs (out, 1)"
        elif split[0] not in ("", "diffusion_model.", "transformer.", "base_model.model."):
            yield f"{key}: prefix {split[0]} belongs to no published layout"
    yield from (f"{key}: no adapter's name" for key in foreign)
    has_magnitude = any(MAGNITUDE in found for found in parts.values())
    for module, found in parts.items():
        yield from (f"{module}: no {part}" for part in (LORA_A, LORA_B) if part not in found)
        if has_magnitude and MAGNITUDE not in found:
            yield f"{module}: magnitude missing, others have one"
        down, up, magnitude = found.get(LORA_A), found.get(LORA_B), found.get(MAGNITUDE)
        if down is not None and up is not None and down.shape[:1] != up.shape[1:2]:
            yield f"{module}: lora_A {tuple(down.shape)} and lora_B {tuple(up.shape)} do not multiply"
        if up is not None and magnitude is not None and magnitude.numel() != up.shape[0]:
            yield f"{module}: {magnitude.numel()} magnitudes for {up.shape[0]} outputs"


def _stage1_problems(tensors: Mapping[str, Tensor]) -> Iterator[str]:
    try:
        parts = split_stage1(tensors, source="this file")
    except CheckpointError as error:
        yield str(error)
        return
    for decoder, lora in (("vae_fgr", parts.rgb_lora), ("vae_pha", parts.alpha_lora)):
        for key in lora:
            twin = key[:-1] + ("B" if key.endswith("A") else "A")
            if twin not in lora:
                yield f"{decoder}.decoder.{key}: no {twin.rpartition('.')[2]} beside it"
    different = {key.rpartition(".")[0] for key in parts.rgb_lora.keys() ^ parts.alpha_lora.keys()}
    yield from (f"decoder.{path}: in one decoder only" for path in sorted(different))


def _dit_problems(tensors: Mapping[str, Tensor]) -> Iterator[str]:
    wrapped = [key for key in tensors if key.startswith("model.diffusion_model.")]
    if wrapped:
        yield f"{wrapped[0]}: prefix model.diffusion_model. hides the original names; convert --to merged takes it off"


def _rgba_vae_problems(tensors: Mapping[str, Tensor]) -> Iterator[str]:
    parts = ("encoder.", "quant_conv.", "post_quant_conv.", "merge_block.", "rgb_decoder.", "alpha_decoder.")
    found = {part: {key.removeprefix(part) for key in tensors if key.startswith(part)} for part in parts}
    yield from (f"no {part}*" for part, names in found.items() if not names)
    yield from (f"{name}: in one decoder only" for name in sorted(found["rgb_decoder."] ^ found["alpha_decoder."]))
    yield from (f"{key}: no tensor of an RGBA VAE" for key in tensors if not key.startswith(parts))


_CHECKS = {
    "a DiT adapter": _adapter_problems,
    "a full Stage-1 checkpoint": _stage1_problems,
    "a decoder LoRA": _stage1_problems,
    "a merge block, feature layout": _stage1_problems,
    "a merge block, latent layout": _stage1_problems,
    "a DiT": _dit_problems,
    "an RGBA VAE, decoders merged": _rgba_vae_problems,
}


def _base(kind: Kind, tensors: Mapping[str, Tensor]) -> str:
    if kind in ("a DiT adapter", "a DiT", "an acceleration LoRA"):
        return _dit_base(tensors)
    if kind == "an original VAE":
        return _vae_name(tensors, base="encoder.conv1.weight", z="conv2.weight")
    if kind in ("a diffusers VAE", "an RGBA VAE, decoders merged"):
        return _vae_name(tensors, base="encoder.conv_in.weight", z="post_quant_conv.weight")
    if "Stage-1" in kind or "merge block" in kind or "decoder LoRA" in kind:
        try:
            return _stage1_base(split_stage1(tensors, source="this file"))
        except CheckpointError:
            return "?"
    return "none"


def _dit_base(tensors: Mapping[str, Tensor]) -> str:
    """By width, feed-forward width and number of blocks, which adapters show as well as models do."""
    widths: dict[str, int] = {}
    blocks = 0
    for key, tensor in tensors.items():
        split = split_key(key)
        module = split[1] if split else dit_any_name_to_original(key).removesuffix(".weight")
        match = re.fullmatch(r"blocks\.(\d+)\.(self_attn\.q|ffn\.0)", module)
        blocks = max(blocks, int(match[1]) + 1) if match else blocks
        if match and tensor.ndim == 2 and (split is None or split[2] == (LORA_A if "q" in match[2] else LORA_B)):
            widths[match[2]] = tensor.shape[1 if "q" in match[2] else 0]
    sizes = (widths.get("self_attn.q", 0), widths.get("ffn.0", 0), blocks)
    return _DITS.get(sizes, f"a DiT of width {sizes[0] or '?'}, feed-forward {sizes[1] or '?'}, {blocks} blocks")


def _stage1_base(parts: Stage1Tensors) -> str:
    z_dim = base_dim = 0
    if "block.conv1.weight" in parts.merge and "block.head.2.weight" in parts.merge:
        base_dim = parts.merge["block.conv1.weight"].shape[1] // 2 // _TOP_MULTIPLE
        z_dim = parts.merge["block.head.2.weight"].shape[0]
    elif "conv_out.weight" in parts.merge:
        z_dim = parts.merge["conv_out.weight"].shape[0]
    if "conv1.lora_A" in parts.rgb_lora and "conv1.lora_B" in parts.rgb_lora:
        z_dim, base_dim = parts.rgb_lora["conv1.lora_A"].shape[1], parts.rgb_lora["conv1.lora_B"].shape[0] // _TOP_MULTIPLE
    return _named_vae(base_dim, z_dim)


def _vae_name(tensors: Mapping[str, Tensor], *, base: str, z: str) -> str:
    return _named_vae(*(tensors[key].shape[0] if key in tensors else 0 for key in (base, z)))


def _named_vae(base_dim: int, z_dim: int) -> str:
    return _VAES.get((base_dim, z_dim), f"a VAE of base_dim {base_dim or '?'} and z_dim {z_dim or '?'}")


def shortened(problems: tuple[str, ...]) -> list[str]:
    """The first few, and how many more."""
    rest = len(problems) - _SHOWN
    return [*problems[:_SHOWN], *([f"and {rest} more like these"] if rest > 0 else [])]
