"""Fréchet distance of two sets of features, each taken as a Gaussian (Heusel et al., NeurIPS 2017, on any features)."""

import torch
from jaxtyping import Float
from torch import Tensor


class FeatureStatistics:
    """Mean and covariance of features that come in pieces; float64 on the CPU, whatever the features are."""

    def __init__(self) -> None:
        self.count = 0
        self._sum: Tensor = torch.zeros(())
        self._products: Tensor = torch.zeros(())

    def add(self, features: Float[Tensor, "N F"]) -> None:
        x = features.detach().cpu().double()
        self.count += len(x)
        self._sum = self._sum + x.sum(dim=0)
        self._products = self._products + x.T @ x

    def mean(self) -> Float[Tensor, " F"]:
        return self._sum / self.count

    def covariance(self) -> Float[Tensor, "F F"]:
        """Unbiased; zeros for a single one."""
        centred = self._products - self.count * torch.outer(self.mean(), self.mean())
        return centred / max(1, self.count - 1)


def frechet_distance(found: FeatureStatistics, *, true: FeatureStatistics) -> float:
    """|m - n|^2 + tr(S + T - 2 (S T)^(1/2)), at least 0; the root's trace from the eigenvalues of S^(1/2) T S^(1/2)."""
    covariance, true_covariance = found.covariance(), true.covariance()
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ true_covariance @ root).clamp(min=0).sqrt().sum()
    distance = (found.mean() - true.mean()).square().sum() + covariance.trace() + true_covariance.trace() - 2 * cross
    return float(distance.clamp(min=0))
