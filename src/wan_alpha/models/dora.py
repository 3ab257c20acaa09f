"""DoRA and LoRA on the DiT, through PEFT: inject, train, save, load.

    W' = m * (W + s B A) / ||W + s B A||      m (out,), norm per output row over the inputs, treated as a constant in the backward pass

DoRA: Liu et al. 2024, eq. 5 and section 4.3. PEFT gives the layers, their names and their state; the forward pass here takes the
place of PEFT's (equal to 1e-5, tests/unit/test_dora.py), because PEFT builds B A at full size in every call. Merging is in merge.py.
"""

import math
import re
from collections.abc import Sequence
from typing import Literal

import torch
from diffusers import WanTransformer3DModel
from jaxtyping import Float
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.lora.variants import DoraLinearVariant
from torch import Tensor, nn

from wan_alpha.checkpoints.adapter import LORA_A, LORA_B, MAGNITUDE, Adapter, LowRank, published_key
from wan_alpha.checkpoints.files import require_keys
from wan_alpha.checkpoints.originals import dit_diffusers_name, dit_original_name
from wan_alpha.errors import CheckpointError, UsageError

TARGETS = re.compile(r"blocks\.\d+\.(attn[12]\.to_(q|k|v|out\.0)|ffn\.net\.(0\.proj|2))")
"""Adapted layers by diffusers' names: q, k, v, o of both attentions, and both layers of the feed-forward (reference.md, section 7)."""
_NAME = "default"
SMALLEST_NORM = 1e-8  # the published guard against a division by zero


class FastDora(DoraLinearVariant):
    """PEFT's DoRA for linear layers, without B A at full size:

    y    = (m / norm) * (x W^T + s (x A^T) B^T) + bias
    norm = sqrt(||W||^2 + 2 s rowsum((W A^T) * B) + s^2 rowsum((B (A A^T)) * B))     equals ||W + s B A|| per row

    ||W||^2 is computed once. Weights may be bfloat16: the trainable float32 tensors are rounded for the products with the
    activations only, while m / norm stays float32, since bfloat16 has no numbers between 1 and 1.0078.
    """

    def __init__(self) -> None:
        self._key: tuple[object, ...] = ()
        self._squares: Tensor | None = None

    def forward(  # type: ignore[override] # PEFT declares it static and calls it on the instance, which here keeps the cache
        self, module: LoraLinear, active_adapter: str, x: Float[Tensor, "*batch i"], result: Float[Tensor, "*batch o"], **_: object
    ) -> Float[Tensor, "*batch o"]:
        base, scaling = module.get_base_layer(), module.scaling[active_adapter]
        down, up = module.lora_A[active_adapter].weight, module.lora_B[active_adapter].weight
        magnitude = module.lora_magnitude_vector[active_adapter].weight
        factor = magnitude / self.norm(base.weight, down, up, scaling=scaling)
        dtype = result.dtype
        low = x.flatten(0, -2).to(dtype) @ down.to(dtype).T
        adapted = torch.addmm(result.flatten(0, -2), low, up.to(dtype).T, alpha=scaling)
        # result holds the bias already, once: factor * (result + low) + bias * (1 - factor) scales everything but the bias
        scaled = adapted * factor if base.bias is None else torch.addcmul(base.bias * (1 - factor), adapted, factor)
        return scaled.view(result.shape)

    @torch.no_grad()
    def norm(
        self, weight: Float[Tensor, "o i"], down: Float[Tensor, "r i"], up: Float[Tensor, "o r"], *, scaling: float
    ) -> Float[Tensor, " o"]:
        """||W + s B A|| per row, float32, detached."""
        down, up = down.float(), up.float()
        cross = ((weight @ down.to(weight.dtype).T).float() * up).sum(1)
        inner = ((up @ (down @ down.T)) * up).sum(1)
        squares = self._weight_squares(weight) + 2 * scaling * cross + scaling**2 * inner
        return squares.clamp_min(SMALLEST_NORM**2).sqrt()

    def _weight_squares(self, weight: Tensor) -> Tensor:
        key = (id(weight), weight._version, weight.device, weight.dtype)
        if self._squares is None or key != self._key:
            self._squares, self._key = row_norms(weight).square(), key
        return self._squares


def row_norms(weight: Float[Tensor, "o i"]) -> Float[Tensor, " o"]:
    """Euclidean norm of each row, summed in float32."""
    return torch.linalg.vector_norm(weight, dim=1, dtype=torch.float32)


def inject_adapter(
    transformer: WanTransformer3DModel, *, rank: int, kind: Literal["dora", "lora"] = "dora", generator: torch.Generator | None = None
) -> WanTransformer3DModel:
    """Put a new adapter on every target layer, in place: lora_A uniform as in PEFT (drawn from `generator`), lora_B zero, m = ||W||.

    Only the adapter is trainable afterwards, in float32 whatever the weights are. The output is that of the base model.
    """
    names = [name for name, module in transformer.named_modules() if isinstance(module, nn.Linear) and TARGETS.fullmatch(name)]
    if not names:
        raise UsageError("model", got="no adaptable layer", expected="a Wan DiT without an adapter")
    _inject(transformer, names=names, rank=rank, kind=kind)
    for module in adapter_layers(transformer).values():
        down = module.lora_A[_NAME].weight
        if not down.is_meta:
            nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)
    return transformer


def load_adapter(transformer: WanTransformer3DModel, adapter: Adapter) -> WanTransformer3DModel:
    """Put a file's adapter on the model, in place, trainable; on a model that has one, replace its values.

    Raises CheckpointError when layers, ranks or sizes differ.
    """
    wanted = require_fit(transformer, adapter)
    if not adapter_layers(transformer):
        _inject(transformer, names=list(wanted), rank=adapter.rank, kind=adapter.kind)
    layers = adapter_layers(transformer)
    require_keys(wanted.keys(), layers.keys(), what=adapter.source)
    has = "dora" if any(module.use_dora[_NAME] for module in layers.values()) else "lora"
    if has != adapter.kind:
        raise CheckpointError(adapter.source, got=f"a {adapter.kind} adapter", expected=f"a {has} adapter, as the model has")
    with torch.no_grad():
        for name, layer in wanted.items():
            module = layers[name]
            pairs = [(module.lora_A[_NAME].weight, layer.lora_A), (module.lora_B[_NAME].weight, layer.lora_B)]
            if layer.magnitude is not None:
                pairs.append((module.lora_magnitude_vector[_NAME].weight, layer.magnitude))
            for own, stored in pairs:
                if own.shape != stored.shape:
                    raise CheckpointError(
                        adapter.source, got=f"{name} {tuple(stored.shape)}", expected=tuple(own.shape), do="check --dora_rank"
                    )
                own.copy_(stored)
    return transformer


def adapter_state(transformer: WanTransformer3DModel) -> dict[str, Tensor]:
    """The adapter's tensors (not copied) under their published keys, in the model's order."""
    state = {}
    for name, module in adapter_layers(transformer).items():
        original = dit_original_name(name)
        state[published_key(original, LORA_A)] = module.lora_A[_NAME].weight.detach()
        state[published_key(original, LORA_B)] = module.lora_B[_NAME].weight.detach()
        if module.use_dora[_NAME]:
            state[published_key(original, MAGNITUDE)] = module.lora_magnitude_vector[_NAME].weight.detach()
    return state


def adapter_layers(transformer: nn.Module) -> dict[str, LoraLinear]:
    """PEFT's layers by diffusers' module name; empty without an adapter."""
    return {name: module for name, module in transformer.named_modules() if isinstance(module, LoraLinear)}


def require_fit(transformer: nn.Module, adapter: Adapter) -> dict[str, LowRank]:
    """The adapter's layers by diffusers' module name; CheckpointError unless each is a linear layer of the model, of that size."""
    layers, modules = {}, dict(transformer.named_modules())
    for original, layer in adapter.layers.items():
        name = dit_diffusers_name(original)
        module, found = modules.get(name), (layer.lora_B.shape[0], layer.lora_A.shape[1])
        if not isinstance(module, (nn.Linear, LoraLinear)):
            raise CheckpointError(
                adapter.source, got=f"layer {original}", expected="linear layers of this model", do="use the base it was trained on"
            )
        if found != (module.out_features, module.in_features):
            expected = (module.out_features, module.in_features)
            raise CheckpointError(adapter.source, got=f"{original} for {found}", expected=expected, do="use the base it was trained on")
        layers[name] = layer
    return layers


def _inject(transformer: nn.Module, *, names: Sequence[str], rank: int, kind: str) -> None:
    """PEFT's injection on exactly these layers, then our forward, float32 and the exact starting magnitude."""
    if rank < 1:
        raise UsageError("--dora_rank", got=rank, expected="at least 1")
    config = LoraConfig(r=rank, lora_alpha=rank, use_dora=kind == "dora", target_modules="|".join(map(re.escape, names)))
    inject_adapter_in_model(config, transformer, adapter_name=_NAME)
    for module in adapter_layers(transformer).values():
        for part in (module.lora_A, module.lora_B, module.lora_magnitude_vector):
            part.float()
        weight = module.get_base_layer().weight
        if kind == "dora":
            with torch.no_grad():
                module.lora_magnitude_vector[_NAME].weight.copy_(row_norms(weight))
            module.lora_variant[_NAME] = FastDora()
            module.cast_input_dtype_enabled = False  # FastDora keeps activations in the weights' type and rounds A and B instead
