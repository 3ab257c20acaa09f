"""What kernels take inside on a CPU, beside the tensors that go in and come out: convolutions alone take any that counts.

Measured op by op (highest resident memory during an operation, less that before and its outputs; torch 2.13, AVX2, docs/benchmarks.md):

    oneDNN, contiguous      forward: a blocked copy of the input; backward: one of the input, with weights one of the gradient too
    oneDNN, channels last   nothing in 2-D; backward of weights in 3-D: the input, the gradient and a sum over both in blocks
    without oneDNN, 3-D     im2col: the input once per element of the kernel (float32 batches of one with up to 20480 rows)
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

BLOCK = 8
"""Channels of a blocked copy are a multiple of it."""


def scratch_bytes(func: Any, args: Sequence[Any]) -> int:
    """Bytes that the operation takes and gives back, given its (imagined) arguments on a CPU."""
    if func is torch.ops.aten.convolution.default:
        x, weight, bias, *geometry = args
        return _by_backend(x, weight, bias, geometry, onednn=lambda: blocked(x))
    if func is torch.ops.aten.convolution_backward.default:
        gradient, x, weight, _, *geometry, wanted = args
        return _by_backend(x, weight, None, geometry, onednn=lambda: blocked(x) + (blocked(gradient) if wanted[1] else 0))
    return 0


def _by_backend(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Sequence[Any], *, onednn: Callable[[], int]) -> int:
    backend = torch._C._select_conv_backend(x, weight, bias, *geometry)
    if backend.name == "Slow3d":
        return x.numel() * weight[0, 0].numel() * x.itemsize
    last = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    return 0 if x.is_contiguous(memory_format=last) else onednn()


def blocked(x: Tensor) -> int:
    """Bytes of a copy in oneDNN's layout: channels rounded up to blocks."""
    return x.numel() // x.shape[1] * -(-x.shape[1] // BLOCK) * BLOCK * x.itemsize
