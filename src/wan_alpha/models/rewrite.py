"""A change of weights written in another way: as low-rank factors with a residual, or for another definition of DoRA's norm."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from wan_alpha.checkpoints.adapter import Adapter, LowRank
from wan_alpha.errors import CheckpointError
from wan_alpha.models.dora import SMALLEST_NORM, row_norms

EXACT_UP_TO = 2048
"""Smaller side of a matrix up to which singular values are exact; above it, LAPACK's time grows to minutes a matrix."""


@dataclass(kw_only=True)
class Residual:
    """Share of a change that low-rank factors miss: ||delta - B A|| / ||delta||, over all layers, and the worst layer's."""

    missed: float = 0.0
    whole: float = 0.0
    worst: tuple[float, str] = (0.0, "")

    def add(self, name: str, *, delta: Float[Tensor, "o i"], factors: tuple[Float[Tensor, "r i"], Float[Tensor, "o r"]]) -> None:
        missed, whole = ((delta - factors[1] @ factors[0]).square().sum().item(), delta.square().sum().item())
        self.missed, self.whole = self.missed + missed, self.whole + whole
        self.worst = max(self.worst, ((missed / whole) ** 0.5 if whole else 0.0, name))

    @property
    def share(self) -> float:
        return (self.missed / self.whole) ** 0.5 if self.whole else 0.0

    def __str__(self) -> str:
        return f"residual {self.share:.2%} of the change, worst {self.worst[0]:.2%} ({self.worst[1]})"

    def require_at_most(self, limit: float, *, what: str) -> None:
        """Raise CheckpointError above the limit."""
        if self.share > limit:
            raise CheckpointError(
                what,
                got=str(self),
                expected=f"at most {limit:.2%}",
                do="raise --rank or --max_residual; --to merged is exact",
            )


def best_factors(delta: Float[Tensor, "o i"], *, rank: int) -> tuple[Float[Tensor, "r i"], Float[Tensor, "o r"]]:
    """(A, B) with B A the best approximation of delta of that rank (Eckart and Young 1936), zeros beyond its own rank.

    Exact for matrices whose smaller side is up to EXACT_UP_TO; larger ones by a randomised range with 8 power iterations (Halko et
    al. 2011), the same in every run.
    """
    if min(delta.shape) <= EXACT_UP_TO:
        left, values, right = torch.linalg.svd(delta, full_matrices=False)
    else:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            left, values, right = torch.svd_lowrank(delta, q=min(*delta.shape, rank + 16), niter=8)
        right = right.T
    root = values[:rank].sqrt()
    down, up = delta.new_zeros(rank, delta.shape[1]), delta.new_zeros(delta.shape[0], rank)
    down[: len(root)], up[:, : len(root)] = root[:, None] * right[:rank], left[:, :rank] * root
    return down, up


@torch.no_grad()
def cut_rank(adapter: Adapter, *, rank: int) -> tuple[Adapter, Residual]:
    """Every B A replaced by the best product of a lower rank; magnitudes stay."""
    residual = Residual()
    layers = {}
    for name, layer in adapter.layers.items():
        delta = layer.lora_B.float() @ layer.lora_A.float()
        factors = best_factors(delta, rank=rank)
        residual.add(name, delta=delta, factors=factors)
        layers[name] = replace(layer, lora_A=factors[0], lora_B=factors[1])
    return replace(adapter, layers=layers, metadata={**adapter.metadata, "rank": str(rank)}), residual


def for_base_norm(adapter: Adapter, base: Mapping[str, Tensor]) -> Adapter:
    """Magnitudes m' = m ||W|| / ||W + B A||: what gives the adapter where (W + B A) m' / ||W|| is computed, on the bare base."""
    return _scale_magnitudes(adapter, base, power=1)


def from_base_norm(adapter: Adapter, base: Mapping[str, Tensor]) -> Adapter:
    """The inverse of for_base_norm."""
    return _scale_magnitudes(adapter, base, power=-1)


@torch.no_grad()
def _scale_magnitudes(adapter: Adapter, base: Mapping[str, Tensor], *, power: int) -> Adapter:
    def scaled(name: str, layer: LowRank) -> LowRank:
        if layer.magnitude is None:
            return layer
        weight = base[f"{name}.weight"].float()
        new = torch.addmm(weight, layer.lora_B.float(), layer.lora_A.float())
        ratio = row_norms(weight).clamp_min(SMALLEST_NORM) / row_norms(new).clamp_min(SMALLEST_NORM)
        return replace(layer, magnitude=layer.magnitude.float() * ratio**power)

    return replace(adapter, layers={name: scaled(name, layer) for name, layer in adapter.layers.items()})
