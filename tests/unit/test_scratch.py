"""What convolutions take inside on a CPU."""

import pytest
import torch

from wan_alpha.train.scratch import scratch_bytes

MIB = 2**20


def of_convolution(x: torch.Tensor, weight: torch.Tensor) -> int:
    ones, rank = [1] * (x.ndim - 2), [0] * (x.ndim - 2)
    return scratch_bytes(torch.ops.aten.convolution.default, (x, weight, None, ones, ones, ones, False, rank, 1))


def backward_of_convolution(x: torch.Tensor, weight: torch.Tensor, *, wanted: tuple[bool, bool, bool]) -> int:
    ones, rank = [1] * (x.ndim - 2), [0] * (x.ndim - 2)
    gradient = torch.empty(len(x), len(weight), *x.shape[2:])
    arguments = (gradient, x, weight, None, ones, ones, ones, False, rank, 1, wanted)
    return scratch_bytes(torch.ops.aten.convolution_backward.default, arguments)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="oneDNN's copies are counted")
def test_scratch_of_convolutions() -> None:
    """Sizes in MiB as they were measured (docs/benchmarks.md)."""
    x, weight = torch.empty(16, 48, 64, 64), torch.empty(16, 48, 3, 3)
    assert of_convolution(x, weight) == 12 * MIB
    assert backward_of_convolution(x, weight, wanted=(True, True, False)) == 16 * MIB
    assert backward_of_convolution(x, weight, wanted=(True, False, False)) == 12 * MIB
    assert of_convolution(x.contiguous(memory_format=torch.channels_last), weight) == 0


def test_scratch_of_im2col() -> None:
    x, weight = torch.empty(1, 24, 17, 48, 48), torch.empty(48, 24, 3, 3, 3)
    assert of_convolution(x, weight) == 27 * x.numel() * 4
