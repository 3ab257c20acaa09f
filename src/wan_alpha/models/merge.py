"""Adapters into the DiT's weights: exact, in float32, the result rounded once to the weights' type.

Order matters: DoRA divides by the norm of what it is added to. Merge the adapter first, an acceleration LoRA second, as the
published inference does.
"""

import re
from collections.abc import Mapping

import torch
from diffusers import WanTransformer3DModel
from jaxtyping import Float
from torch import Tensor, nn

from wan_alpha.checkpoints.adapter import Adapter, LowRank
from wan_alpha.checkpoints.originals import dit_diffusers_name
from wan_alpha.checkpoints.vae_layout import describe
from wan_alpha.errors import CheckpointError, UsageError
from wan_alpha.models.dora import SMALLEST_NORM, adapter_layers, require_fit, row_norms

_ACCELERATION = re.compile(
    r"(?:diffusion_model\.)?(?P<module>.+?)\.(?:(?P<product>lora_A|lora_B|lora_down|lora_up)(?:\.default)?\.weight|(?P<single>diff|diff_b|diff_m|alpha))"
)
_DIFF_TARGETS = {"diff": "weight", "diff_b": "bias", "diff_m": "modulation"}
_PRODUCT_SIDES = {"lora_A": "down", "lora_down": "down", "lora_B": "up", "lora_up": "up"}


def adapted_weight(weight: Float[Tensor, "o i"], layer: LowRank, *, strength: float) -> Float[Tensor, "o i"]:
    """float32 weight with the adapter at a strength a:

    LoRA  W + a B A
    DoRA  m_a (W + a B A) / ||W + a B A||,   m_a = (1 - a) ||W|| + a m

    so that a = 0 is the base and a = 1 the adapter (the published tool keeps m at every strength: not the base at 0).
    """
    device = weight.device
    old = weight.float()
    new = torch.addmm(old, layer.lora_B.to(device, torch.float32), layer.lora_A.to(device, torch.float32), alpha=strength)
    if layer.magnitude is None:
        return new
    magnitude = torch.lerp(row_norms(old), layer.magnitude.to(device, torch.float32), strength)
    return new * (magnitude / row_norms(new).clamp_min(SMALLEST_NORM))[:, None]


@torch.no_grad()
def merge_adapter(transformer: WanTransformer3DModel, adapter: Adapter, *, strength: float = 1.0) -> WanTransformer3DModel:
    """Merge a Stage-2 adapter into the weights, in place. Raises CheckpointError when a layer is unknown or of another size."""
    _require_bare(transformer)
    if not 0 <= strength <= 1:
        raise UsageError("--adapter_strength", got=strength, expected="0 (base) to 1 (adapter)")
    for name, layer in require_fit(transformer, adapter).items():
        weight = transformer.get_submodule(name).weight
        weight.copy_(adapted_weight(weight, layer, strength=strength))
    return transformer


@torch.no_grad()
def merge_acceleration_lora(
    transformer: WanTransformer3DModel, tensors: Mapping[str, Tensor], *, source: str = "acceleration LoRA", strength: float = 1.0
) -> WanTransformer3DModel:
    """Merge a few-step LoRA (LightX2V's keys) into the weights, in place: W + a (alpha / r) B A, and tensors + a diff.

    `<module>.lora_{down,up}.weight` or `lora_{A,B}`, `.alpha` (r when absent), `.diff` -> weight, `.diff_b` -> bias, `.diff_m` ->
    modulation; the prefix `diffusion_model.` is optional. A key that finds no tensor of its shape raises CheckpointError before
    anything is changed: nothing is skipped. (The published tool skips those, and ignores alpha.)
    """
    _require_bare(transformer)
    parameters = dict(transformer.named_parameters())
    products, diffs, alphas = _sort_keys(tensors, source=source)
    found = {target: tuple(diff.shape) for target, diff in diffs.items()}
    found |= {target: (*up.shape[:1], *down.shape[1:]) for target, (down, up) in products.items()}
    for target, shape in found.items():
        parameter = parameters.get(dit_diffusers_name(target))
        if parameter is None or tuple(parameter.shape) != shape:
            expected = "a tensor of this model" if parameter is None else tuple(parameter.shape)
            raise CheckpointError(
                source, got=f"a change of {target} {shape}", expected=expected, do="use the LoRA made for this model of Wan"
            )
    for target in found:
        parameter = parameters[dit_diffusers_name(target)]
        delta = diffs[target] if target in diffs else _product(*products[target], alpha=alphas.get(target))
        parameter.copy_(parameter.float() + strength * delta.to(parameter.device, torch.float32))
    return transformer


def _product(down: Tensor, up: Tensor, *, alpha: Tensor | None) -> Tensor:
    """(alpha / r) B A in the weight's shape; a convolution's kernel stands in lora_down."""
    rank = down.shape[0]
    product = (up.float().flatten(1) @ down.float().flatten(1)).reshape(up.shape[0], *down.shape[1:])
    return product if alpha is None else product * (alpha.item() / rank)


def _sort_keys(
    tensors: Mapping[str, Tensor], *, source: str
) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, Tensor], dict[str, Tensor]]:
    """(lora_down, lora_up) pairs, differences and alphas, each by the original name of the tensor that they change."""
    sides: dict[str, dict[str, Tensor]] = {}
    diffs: dict[str, Tensor] = {}
    alphas: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        match = _ACCELERATION.fullmatch(key)
        if match is None:
            raise CheckpointError(
                source, got=f"{describe(tensors.keys())}, with {key}", expected="lora_down, lora_up, diff, diff_b, diff_m"
            )
        module, single = match["module"], match["single"]
        if match["product"]:
            sides.setdefault(f"{module}.weight", {})[_PRODUCT_SIDES[match["product"]]] = tensor
        elif single == "alpha":
            alphas[f"{module}.weight"] = tensor
        else:
            diffs[f"{module}.{_DIFF_TARGETS[single]}"] = tensor
    for target, pair in sides.items():
        if len(pair) != 2 or target in diffs:
            got = f"{target} with {' and '.join(sorted(pair))}" + (" and diff" if target in diffs else "")
            raise CheckpointError(source, got=got, expected="one pair of down and up, or one diff, for each tensor")
    if stray := alphas.keys() - sides.keys():
        raise CheckpointError(source, got=f"alpha without a pair for {sorted(stray)[0]}", expected="lora_down and lora_up beside it")
    return {target: (pair["down"], pair["up"]) for target, pair in sides.items()}, diffs, alphas


def _require_bare(transformer: nn.Module) -> None:
    if adapter_layers(transformer):
        raise UsageError(
            "merge", got="a model with an injected adapter", expected="a plain one", do="load the base again, then merge the adapter's file"
        )
