"""Files of tensors: read, write, compare. The only place that opens one.

Read: .safetensors, and torch files (.pth, .pt, .bin) without ever running their pickled objects. Written: .safetensors, or a
torch file where a published format is one (decoder.bin); first beside the target as NAME.partial, then renamed, so that a killed
run never leaves half a file under the real name.
"""

import os
import pickle
import zipfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from wan_alpha import hashing
from wan_alpha.errors import CheckpointError

TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt")
_NAMED = 4  # keys listed in an error; the rest is counted


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a file, on the CPU, by key.

    Raises CheckpointError when the file is missing, truncated, of another kind, or holds anything but tensors.
    """
    path = existing_file(path)
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise unreadable(path, error) from error
    if path.suffix in TORCH_SUFFIXES:
        return _read_torch(path)
    raise CheckpointError(path, got=f"suffix {path.suffix!r}", expected=f".safetensors or {', '.join(TORCH_SUFFIXES)}")


def read_tensor(path: Path, key: str, *, row: int) -> Tensor:
    """One row of one tensor of a safetensors file; nothing else is read. Raises CheckpointError as `read_tensors` does."""
    path = existing_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            return file.get_slice(key)[row]
    except (SafetensorError, OSError, ValueError, IndexError) as error:
        raise unreadable(path, error) from error


def read_many(paths: Sequence[Path]) -> dict[str, Tensor]:
    """The tensors of all shards together. A key in two shards is an error."""
    tensors: dict[str, Tensor] = {}
    for path in paths:
        shard = read_tensors(path)
        if repeated := sorted(tensors.keys() & shard.keys()):
            raise CheckpointError(
                path, got=f"{len(repeated)} keys that an earlier shard has too ({_some(repeated)})", expected="distinct shards"
            )
        tensors.update(shard)
    return tensors


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str]) -> None:
    """Write atomically, in the format that the suffix names; tensors that share memory are copied apart.

    A torch file has no place for metadata: it is left out there. Raises CheckpointError for another suffix and for a full disk, and
    OSError for whatever else the system refuses; then nothing is left behind.
    """
    path = Path(path)
    if path.suffix not in (".safetensors", *TORCH_SUFFIXES):
        raise CheckpointError(path, got=f"suffix {path.suffix!r}", expected=f".safetensors or {', '.join(TORCH_SUFFIXES)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    own = {key: tensor.detach().to("cpu", copy=True).contiguous() for key, tensor in tensors.items()}
    try:
        if path.suffix == ".safetensors":
            save_file(own, partial, metadata={"format": "pt", **metadata})
        else:
            torch.save(own, partial)
        os.replace(partial, path)
    except (RuntimeError, SafetensorError) as error:  # what the two writers make of a full disk
        raise CheckpointError(path, got=str(error).splitlines()[0], expected="to write it", do="make room on the disk") from error
    finally:
        partial.unlink(missing_ok=True)


def read_metadata(path: Path) -> dict[str, str]:
    """The text metadata of a safetensors file; empty for torch files, which have none."""
    path = existing_file(path)
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise unreadable(path, error) from error


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    return hashing.sha256(existing_file(path))


def require_keys(found: Collection[str], expected: Collection[str], *, what: object) -> None:
    """Raise CheckpointError unless both sets of keys are equal; the message counts and names what is missing and extra."""
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if not missing and not extra:
        return
    parts = [f"{len(keys)} {word} ({_some(keys)})" for word, keys in (("missing", missing), ("unexpected", extra)) if keys]
    raise CheckpointError(what, got=f"{len(found)} keys, " + " and ".join(parts), expected=f"exactly {len(expected)} keys")


def require_shapes(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, what: object) -> None:
    """require_keys, and every tensor of the expected shape."""
    require_keys(tensors.keys(), expected.keys(), what=what)
    wrong = [key for key in expected if tensors[key].shape != expected[key].shape]
    if wrong:
        first = wrong[0]
        raise CheckpointError(
            what,
            got=f"{len(wrong)} tensors of other shapes, first {first} {tuple(tensors[first].shape)}",
            expected=str(tuple(expected[first].shape)),
            do="the file belongs to a model of another size",
        )


def existing_file(path: Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(path, got="a folder" if path.is_dir() else "no such file", expected="a file of weights")
    return path


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", mmap=zipfile.is_zipfile(path), weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            path, got="pickled objects, or a damaged file", expected="tensors only", do="convert it to .safetensors where it was made"
        ) from error
    except (RuntimeError, EOFError, OSError, zipfile.BadZipFile, ValueError, KeyError) as error:
        raise unreadable(path, error) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(path, got="objects besides tensors", expected="a flat dictionary of tensors")
    return {str(key): value.detach() for key, value in content.items()}


def unreadable(path: Path, error: Exception) -> CheckpointError:
    """The error to raise for a file that a library failed to read."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return CheckpointError(path, got=f"a file that cannot be read ({reason})", expected="a complete file", do="download or copy it again")


def _some(keys: Sequence[str]) -> str:
    return ", ".join(keys[:_NAMED]) + (", ..." if len(keys) > _NAMED else "")
