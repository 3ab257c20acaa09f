"""RMS norm, SiLU and causal convolution as one operation over slabs of frames, for CPUs.

    y = conv(SiLU(norm(x))),   slab by slab; each needs the two activated frames before it

A CPU's time on large clips goes into memory: elementwise passes over hundreds of MiB, and blocks that the allocator takes and gives
back. Here only x and y are whole. What lies between lives for one slab, which fits a cache, and the backward pass makes it again
instead of keeping it: one tensor kept per layer, not five.
"""

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_wan import WanRMS_norm
from jaxtyping import Float
from torch import Tensor, nn

SLAB_BYTES = 2**25
"""About a CPU's last cache. Larger clips go through a slab at a time."""
PAST = 2
"""Frames before its own that a causal kernel of three sees."""


def norm_silu_conv(norm: WanRMS_norm, conv: nn.Conv3d, x: Float[Tensor, "N C H W"], num_frames: int) -> Float[Tensor, "N E H W"]:
    """conv(SiLU(x / ||x|| * sqrt(C) * gamma)): 3x3x3, zero history, on contiguous frames folded into the batch (whole_clip.fold)."""
    y: Tensor = _NormSiluConv.apply(x.unflatten(0, (-1, num_frames)), norm.gamma, conv.weight, conv.bias)
    return y.flatten(0, 1)


class _NormSiluConv(torch.autograd.Function):
    """Clips are (B, T, C, H, W)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, gamma, weight)
        b, t, _, h, w = x.shape
        y, scale = x.new_empty(b, t, len(weight), h, w), _scale(gamma)
        past = x[:, :0]
        for start, stop in _bounds(x):
            activated = _activated(x[:, start:stop], scale)
            y[:, start:stop] = F.conv3d(_window(past, activated), weight, bias, padding=(0, 1, 1)).transpose(1, 2)
            past = activated[:, -PAST:]
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Slabs from the last to the first: each hands back the gradient of the activated frames before it."""
        x, gamma, weight = ctx.saved_tensors
        wants_x, wants_gamma, *wants_conv = ctx.needs_input_grad
        of_x, of_gamma, scale = torch.empty_like(x), torch.zeros_like(gamma), _scale(gamma)
        of_conv = [torch.zeros_like(weight), weight.new_zeros(len(weight))]
        carried = x.new_zeros(())
        for start, stop in reversed(_bounds(x)):
            unit, length = _normalised(x[:, start:stop])
            scaled = unit * scale
            window = _window(_activated(x[:, max(0, start - PAST) : start], scale), F.silu(scaled))
            of_y = gradients[0][:, start:stop].transpose(1, 2).contiguous()
            of_window, *more = _convolution_backward(of_y, window, weight, [wants_x or wants_gamma, *wants_conv])
            for total, part in zip(of_conv, more, strict=True):
                if part is not None:
                    total += part
            if of_window is None:
                continue
            of_window = of_window.transpose(1, 2)
            of_window[:, -PAST:] += carried
            carried = of_window[:, :PAST]
            of_scaled = torch.ops.aten.silu_backward(of_window[:, PAST:], scaled)
            if wants_gamma:
                of_gamma += _scale((of_scaled * unit).sum(dim=(0, 1, 3, 4))).view_as(gamma)
            of_unit = of_scaled.mul_(scale)
            along = (of_unit * unit).sum(dim=2, keepdim=True)
            torch.div(of_unit.sub_(unit.mul_(along)), length, out=of_x[:, start:stop])
        return tuple(g if n else None for g, n in zip((of_x, of_gamma, *of_conv), ctx.needs_input_grad, strict=True))


def _bounds(clips: Tensor) -> list[tuple[int, int]]:
    """First frame of each slab and of the next; only the last may be shorter than PAST."""
    length = max(PAST, SLAB_BYTES // (clips[:, 0].numel() * clips.element_size()))
    num_frames = clips.shape[1]
    return [(start, min(start + length, num_frames)) for start in range(0, num_frames, length)]


def _normalised(frames: Tensor) -> tuple[Tensor, Tensor]:
    """u = x / ||x|| and ||x||, by a sum of squares: torch's norm takes five times as long where channels are strided."""
    length = frames.square().sum(dim=2, keepdim=True).sqrt_().clamp_min_(1e-12)
    return frames / length, length


def _scale(gamma: Tensor) -> Tensor:
    """What u is multiplied by, (C, 1, 1)."""
    return gamma.view(-1, 1, 1) * gamma.numel() ** 0.5


def _activated(frames: Tensor, scale: Tensor) -> Tensor:
    return F.silu(_normalised(frames)[0].mul_(scale), inplace=True)


def _window(past: Tensor, activated: Tensor) -> Tensor:
    """What the convolution of a slab reads, (B, C, PAST + t, H, W): frames before it, zeros where the clip begins, and its own."""
    b, t, *rest = past.shape
    missing = past.new_zeros(b, PAST - t, *rest)
    return torch.cat([part.transpose(1, 2) for part in (missing, past, activated)], dim=2)


def _convolution_backward(of_y: Tensor, x: Tensor, weight: Tensor, wanted: list[bool]) -> tuple[Tensor | None, ...]:
    """Gradients of x, weight and bias of conv3d with padding (0, 1, 1), None where not wanted."""
    one, padding = [1, 1, 1], [0, 1, 1]
    result: tuple[Tensor | None, ...] = torch.ops.aten.convolution_backward(
        of_y, x, weight, [len(weight)], one, padding, one, False, [0, 0, 0], 1, wanted
    )
    return result
