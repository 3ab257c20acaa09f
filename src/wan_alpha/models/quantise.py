"""Frozen weights in eight or four bits: half or a quarter of bfloat16's memory, for adapters on a base that would not fit.

Only the linear layers that an adapter may sit on (dora.TARGETS) are quantised: they hold nearly all of a Wan DiT. int8 and fp8 keep
one scale per output row (torchao, weight only, products in the activations' type); nf4 is QLoRA's 4-bit type in blocks of 64
(Dettmers et al. 2023, bitsandbytes).
"""

from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn

from wan_alpha.config import BaseQuantization
from wan_alpha.errors import UsageError
from wan_alpha.models.dora import TARGETS


def where_to_load(device: torch.device, *, to: BaseQuantization) -> torch.device:
    """Where a base is loaded for `quantise`: in the CPU's memory, so that the device never holds all of it unquantised."""
    return device if to == "none" else torch.device("cpu")


def quantise(transformer: WanTransformer3DModel, *, to: BaseQuantization, device: torch.device) -> WanTransformer3DModel:
    """Quantise the block's linear layers in place, before an adapter is injected and after adapters are merged.

    Layer by layer moves to the device and is quantised there; at the end the whole transformer is on it. "none" changes nothing.
    Raises UsageError when the package that does it is missing.
    """
    if to == "none":
        return transformer
    if to == "nf4":
        _to_nf4(transformer, device=device)
    else:
        ao = _package("torchao.quantization", "torchao", to)
        config = ao.Int8WeightOnlyConfig() if to == "int8" else ao.Float8WeightOnlyConfig()
        ao.quantize_(transformer, config, filter_fn=lambda module, name: _adaptable(module, name), device=device)
    return transformer.to(device).requires_grad_(False)


def _adaptable(module: nn.Module, name: str) -> bool:
    return isinstance(module, nn.Linear) and TARGETS.fullmatch(name) is not None


def _to_nf4(transformer: WanTransformer3DModel, *, device: torch.device) -> None:
    bnb = _package("bitsandbytes", "bitsandbytes", "nf4")
    for name, module in [(name, module) for name, module in transformer.named_modules() if _adaptable(module, name)]:
        weight, bias = module.weight, module.bias
        layer = bnb.nn.Linear4bit(
            module.in_features, module.out_features, bias=bias is not None, compute_dtype=weight.dtype, quant_type="nf4", device="meta"
        )
        layer.weight = bnb.nn.Params4bit(weight.detach().cpu(), requires_grad=False, quant_type="nf4")
        layer.bias = bias
        transformer.set_submodule(name, layer.to(device))  # moving it quantises it


def is_4bit(module: nn.Module) -> bool:
    """A layer of bitsandbytes: its weight is packed, beside what unpacks it."""
    return isinstance(module, nn.Linear) and getattr(module.weight, "quant_state", None) is not None


def plain_layer(module: Any) -> nn.Linear:
    """A linear layer as a 4-bit one computes: of its sizes, in its activations' type, with other values."""
    layer = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None, dtype=module.compute_dtype)
    return layer.requires_grad_(False)


def parts_of_4bit(weight: Any) -> list[Tensor]:
    """What a 4-bit weight is made of: two weights a byte, and for each block of 64 its scale, quantised in its turn to a byte (one float32
    to 256 of them): 4.127 bits per weight (QLoRA, Dettmers et al. 2023, section 3)."""
    states = [state for state in (weight.quant_state, weight.quant_state.state2) if state is not None]
    return [weight, *(part for state in states for part in vars(state).values() if isinstance(part, Tensor))]


def _package(module: str, name: str, to: str) -> ModuleType:
    """Imported when it is asked for: these packages are optional."""
    try:
        return import_module(module)
    except ImportError as error:
        do = "pip install 'wan-alpha[quantized]', or take --base_quantization none"
        raise UsageError(f"--base_quantization {to}", got=f"no package {name}", do=do) from error


def weight_bytes(to: BaseQuantization, *, dtype: torch.dtype) -> float:
    """Bytes per weight of a quantised layer, its scales not counted; of a plain one with none."""
    return {"none": float(dtype.itemsize), "int8": 1.0, "fp8": 1.0, "nf4": 0.5}[to]
