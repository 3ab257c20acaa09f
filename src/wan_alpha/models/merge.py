"""Adapters into the DiT's weights: exact, in float32, the result rounded once to the weights' type.

Order matters: DoRA divides by the norm of what it is added to. Merge the adapter first, an acceleration LoRA second, as the
published inference does. A Change works on tensors by their original names: of a model (merge_*), or from files one by one (changed).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from diffusers import WanTransformer3DModel
from jaxtyping import Float
from torch import Tensor, nn

from wan_alpha.checkpoints.adapter import Adapter, LowRank
from wan_alpha.checkpoints.kinds import describe
from wan_alpha.checkpoints.originals import dit_original_name
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


@dataclass(frozen=True, kw_only=True)
class AdapterChange:
    """`adapted_weight` of every layer; strength 0 (base) to 1 (adapter), else UsageError.

    `shapes`: original name -> shape of every tensor that it changes. Calling it gives the changed tensor, float32.
    """

    adapter: Adapter
    strength: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise UsageError("--adapter_strength", got=self.strength, expected="0 (base) to 1 (adapter)")

    @property
    def source(self) -> str:
        return self.adapter.source

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (len(layer.lora_B), layer.lora_A.shape[1]) for name, layer in self.adapter.layers.items()}

    def __call__(self, name: str, tensor: Float[Tensor, "o i"]) -> Float[Tensor, "o i"]:
        return adapted_weight(tensor, self.adapter.layers[name.removesuffix(".weight")], strength=self.strength)


@dataclass(frozen=True, kw_only=True)
class AccelerationChange:
    """A few-step LoRA: W + a (alpha / r) B A, and tensors + a diff, as AdapterChange is one. Made by `parse_acceleration_lora`."""

    source: str
    products: Mapping[str, tuple[Tensor, Tensor]]
    diffs: Mapping[str, Tensor]
    alphas: Mapping[str, Tensor]
    strength: float = 1.0

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        products = {name: (*up.shape[:1], *down.shape[1:]) for name, (down, up) in self.products.items()}
        return {name: tuple(diff.shape) for name, diff in self.diffs.items()} | products

    def __call__(self, name: str, tensor: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        delta = self.diffs[name] if name in self.diffs else _product(*self.products[name], alpha=self.alphas.get(name))
        return tensor.float() + self.strength * delta.to(tensor.device, torch.float32)


Change = AdapterChange | AccelerationChange


@torch.no_grad()
def merge_adapter(transformer: WanTransformer3DModel, adapter: Adapter, *, strength: float = 1.0) -> WanTransformer3DModel:
    """Merge a Stage-2 adapter into the weights, in place. Raises CheckpointError when a layer is unknown or of another size."""
    change = AdapterChange(adapter=adapter, strength=strength)
    _require_bare(transformer)
    require_fit(transformer, adapter)
    return _merge(transformer, change)


@torch.no_grad()
def merge_acceleration_lora(
    transformer: WanTransformer3DModel, tensors: Mapping[str, Tensor], *, source: str = "acceleration LoRA", strength: float = 1.0
) -> WanTransformer3DModel:
    """Merge a few-step LoRA into the weights, in place (`parse_acceleration_lora` says which keys).

    A key that finds no tensor of its shape raises CheckpointError before anything is changed: nothing is skipped. (The published
    tool skips those, and ignores alpha.)
    """
    _require_bare(transformer)
    return _merge(transformer, parse_acceleration_lora(tensors, source=source, strength=strength))


def require_targets(change: Change, tensors: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError unless every tensor that is to be changed is there, by its original name and of that shape."""
    for name, shape in change.shapes.items():
        found = tuple(tensors[name].shape) if name in tensors else None
        if found != shape:
            expected = found or "a tensor of this model"
            raise CheckpointError(
                change.source, got=f"a change of {name} {shape}", expected=expected, do="use the base that it was made for (--model)"
            )


@torch.no_grad()
def changed(tensors: Mapping[str, Tensor], changes: Sequence[Change], *, device: torch.device | str) -> Iterator[tuple[str, Tensor]]:
    """(original name, tensor) of every tensor in turn: after all changes in their order, float32; the others as they are.

    The caller has asked `require_targets` about each change.
    """
    targets = [change.shapes.keys() for change in changes]
    for name, tensor in tensors.items():
        for change, names in zip(changes, targets, strict=True):
            if name in names:
                tensor = change(name, tensor.to(device, torch.float32))
        yield name, tensor


def _merge(transformer: WanTransformer3DModel, change: Change) -> WanTransformer3DModel:
    parameters = {dit_original_name(name): parameter for name, parameter in transformer.named_parameters()}
    require_targets(change, parameters)
    for name in change.shapes:
        parameters[name].copy_(change(name, parameters[name]))
    return transformer


def parse_acceleration_lora(tensors: Mapping[str, Tensor], *, source: str, strength: float = 1.0) -> AccelerationChange:
    """`<module>.lora_{down,up}.weight` or `lora_{A,B}`, `.alpha` (r when absent), `.diff` -> weight, `.diff_b` -> bias, `.diff_m` ->
    modulation; the prefix `diffusion_model.` is optional. Raises CheckpointError for any other key and for half a pair."""
    products, diffs, alphas = _sort_keys(tensors, source=source)
    return AccelerationChange(source=source, products=products, diffs=diffs, alphas=alphas, strength=strength)


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
