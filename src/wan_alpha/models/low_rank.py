"""LoRA on the convolutions of a decoder, as parametrizations of their weights.

    W' = W + s B A   per kernel tap,   A (r, in, k...), B (out, r, 1...), s = lora_alpha / r, lora_alpha 1     (reference.md, section 2)

Every pass reads `conv.weight`, so whole-clip and chunked decoding both see it, and merging is exact. PEFT's own layers
around WanCausalConv3d would feed A the un-padded input, because that class pads inside its forward.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from wan_alpha.checkpoints.files import require_keys
from wan_alpha.errors import CheckpointError

LORA_ALPHA = 1.0


class LowRank(nn.Module):
    """weight -> weight + (lora_alpha / rank) * B A. The product is computed in the factors' precision (float32)."""

    def __init__(self, lora_a: Tensor, lora_b: Tensor) -> None:
        super().__init__()
        self.lora_A = nn.Parameter(lora_a)
        self.lora_B = nn.Parameter(lora_b)
        self.scale = LORA_ALPHA / lora_a.shape[0]

    def forward(self, weight: Tensor) -> Tensor:
        with _without_autocast(weight.device):
            delta = self.lora_B.flatten(1) @ self.lora_A.flatten(1)
        return weight + (self.scale * delta).view(weight.shape).to(weight.dtype)


def _without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Autocast would round both factors to bfloat16."""
    kind = device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def convolutions(decoder: nn.Module) -> dict[str, nn.Conv2d | nn.Conv3d]:
    """Every 2-D and 3-D convolution by module name; 38 in Wan's decoder."""
    return {name: module for name, module in decoder.named_modules() if isinstance(module, nn.Conv2d | nn.Conv3d)}


def inject_low_rank(decoder: nn.Module, *, rank: int, generator: torch.Generator | None = None) -> None:
    """Give every convolution fresh factors: A kaiming-uniform (a = sqrt 5), B zero, so that the decoder does not change yet."""
    for conv in convolutions(decoder).values():
        weight = conv.weight
        lora_a = torch.empty(rank, *weight.shape[1:], dtype=torch.float32, device=weight.device)
        if not lora_a.is_meta:
            drawn = torch.empty(lora_a.shape)  # drawn on the CPU: the same values on every device
            lora_a.copy_(nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator))
        lora_b = torch.zeros(weight.shape[0], rank, *[1] * (weight.ndim - 2), dtype=torch.float32, device=weight.device)
        _attach(conv, lora_a, lora_b)


def load_low_rank(decoder: nn.Module, tensors: Mapping[str, Tensor], *, what: object) -> None:
    """Inject the factors `<module name>.lora_A` and `.lora_B`; every convolution must have both.

    Raises CheckpointError, naming `what`, for missing or extra keys and for shapes that do not fit.
    """
    convs = convolutions(decoder)
    require_keys(tensors.keys(), [f"{name}.lora_{part}" for name in convs for part in "AB"], what=what)
    for name, conv in convs.items():
        lora_a, lora_b = tensors[f"{name}.lora_A"], tensors[f"{name}.lora_B"]
        rank = lora_a.shape[0]
        fits = lora_a.shape[1:] == conv.weight.shape[1:] and lora_b.shape == (conv.out_channels, rank, *[1] * (conv.weight.ndim - 2))
        if not fits:
            raise CheckpointError(
                what,
                got=f"factors {tuple(lora_b.shape)} x {tuple(lora_a.shape)} for {name}",
                expected=f"a product of shape {tuple(conv.weight.shape)}",
                do="the decoder LoRA belongs to a VAE of another size",
            )
    for name, conv in convs.items():
        lora_a, lora_b = (tensors[f"{name}.lora_{part}"].detach().to(conv.weight.device, torch.float32, copy=True) for part in "AB")
        _attach(conv, lora_a, lora_b)


def low_rank_layers(decoder: nn.Module) -> Iterator[tuple[str, LowRank]]:
    """(module name of the convolution, its factors)."""
    for name, conv in convolutions(decoder).items():
        if parametrize.is_parametrized(conv, "weight"):
            yield name, next(layer for layer in conv.get_submodule("parametrizations.weight").children() if isinstance(layer, LowRank))


def low_rank_tensors(decoder: nn.Module) -> dict[str, Tensor]:
    """`<module name>.lora_A` and `.lora_B` of every convolution; empty for a plain or merged decoder."""
    return {f"{name}.lora_{part}": getattr(layer, f"lora_{part}").detach() for name, layer in low_rank_layers(decoder) for part in "AB"}


def merge_low_rank(decoder: nn.Module) -> None:
    """Replace every weight by W + s B A and drop the factors. Base weights shared with another decoder stay as they are."""
    convs = convolutions(decoder)
    for name, _ in list(low_rank_layers(decoder)):
        conv = convs[name]
        merged = conv.weight.detach().clone()
        # leave_parametrized=True would write into the base tensor, which the other decoder shares
        parametrize.remove_parametrizations(conv, "weight", leave_parametrized=False)
        conv.weight = nn.Parameter(merged, requires_grad=False)


def _attach(conv: nn.Conv2d | nn.Conv3d, lora_a: Tensor, lora_b: Tensor) -> None:
    if parametrize.is_parametrized(conv, "weight"):
        raise CheckpointError("decoder LoRA", got="a decoder that has one", expected="a plain decoder", do="merge the first one")
    parametrize.register_parametrization(conv, "weight", LowRank(lora_a, lora_b))
