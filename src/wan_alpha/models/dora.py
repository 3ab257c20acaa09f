"""DoRA and LoRA on the DiT, through PEFT: inject, train, save, load.

    W' = m * (W + s B A) / ||W + s B A||      m (out,), norm per output row over the inputs, treated as a constant in the backward pass

DoRA: Liu et al. 2024, eq. 5 and section 4.3. PEFT gives the layers, their names and their state; the forward pass here takes the
place of PEFT's (equal to 1e-5, tests/unit/test_dora.py), because PEFT builds B A at full size in every call. Merging is in merge.py.
"""

import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from diffusers import WanTransformer3DModel
from jaxtyping import Float
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.lora.variants import DoraLinearVariant
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from wan_alpha.checkpoints.adapter import LORA_A, LORA_B, MAGNITUDE, Adapter, LowRank, published_key
from wan_alpha.checkpoints.files import require_keys
from wan_alpha.checkpoints.originals import dit_diffusers_name, dit_original_name
from wan_alpha.errors import CheckpointError, UsageError

TARGETS = re.compile(r"blocks\.\d+\.(attn[12]\.to_(q|k|v|out\.0)|ffn\.net\.(0\.proj|2))")
"""Adapted layers by diffusers' names: q, k, v, o of both attentions, and both layers of the feed-forward (reference.md, section 7)."""
RESIDUAL_SQUARE = re.compile(r"\.to_out\.0$")
"""Layers whose output goes into a sum, which keeps nothing. The second of the feed-forward is one too, but costs six times more to
recompute than to keep; the outputs of all others are kept by the norm, the attention or the activation that reads them."""
_NAME = "default"
SMALLEST_NORM = 1e-8  # the published guard against a division by zero


class _Scaled(torch.autograd.Function):
    """y = f * (h + s low B^T) + bias * (1 - f), f = m / norm, low = x A^T, for h = x W^T + bias; rows are tokens.

    The backward pass keeps x, A, B, m and norm. The gradient of m needs z = (y - bias) / f: from y where whoever reads y keeps it
    anyway, from h, computed once more, otherwise (`recompute`). Neither is an activation beside those of plain LoRA.
    """

    @staticmethod
    def forward(
        ctx: Any,
        h: Float[Tensor, "n o"],
        x: Float[Tensor, "n i"],
        down: Float[Tensor, "r i"],
        up: Float[Tensor, "o r"],
        magnitude: Float[Tensor, " o"],
        norm: Float[Tensor, " o"],
        layer: "_Layer",
    ) -> Float[Tensor, "n o"]:
        factor, bias = magnitude / norm, layer.bias
        low = x @ down.to(h.dtype).T
        y = torch.addmm(h, low, up.to(h.dtype).T, alpha=layer.scaling)
        if bias is None:
            y.mul_(factor)
        else:
            torch.addcmul(bias * (1 - factor), y, factor, out=y)
        ctx.layer = layer
        ctx.save_for_backward(x, down, up, magnitude, norm, *(() if layer.recompute else (y,)))
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Float[Tensor, "n o"]) -> tuple[Tensor | None, ...]:
        layer: _Layer = ctx.layer
        x, down, up, magnitude, norm, *kept = ctx.saved_tensors
        factor, bias, scaling = magnitude / norm, layer.bias, layer.scaling
        down_, up_ = down.to(x.dtype), up.to(x.dtype)
        low = x @ down_.T
        scaled = torch.mul(gradient, factor, out=torch.empty_like(gradient))
        to_low = scaled @ up_ * scaling
        to_up = scaled.T @ low * scaling
        wrt_up = to_up.to(up.dtype)
        if kept:  # sum over tokens of g z, from y
            along = _column_dot(gradient, kept[0])
            along = (along - bias * gradient.sum(0, dtype=torch.float32) if bias is not None else along) / factor
            along = torch.where(factor == 0, torch.zeros_like(along), along)
        else:  # from h, and from B's gradient for the part of the adapter
            h = layer.product(x)
            along = _column_dot(gradient, h) + scaling * ((gradient.T @ low).float() * up).sum(1)
        return scaled, to_low @ down_, (to_low.T @ x).to(down.dtype), wrt_up, along / norm, None, None


def _column_dot(a: Float[Tensor, "n o"], b: Float[Tensor, "n o"]) -> Float[Tensor, " o"]:
    """Sum over rows of a * b, in float32."""
    return (a * b).sum(0, dtype=torch.float32)


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """What is constant about an adapted layer: its frozen base, the adapter's scale, and how the gradient of m is found."""

    base: Any
    scaling: float
    recompute: bool

    @property
    def bias(self) -> Tensor | None:
        return self.base.bias

    def product(self, rows: Float[Tensor, "n i"]) -> Float[Tensor, "n o"]:
        """rows W^T by the layer's own forward pass, so that W may be quantised."""
        product = self.base(rows)
        return product if self.bias is None else product - self.bias


class FastDora(DoraLinearVariant):
    """PEFT's DoRA for linear layers, without B A at full size:

    y    = (m / norm) * (x W^T + s (x A^T) B^T) + bias
    norm = sqrt(||W||^2 + 2 s rowsum((W A^T) * B) + s^2 rowsum((B (A A^T)) * B))     equals ||W + s B A|| per row

    Only products with W are needed, and its row norms once: W may be bfloat16 or quantised. The norm is kept while A and B stay as
    they are, for micro-batches and for recomputed activations. The trainable float32 tensors are rounded for the products with the
    activations only, while m / norm stays float32, since bfloat16 has no numbers between 1 and 1.0078.

    recompute: of a layer whose output nobody else keeps, W x is computed again in the backward pass rather than kept.
    """

    def __init__(self, *, recompute: bool = False) -> None:
        self.recompute = recompute
        self._squares: tuple[object, Tensor] | None = None
        self._norm: tuple[object, Tensor] | None = None

    def forward(  # type: ignore[override] # PEFT declares it static and calls it on the instance, which here keeps the norm
        self, module: LoraLayer, active_adapter: str, x: Float[Tensor, "*batch i"], result: Float[Tensor, "*batch o"], **_: object
    ) -> Float[Tensor, "*batch o"]:
        layer = _Layer(base=module.get_base_layer(), scaling=module.scaling[active_adapter], recompute=self.recompute)
        down, up = module.lora_A[active_adapter].weight, module.lora_B[active_adapter].weight
        magnitude = module.lora_magnitude_vector[active_adapter].weight
        norm = self.norm(layer.base, down, up, scaling=layer.scaling)
        rows = x.flatten(0, -2).to(result.dtype)
        return _Scaled.apply(result.flatten(0, -2), rows, down, up, magnitude, norm, layer).view(result.shape)

    @torch.no_grad()
    def norm(self, base: Any, down: Float[Tensor, "r i"], up: Float[Tensor, "o r"], *, scaling: float) -> Float[Tensor, " o"]:
        """||W + s B A|| per row, float32, detached. Kept between calls, but in a compiled graph, where each step would be another guard."""
        if torch.compiler.is_compiling():
            return _combined_norm(base, down, up, scaling=scaling, squares=_weight_squares(base))
        key = (_optimiser_steps[0], scaling, *(_identity(tensor) for tensor in (base.weight, down, up)))
        if self._norm is None or self._norm[0] != key:
            self._norm = (key, _combined_norm(base, down, up, scaling=scaling, squares=self._kept_squares(base)))
        return self._norm[1]

    def _kept_squares(self, base: Any) -> Tensor:
        key = _identity(base.weight)
        if self._squares is None or self._squares[0] != key:
            self._squares = (key, _weight_squares(base))
        return self._squares[1]


def _combined_norm(
    base: Any, down: Float[Tensor, "r i"], up: Float[Tensor, "o r"], *, scaling: float, squares: Float[Tensor, " o"]
) -> Float[Tensor, " o"]:
    """||W + s B A|| per row by the low-rank identity, from ||W||^2."""
    a, b = down.float(), up.float()
    cross = (_Layer(base=base, scaling=scaling, recompute=False).product(down.to(_arithmetic(base))).float().T * b).sum(1)
    inner = ((b @ (a @ a.T)) * b).sum(1)
    return (squares + 2 * scaling * cross + scaling**2 * inner).clamp_min(SMALLEST_NORM**2).sqrt()


def _weight_squares(base: Any) -> Tensor:
    """||W||^2 per row of a layer's weight, quantised or not."""
    plain = type(base.weight) is nn.Parameter and base.weight.is_floating_point()  # torch.compile cannot trace PEFT's question
    return row_norms(base.weight if plain else dequantize_module_weight(base)).square()


_optimiser_steps = [0]
"""Optimisers may write past autograd's version counter (through .data, or in kernels of their own): each step drops kept norms."""


@cache
def _watch_optimisers() -> None:
    def count(*_: object) -> None:
        _optimiser_steps[0] += 1

    register_optimizer_step_post_hook(count)


def _identity(tensor: Tensor) -> tuple[object, ...]:
    """Changes whenever the tensor, or a value in it, does."""
    return id(tensor), tensor._version, tensor.device, tensor.dtype


def _arithmetic(base: Any) -> torch.dtype:
    """The type of the layer's inputs: a 4-bit weight is stored as bytes and names its own."""
    dtype = base.weight.dtype
    return dtype if dtype.is_floating_point else getattr(base, "compute_dtype", None) or torch.float32


def row_norms(weight: Float[Tensor, "o i"]) -> Float[Tensor, " o"]:
    """Euclidean norm of each row, summed in float32."""
    return torch.linalg.vector_norm(weight, dim=1, dtype=torch.float32)


def inject_adapter(
    transformer: WanTransformer3DModel, *, rank: int, kind: Literal["dora", "lora"] = "dora", generator: torch.Generator | None = None
) -> WanTransformer3DModel:
    """Put a new adapter on every target layer, in place: lora_A uniform as in PEFT (from `generator`, a CPU's), lora_B zero, m = ||W||.

    Only the adapter is trainable afterwards, in float32 whatever the weights are. The output is that of the base model.
    """
    names = [name for name, module in transformer.named_modules() if isinstance(module, nn.Linear) and TARGETS.fullmatch(name)]
    if not names:
        raise UsageError("model", got="no adaptable layer", expected="a Wan DiT without an adapter")
    _inject(transformer, names=names, rank=rank, kind=kind)
    for module in adapter_layers(transformer).values():
        down = module.lora_A[_NAME].weight
        if not down.is_meta:
            drawn = torch.empty(down.shape)  # drawn on the CPU: the same values on every device
            with torch.no_grad():
                down.copy_(nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator))
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


def adapter_layers(transformer: nn.Module) -> dict[str, LoraLayer]:
    """PEFT's layers by diffusers' module name; empty without an adapter."""
    return {name: module for name, module in transformer.named_modules() if isinstance(module, LoraLayer)}


def require_fit(transformer: nn.Module, adapter: Adapter) -> dict[str, LowRank]:
    """The adapter's layers by diffusers' module name; CheckpointError unless each is a linear layer of the model, of that size."""
    layers, modules = {}, dict(transformer.named_modules())
    for original, layer in adapter.layers.items():
        name = dit_diffusers_name(original)
        module, found = modules.get(name), (layer.lora_B.shape[0], layer.lora_A.shape[1])
        if not isinstance(module, (nn.Linear, LoraLayer)):
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
    with warnings.catch_warnings():  # PEFT cannot merge into a quantised layer; nor do we (merge.py wants plain weights)
        warnings.filterwarnings("ignore", message=".*get_apply_tensor_subclass.*")
        inject_adapter_in_model(config, transformer, adapter_name=_NAME)
    _watch_optimisers()
    for name, module in adapter_layers(transformer).items():
        for part in (module.lora_A, module.lora_B, module.lora_magnitude_vector):
            part.float()
        if kind == "dora":
            with torch.no_grad():
                module.lora_magnitude_vector[_NAME].weight.copy_(row_norms(dequantize_module_weight(module.get_base_layer())))
            module.lora_variant[_NAME] = FastDora(recompute=RESIDUAL_SQUARE.search(name) is not None)
            module.cast_input_dtype_enabled = False  # FastDora keeps activations in the weights' type and rounds A and B instead
