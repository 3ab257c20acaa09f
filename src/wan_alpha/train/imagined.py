"""A training step without its numbers: shapes run through the networks' own code, and every tensor's bytes are counted while it lives.

torch's FakeTensorMode gives each operation its output's shape and type and allocates nothing. A transformer's blocks are all alike,
so two of them and then three tell what forty need: a 14B step at full size takes seconds on any machine. Everything lies on an
imagined CPU, whatever the training's device is.
"""

import weakref
from collections.abc import Callable, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wan_alpha.models.quantise import is_4bit, plain_layer

T = TypeVar("T")
SHORTER, LONGER = 2, 3
"""Blocks of the two imagined transformers that stand for a deeper one."""
Inside = Callable[[Any, Sequence[Any]], int]
"""Bytes that an operation takes for itself, given its arguments."""


def nothing_inside(func: Any, args: Sequence[Any]) -> int:
    return 0


class _EmptyCopies(TorchFunctionMode):
    """Under it and a FakeTensorMode, deepcopy gives every tensor's twin of the same shape and type, without contents."""

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None) -> Any:
        if func is Tensor.clone:  # a parameter's deepcopy
            return _twin(args[0])
        if func is Tensor.__deepcopy__:
            tensor, memo = args
            return memo.setdefault(id(tensor), _twin(tensor))
        return func(*args, **(kwargs or {}))


def _twin(tensor: Tensor) -> Tensor:
    """A quantised weight's twin is a plain one of the type that it stands for."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")


def imagined(networks: T) -> T:
    """A copy of modules, or of anything that holds some, whose tensors have no contents; call it under a FakeTensorMode.

    A 4-bit layer's twin is a plain one, since bitsandbytes' products run outside torch's dispatcher: its activations are the same.
    """
    modules = [module for network in modules_of(networks) for module in network.modules()]
    twins: dict[int, Any] = {id(module): plain_layer(module) for module in modules if is_4bit(module)}
    with _EmptyCopies():
        return deepcopy(networks, twins)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of distinct storages that operations make while it is on: those alive now, and the most that ever were.

    inside: what an operation takes for itself and gives back.
    """

    def __init__(self, *, inside: Inside = nothing_inside) -> None:
        super().__init__()
        self.inside = inside
        self.now = self.peak = 0
        self._known: dict[int, weakref.ref] = {}

    def ignore(self, tensors: Sequence[Tensor]) -> None:
        """These were there before: networks and the batch."""
        for tensor in tensors:
            self._enter(tensor.untyped_storage(), size=0)

    def _enter(self, storage: torch.UntypedStorage, *, size: int) -> None:
        key = storage._cdata
        if key in self._known:
            return

        def leave(_: weakref.ref) -> None:
            del self._known[key]
            self.now -= size

        self._known[key] = weakref.ref(storage, leave)
        self.now += size
        self.peak = max(self.peak, self.now)

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self._enter(storage, size=storage.nbytes())
        self.peak = max(self.peak, self.now + self.inside(func, args))
        return result


@dataclass(frozen=True, kw_only=True)
class StepBytes:
    """kept: between the forward and the backward pass. peak: the most alive in both. Weights are not counted, gradients are."""

    kept: int
    peak: int

    def at_depth(self, depth: int, *, shorter: "StepBytes") -> "StepBytes":
        """With `depth` blocks, from this at LONGER and the other at SHORTER: each block adds the same."""
        kept, peak = (long + (long - short) * (depth - LONGER) for long, short in ((self.kept, shorter.kept), (self.peak, shorter.peak)))
        return StepBytes(kept=kept, peak=peak)


def shortened(transformer: WanTransformer3DModel, *, depth: int) -> WanTransformer3DModel:
    """The same transformer with its first blocks only; no weight is copied, and the given one does not change."""
    short = copy(transformer)
    short._modules = {**transformer._modules, "blocks": transformer.blocks[:depth]}
    return short


def step_bytes(networks: Callable[[int], T], *, depth: int, loss: Callable[[T], Tensor], gradients_wait: bool, inside: Inside) -> StepBytes:
    """Of one micro-batch of a step. `networks` of a number of blocks, `depth` of them in truth.

    `loss` makes its own batch, which is counted, and is given the imagined networks. Gradients count where they appear, or from the
    start when they wait from an earlier micro-batch. `inside` is the device's: what its kernels take for themselves.
    """
    if depth <= LONGER:
        return _measured(networks(depth), loss=loss, gradients_wait=gradients_wait, inside=inside)
    short, long = (_measured(networks(blocks), loss=loss, gradients_wait=gradients_wait, inside=inside) for blocks in (SHORTER, LONGER))
    return long.at_depth(depth, shorter=short)


def _measured(networks: T, *, loss: Callable[[T], Tensor], gradients_wait: bool, inside: Inside) -> StepBytes:
    with FakeTensorMode(allow_non_fake_inputs=True):
        twins = imagined(networks)
        tensors = _tensors(twins)
        with LiveBytes(inside=inside) as live:
            live.ignore(tensors)
            if gradients_wait:
                for tensor in tensors:
                    tensor.grad = torch.zeros_like(tensor) if tensor.requires_grad else None
            waiting = live.now
            total = loss(twins)
            kept = live.now - waiting
            total.backward()
    return StepBytes(kept=kept, peak=live.peak)


def modules_of(networks: Any) -> list[nn.Module]:
    """The modules in a module, a tuple or a dataclass, however deep."""
    if isinstance(networks, nn.Module):
        return [networks]
    inner = networks if isinstance(networks, list | tuple) else vars(networks).values() if hasattr(networks, "__dataclass_fields__") else ()
    return [module for value in inner for module in modules_of(value)]


def _tensors(networks: Any) -> list[Tensor]:
    """Every parameter and buffer once."""
    found = {id(t): t for module in modules_of(networks) for t in (*module.parameters(), *module.buffers())}
    return list(found.values())
