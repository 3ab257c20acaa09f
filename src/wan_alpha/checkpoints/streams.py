"""Weights too large for memory: read one tensor at a time, written as they come, known by names and shapes alone.

Shapes are tensors on the meta device, so that whatever takes tensors takes them too. A safetensors file is a length (8 bytes,
little-endian), a JSON header with each tensor's type, shape and place, and the bytes (huggingface/safetensors, "Format").
"""

import json
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from wan_alpha.checkpoints.files import existing_file, read_metadata, read_tensors, unreadable
from wan_alpha.errors import CheckpointError

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_TYPES = {name: dtype for dtype, name in _NAMES.items()}


class TensorFiles(Mapping[str, Tensor]):
    """The tensors of one or more files, each read when it is asked for; torch files are mapped into memory.

    `shapes` holds them on the meta device and `metadata` the text of the first file. `rename` gives each key its name here, or
    None to leave it out.
    Raises CheckpointError for a file that is missing or damaged, and for a name in two files.
    """

    def __init__(self, paths: Sequence[Path], *, rename: Callable[[str], str | None] = str) -> None:
        self.paths = list(paths)
        self.metadata = {key: text for key, text in read_metadata(self.paths[0]).items() if key != "format"}
        self.shapes: dict[str, Tensor] = {}
        self._places: dict[str, tuple[Path, str]] = {}
        self._mapped: dict[Path, Mapping[str, Tensor]] = {}
        for path in self.paths:
            for key, shape in self._shapes_of(path).items():
                name = rename(key)
                if name is None:
                    continue
                if name in self.shapes:
                    raise CheckpointError(path, got=f"{key}, which an earlier file has too", expected="each tensor once")
                self.shapes[name], self._places[name] = shape, (path, key)

    def __getitem__(self, name: str) -> Tensor:
        path, key = self._places[name]
        if path in self._mapped:
            return self._mapped[path][key]
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def _shapes_of(self, path: Path) -> dict[str, Tensor]:
        if path.suffix == ".safetensors":
            return read_shapes(path)
        self._mapped[path] = read_tensors(path)
        return {key: tensor.to("meta") for key, tensor in self._mapped[path].items()}


def read_shapes(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file on the meta device: its header, and whether the file is as long as it says."""
    path = existing_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 - it is no mapping
            return {key: torch.empty(found.get_shape(), dtype=_TYPES[found.get_dtype()], device="meta") for key, found in slices.items()}
    except (SafetensorError, OSError) as error:
        raise unreadable(path, error) from error
    except KeyError as error:
        raise CheckpointError(path, got=f"tensors of type {error}", expected=", ".join(_TYPES)) from error


def write_stream(path: Path, tensors: Iterable[tuple[str, Tensor]], *, shapes: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file of `shapes` (names, shapes and types), atomically, while `tensors` gives them in that order.

    One tensor is in memory at a time. Raises CheckpointError for another name, shape or type than announced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        with ExitStack() as stack:
            file = stack.enter_context(partial.open("wb"))
            file.write(_header(shapes, metadata))
            expected = iter(shapes.items())
            for key, tensor in tensors:
                name, shape = next(expected, ("nothing", tensor))
                if (key, tensor.shape, tensor.dtype) != (name, shape.shape, shape.dtype):
                    raise CheckpointError(path, got=f"{key} {tuple(tensor.shape)} {tensor.dtype}", expected=f"{name} {tuple(shape.shape)}")
                file.write(tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy().data)
            if (missing := next(expected, None)) is not None:
                raise CheckpointError(path, got=f"no {missing[0]}", expected=f"{len(shapes)} tensors")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def plan_shards(shapes: Mapping[str, Tensor], *, max_bytes: float) -> list[dict[str, Tensor]]:
    """Names and shapes in order, cut before a shard would exceed max_bytes."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for key, shape in shapes.items():
        if shards[-1] and size + shape.nbytes > max_bytes:
            shards.append({})
            size = 0
        shards[-1][key] = shape
        size += shape.nbytes
    return shards


def _header(shapes: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt", **metadata}}
    start = 0
    for key, shape in shapes.items():
        end = start + shape.nbytes
        entries[key] = {"dtype": _NAMES[shape.dtype], "shape": list(shape.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the bytes after it are aligned
    return struct.pack("<Q", len(text)) + text
