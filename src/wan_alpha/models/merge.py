"""Adapters into the DiT's weights: exact, in float32, the result rounded once to the weights' type.

Order matters: DoRA divides by the norm of what it is added to. Merge the adapter first, an acceleration LoRA second, as the
published inference does.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from diffusers import WanTransformer3DModel
from jaxtyping import Float
from torch import Tensor, nn

from wan_alpha.checkpoints.adapter import Adapter, LowRank
from wan_alpha.checkpoints.originals import dit_diffusers_name
from wan_alpha.checkpoints.vae_layout import describe
from wan_alpha.errors import CheckpointError, UsageError
from wan_alpha.models.dora import _check_sizes, adapter_layers, row_norms

_ACCELERATION = re.compile(
    r"(?:diffusion_model\.)?(?P<module>.+?)\."
    r"(?:(?P<down>lora_A|lora_down)(?:\.default)?\.weight|(?P<up>lora_B|lora_up)(?:\.default)?\.weight|(?P<diff>diff|diff_b|diff_m)|(?P<alpha>alpha))"
)
_DIFF_TARGETS = {"diff": "weight", "diff_b": "bias", "diff_m": "modulation"}


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
    return new * (magnitude / row_norms(new).clamp_min(1e-8))[:, None]


@torch.no_grad()
def merge_adapter(transformer: WanTransformer3DModel, adapter: Adapter, *, strength: float = 1.0) -> WanTransformer3DModel:
    """Merge a Stage-2 adapter into the weights, in place. Raises CheckpointError when a layer is unknown or of another size."""
    _require_bare(transformer)
    if not 0 <= strength <= 1:
        raise UsageError("--adapter_strength", got=strength, expected="0 (base) to 1 (adapter)")
    names = {module: dit_diffusers_name(module) for module in adapter.layers}
    modules = dict(transformer.named_modules())
    if unknown := [module for module, name in names.items() if not isinstance(modules.get(name), nn.Linear)]:
        raise CheckpointError(
            adapter.source, got=f"{len(unknown)} layers that this model lacks, first {unknown[0]}", expected="layers of the base", do="use its own base"
        )
    _check_sizes(transformer, adapter)
    for module, layer in adapter.layers.items():
        weight = transformer.get_submodule(names[module]).weight
        weight.copy_(adapted_weight(weight, layer, strength=strength))
    return transformer


@torch.no_grad()
def merge_acceleration_lora(
    transformer: WanTransformer3DModel, tensors: Mapping[str, Tensor], *, source: str = "acceleration LoRA", strength: float = 1.0
) -> WanTransformer3DModel:
    """Merge a few-step LoRA (LightX2V's keys) into the weights, in place: W + a (alpha / r) B A, and tensors + a diff.

    `<module>.lora_{down,up}.weight` or `lora_{A,B}`, `.alpha` (r when absent), `.diff` -> weight, `.diff_b` -> bias, `.diff_m` ->
    modulation; the prefix `diffusion_model.` is optional. A key that finds no tensor of its shape raises CheckpointError before
    anything is changed: nothing is skipped.
    """
    _require_bare(transformer)
    parameters = dict(transformer.named_parameters())
    changes = _acceleration_changes(tensors, source=source)
    for target, change in changes.items():
        parameter = parameters.get(dit_diffusers_name(target))
        if parameter is None or change.size(parameter.ndim) not in (parameter.shape, _flat(parameter.shape)):
            got = "no such tensor in the model" if parameter is None else f"{tuple(change.size(parameter.ndim))} for {tuple(parameter.shape)}"
            raise CheckpointError(source, got=f"{target}: {got}", expected="a LoRA of this model", do="use the one made for this size of Wan")
    for target, change in changes.items():
        parameter = parameters[dit_diffusers_name(target)]
        delta = change.delta(parameter.device).reshape(parameter.shape)
        parameter.copy_(parameter.float().add_(delta, alpha=strength))
    return transformer


@dataclass(kw_only=True)
class _Change:
    """What is added to one tensor: a product of two, or a difference."""

    down: Tensor | None = None
    up: Tensor | None = None
    diff: Tensor | None = None
    alpha: float | None = None

    def size(self, ndim: int) -> torch.Size:
        """Shape of the sum's other term; of a product, flattened to a matrix as the target (of `ndim` axes) is."""
        if self.diff is not None:
            return self.diff.shape
        assert self.down is not None and self.up is not None
        return torch.Size((self.up.shape[0], self.down[0].numel()))

    def delta(self, device: torch.device) -> Tensor:
        if self.diff is not None:
            return self.diff.to(device, torch.float32)
        assert self.down is not None and self.up is not None
        rank = self.down.shape[0]
        scale = 1.0 if self.alpha is None else self.alpha / rank
        return scale * (self.up.to(device, torch.float32).flatten(1) @ self.down.to(device, torch.float32).flatten(1))
