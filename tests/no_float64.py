"""Guard against float64, which Apple's mps devices do not have: code that passes under it does not fail there for that reason.

with refuse_float64():
    loss(batch).backward()
"""

import sys
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ALLOWED = (("transformer_wan.py", "WanRotaryPosEmbed"), ("embeddings.py", "get_1d_rotary_pos_embed"))
"""diffusers' rotary table is float64 where mps is absent and float32 where it is present: (file, class or function)."""


class RefuseFloat64(TorchDispatchMode):
    """Raises TypeError at the first operation that reads or makes a float64 tensor, forward or backward."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if _has_float64((args, kwargs, result)) and not _in_rotary_table():
            raise TypeError(f"{func} on float64, which mps devices do not have")
        return result


def refuse_float64() -> RefuseFloat64:
    return RefuseFloat64()


def _has_float64(tree: Any) -> bool:
    return any(isinstance(leaf, Tensor) and leaf.dtype in (torch.float64, torch.complex128) for leaf in tree_leaves(tree))


def _in_rotary_table() -> bool:
    """Is diffusers' rotary table among the callers?"""
    frame = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        if any(code.co_filename.endswith(file) and name in code.co_qualname for file, name in ALLOWED):
            return True
        frame = frame.f_back
    return False
